"""Reads the completions that a run's report shows from its folder. I/O."""

import logging
from collections.abc import Sequence
from pathlib import Path

from scalerl_api.rollouts import Rollout, RolloutFileName
from scalerl_api.wire import HELD_OUT
from scalerl_operator.cli.rollouts.command import StoredRollouts, load_prompt_rates
from scalerl_operator.local.rollout_files import (
    NoParquet,
    UnreadableRollouts,
    find_file,
    list_names,
    read_keys,
    read_rows,
)
from scalerl_operator.render.report_data import RolloutReport
from scalerl_operator.run.prompt_rates import PromptRates
from scalerl_operator.run.rollout_selection import RowKey, choose_evenly, choose_extremes

log = logging.getLogger(__name__)

NUM_SHOWN = 4  # best, and worst, completions
NUM_EVALS = 40  # that are read


def load_rollout_report(run: Path) -> RolloutReport:
    """Return what the report of the run in folder `run` shows; empty without readable held-out completions."""
    names = sorted((name for name in list_names(run) if name.dataset == HELD_OUT), key=lambda name: name.step)
    if not names:
        return RolloutReport()
    try:
        return _load(run, choose_evenly(names, NUM_EVALS))
    except (NoParquet, UnreadableRollouts) as error:  # a report without completions is still a report
        log.warning("the report shows no completions: %s", error)
        return RolloutReport()


def _load(run: Path, names: Sequence[RolloutFileName]) -> RolloutReport:
    rates = load_prompt_rates(StoredRollouts(run.name, names, lambda name: find_file(run, name)))
    best, worst = choose_extremes(read_keys(find_file(run, names[-1]), names[-1]), NUM_SHOWN)
    return RolloutReport(
        best=_read(run, best),
        worst=_read(run, worst),
        over_time=_follow(run, choose_evenly(names, 3), rates) if len(names) > 1 else (),
        rates=rates,
    )


def _follow(run: Path, names: Sequence[RolloutFileName], rates: Sequence[PromptRates]) -> list[Rollout]:
    """Return the first completion, at each of the evaluations, of the prompt whose pass rate rose most."""
    steps = {name.step for name in names}
    followed = [each for each in rates if steps <= {point.step for point in each.points}]
    if not followed:
        return []
    chosen = max(followed, key=lambda each: (each.points[-1].rate - each.points[0].rate, -each.prompt_id))
    keys = [
        min((key for key in read_keys(find_file(run, name), name) if key.prompt_id == chosen.prompt_id), key=_sample)
        for name in names
    ]
    return _read(run, keys)


def _sample(key: RowKey) -> int:
    return key.sample


def _read(run: Path, keys: Sequence[RowKey]) -> list[Rollout]:
    return [rollout for key in keys for _, rollout in read_rows(find_file(run, key.file), [key.row])]
