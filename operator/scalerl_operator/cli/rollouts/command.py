"""`scalerl rollouts`: completions of a run, from its folder or from its coordinator's pod. I/O."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from rich.console import Console

from scalerl_api.rollouts import Rollout, RolloutFileName
from scalerl_api.wire import HELD_OUT, is_source_dataset, source_of
from scalerl_operator.cli.exit_codes import EXIT_FAILED, EXIT_FINISHED, CommandError, UsageError
from scalerl_operator.cli.options import RolloutsOptions
from scalerl_operator.cli.output import write_out
from scalerl_operator.local.rollout_files import NoParquet, UnreadableRollouts, read_keys, read_prompts, read_rows
from scalerl_operator.render.rollout_view import RolloutView, build_rates_table, build_rollouts, describe_query
from scalerl_operator.run.prompt_rates import PromptRates, compute_prompt_rates
from scalerl_operator.run.rollout_selection import (
    RolloutQuery,
    RowKey,
    choose_files,
    choose_rows,
    choose_shown,
    count,
    is_searched,
)

TEXT_LIMIT = 8
PIPE_WIDTH = 120  # without a terminal


@dataclass(frozen=True)
class StoredRollouts:
    """Stored completions of one run, in files on this machine."""

    run: str
    files: Sequence[RolloutFileName]
    """Those to read, at least one."""
    find: Callable[[RolloutFileName], Path]


def build_query(options: RolloutsOptions) -> RolloutQuery:
    """Return the query that the options mean. Raises UsageError."""
    if options.prompts and (options.wrong or options.right or options.prompt is not None):
        raise UsageError("--prompts shows all prompts and completions; --prompt, --wrong and --right exclude it")
    dataset, source = options.dataset or (HELD_OUT if options.eval else None), options.source
    if dataset is not None and is_source_dataset(dataset):  # stored in the file of all held-out prompts
        dataset, source = HELD_OUT, source or source_of(dataset)
    grade: Literal["wrong", "right"] | None = "wrong" if options.wrong else "right" if options.right else None
    return RolloutQuery(dataset, options.step, options.prompt, grade, source)


def find_files(names: Iterable[RolloutFileName], options: RolloutsOptions, where: str) -> list[RolloutFileName]:
    """Return the files to read, at least one. Raises UsageError that lists what is stored."""
    query, names = build_query(options), list(names)
    if not names:
        raise UsageError(f"{where} has no stored completions (yet, or spec.rollouts.maxMegabytes is 0)")
    if options.prompts and query.step is None:
        found = sorted((name for name in names if name.dataset == query.dataset), key=lambda name: name.step)
    else:
        found = choose_files(names, query)
    if found:
        return found
    steps = sorted(name.step for name in names if name.dataset == query.dataset)
    sets = sorted({name.dataset for name in names if name.dataset is not None})
    stored = f"steps {_list(steps)}" if steps else f"evaluated sets are {', '.join(sets) or 'none yet'}"
    raise UsageError(f"{where} stores nothing of {describe_query(query)}; {stored}")


def show(stored: StoredRollouts, options: RolloutsOptions) -> int:
    """Write the answer; return the exit code. Raises CommandError."""
    try:
        if options.prompts:
            _show_prompts(stored, options)
        else:
            _show_completions(stored, options)
    except (NoParquet, UnreadableRollouts) as error:
        raise CommandError(str(error), EXIT_FAILED) from error
    return EXIT_FINISHED


def _show_prompts(stored: StoredRollouts, options: RolloutsOptions) -> None:
    rates = load_prompt_rates(stored, build_query(options))[: options.limit]
    if options.format == "text":
        write_out(build_rates_table(rates))
        return
    for each in rates:
        points = [{**asdict(point), "rate": point.rate} for point in each.points]
        line = {"prompt_id": each.prompt_id, "prompt": each.text, "mean": each.mean, "points": points}
        write_out(json.dumps(line, ensure_ascii=False) + "\n")


def load_prompt_rates(stored: StoredRollouts, query: RolloutQuery) -> list[PromptRates]:
    """Return the pass rates of all prompts of the query. Raises NoParquet, UnreadableRollouts, UsageError."""
    texts: dict[int, str] = {}
    sources: set[str] = set()

    def read() -> Iterator[RowKey]:
        for name in stored.files:
            keys = read_keys(stored.find(name), name)
            sources.update(key.source for key in keys)
            keys = [key for key in keys if is_searched(key, query)]
            if not {key.prompt_id for key in keys} <= texts.keys():  # a file of an evaluation has all prompts
                texts.update(read_prompts(stored.find(name)))
            yield from keys

    rates = compute_prompt_rates(read(), texts)
    _check_source(query, sources)
    return rates


def _show_completions(stored: StoredRollouts, options: RolloutsOptions) -> None:
    query = build_query(options)
    found = [key for name in stored.files for key in read_keys(stored.find(name), name)]
    _check_source(query, {key.source for key in found})
    every = [key for key in found if is_searched(key, query)]
    wanted = choose_rows(every, query)
    if options.format == "json":
        in_order = sorted(wanted[: options.limit], key=lambda key: (key.file.step, key.row))  # read one by one
        for rollout in _read(stored, in_order):
            write_out(json.dumps(asdict(rollout), ensure_ascii=False) + "\n")
        return
    shown = choose_shown(wanted, options.limit or TEXT_LIMIT)
    rollouts = sorted(_read(stored, shown), key=lambda each: (each.step, each.prompt_id, each.sample))
    steps = tuple(name.step for name in stored.files)
    view = RolloutView(stored.run, query, steps, count(every), len(wanted), rollouts, options.full)
    console = Console(
        file=sys.stdout,
        no_color=bool(os.environ.get("NO_COLOR")),
        highlight=False,
        width=None if sys.stdout.isatty() else PIPE_WIDTH,
    )
    console.print(build_rollouts(view))


def _check_source(query: RolloutQuery, sources: Set[str]) -> None:
    """Raise UsageError for a source that none of the read completions has."""
    if query.source is not None and query.source not in sources:
        names = ", ".join(sorted(sources - {""}))
        allowed = f"one of {names}" if names else "none: these completions have a single source"
        raise UsageError(f"--source is {query.source!r}; allowed is {allowed}")


def _read(stored: StoredRollouts, keys: Sequence[RowKey]) -> Iterable[Rollout]:
    """Yield the completions file by file; the keys of one file are neighbours."""
    for name, group in groupby(keys, key=lambda key: key.file):
        yield from (rollout for _, rollout in read_rows(stored.find(name), [key.row for key in group]))


def _list(steps: Sequence[int]) -> str:
    if len(steps) <= 12:
        return ", ".join(map(str, steps))
    return f"{', '.join(map(str, steps[:4]))}, ..., {', '.join(map(str, steps[-6:]))}"
