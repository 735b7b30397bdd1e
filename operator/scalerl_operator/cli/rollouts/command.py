"""`scalerl rollouts`: completions of a run, from its folder or from its coordinator's pod. I/O."""

import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

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
    find_place,
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
    return RolloutQuery(
        dataset,
        options.step,
        options.prompt,
        source,
        "wrong" if options.wrong else "right" if options.right else None,
    )


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
    every = load_prompt_rates(stored)
    query = build_query(options)
    _check_source({each.source for each in every}, stored, query)
    rates = [each for each in every if query.source in (None, each.source)][: options.limit]
    if options.format == "text":
        write_out(build_rates_table(rates))
        return
    for each in rates:
        points = [{**asdict(point), "rate": point.rate} for point in each.points]
        line = {
            "prompt_id": each.prompt_id,
            "source": each.source,
            "prompt": each.text,
            "mean": each.mean,
            "points": points,
        }
        write_out(json.dumps(line, ensure_ascii=False) + "\n")


def load_prompt_rates(stored: StoredRollouts) -> list[PromptRates]:
    """Return the pass rates of all prompts. Raises NoParquet, UnreadableRollouts."""
    texts: dict[int, str] = {}

    def read() -> Iterator[RowKey]:
        for name in stored.files:
            keys = read_keys(stored.find(name), name)
            if not {key.prompt_id for key in keys} <= texts.keys():  # a file of an evaluation has all prompts
                texts.update(read_prompts(stored.find(name)))
            yield from keys

    return compute_prompt_rates(read(), texts)


def _show_completions(stored: StoredRollouts, options: RolloutsOptions) -> None:
    query = build_query(options)
    found = [key for name in stored.files for key in read_keys(stored.find(name), name)]
    _check_source({key.source for key in found}, stored, query)
    every = find_place(found, query)
    wanted = choose_rows(every, query)
    if options.format == "json":
        in_order = sorted(wanted[: options.limit], key=lambda key: (key.file.step, key.row))  # read one by one
        for rollout in _read(stored, in_order):
            write_out(json.dumps(asdict(rollout), ensure_ascii=False) + "\n")
        return
    shown = choose_shown(wanted, options.limit or TEXT_LIMIT)
    rollouts = sorted(_read(stored, shown), key=lambda each: (each.step, each.prompt_id, each.sample))
    is_part = query.source is not None and query.prompt is None
    steps = tuple(sorted({key.file.step for key in every} if is_part else {name.step for name in stored.files}))
    view = RolloutView(stored.run, query, steps, count(every), len(wanted), rollouts, options.full)
    console = Console(
        file=sys.stdout,
        no_color=bool(os.environ.get("NO_COLOR")),
        highlight=False,
        width=None if sys.stdout.isatty() else PIPE_WIDTH,
    )
    console.print(build_rollouts(view))


def _check_source(sources: Collection[str], stored: StoredRollouts, query: RolloutQuery) -> None:
    """Raise UsageError if no completion is of the query's source; `sources`: those of the completions."""
    if query.source is None or query.source in sources:
        return
    steps = sorted({name.step for name in stored.files})
    named = ", ".join(sorted(filter(None, sources)))
    words = f"their sources are {named}" if named else "a single source without a name, or stored by an older version"
    where = f"{describe_query(RolloutQuery(query.dataset))}, steps {_list(steps)}"
    raise UsageError(f"--source {query.source}: no completion of {where} is of it; {words}")


def _read(stored: StoredRollouts, keys: Sequence[RowKey]) -> Iterable[Rollout]:
    """Yield the completions file by file; the keys of one file are neighbours."""
    for name, group in groupby(keys, key=lambda key: key.file):
        yield from (rollout for _, rollout in read_rows(stored.find(name), [key.row for key in group]))


def _list(steps: Sequence[int]) -> str:
    if len(steps) <= 12:
        return ", ".join(map(str, steps))
    return f"{', '.join(map(str, steps[:4]))}, ..., {', '.join(map(str, steps[-6:]))}"
