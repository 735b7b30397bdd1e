"""Reads the data sets of a run into prompts and records every bad row. I/O."""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path

import numpy as np

from scalerl_api.recipe import Recipe
from scalerl_api.rlrun import DatasetSpec, RLRun
from scalerl_api.validation import Fault, InvalidRun
from scalerl_runtime.data.prompts import (
    GeneratedRecord,
    Row,
    Tokenizer,
    build_entry_answer,
    parse_row,
    render_rows,
    split_prompts,
)
from scalerl_runtime.types import Prompt

GENERATED = "reasoning_gym:"
NUM_NAMED = 10  # bad rows in an error; more would hide its message
PARQUET_ROWS = 1024  # read at once

# The place of a record, and the record or the fault that prevented reading it.
Record = tuple[str, object | Fault]


class DataUnavailable(RuntimeError):
    """A data set could not be fetched; the spec may be right, so a later start may succeed."""


@dataclass(frozen=True)
class Data:
    """Every prompt of a run."""

    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]  # texts are unique and not in `train`
    downstream: Mapping[str, tuple[Prompt, ...]]  # by name; no prompt is in `train`
    bad_rows: tuple[Fault, ...]  # skipped; at most `maxBadShare` of each source
    num_removed: int  # training rows with the text of a held-out or downstream prompt


def load_data(run: RLRun, recipe: Recipe, tokenizer: Tokenizer, seed: int) -> Data:
    """Read every source of the run. The same seed gives the same prompts, ids and split.

    Raises InvalidRun with a fault per cause, DataUnavailable if the hub does not respond.
    """
    spec = run.spec.data
    if spec.prompt_format == "chat" and tokenizer.chat_template is None:
        raise InvalidRun([Fault("spec.data.promptFormat", "chat", "the tokenizer has no chat template; use plain")])
    sources: list[tuple[str, DatasetSpec]] = [("spec.data.train", spec.train)]
    sources += [(f"spec.data.downstream[{index}]", each) for index, each in enumerate(spec.downstream)]
    loaded, bad_rows = [], []
    for number, (path, source) in enumerate(sources):
        prompts, bad = _load_prompts(run, recipe, tokenizer, (path, source), _derive_seed(seed, number))
        loaded.append(prompts)
        bad_rows += bad
    downstream = {each.name: tuple(prompts) for each, prompts in zip(spec.downstream, loaded[1:], strict=True)}
    split = split_prompts(
        loaded[0],
        num_held_out=spec.held_out.prompts,
        never_train=frozenset(prompt.text for prompts in downstream.values() for prompt in prompts),
        rng=np.random.default_rng(_derive_seed(seed, len(sources))),
    )
    _check_split(run, len(split.held_out), len(split.train))
    return Data(split.train, split.held_out, downstream, tuple(bad_rows), split.num_removed)


def _derive_seed(seed: int, number: int) -> int:
    """Return an unrelated seed for each number: reasoning_gym's row i of seed s is its row i - 1 of seed s + 1."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _check_split(run: RLRun, num_held_out: int, num_train: int) -> None:
    wanted = run.spec.data.held_out.prompts
    if num_held_out < wanted:
        allowed = f"less than the {num_held_out} different prompts of {run.spec.data.train.source}"
    elif num_train == 0:
        allowed = f"fewer: no prompt of {run.spec.data.train.source} is left to train on"
    else:
        return
    raise InvalidRun([Fault("spec.data.heldOut.prompts", str(wanted), allowed)])


def _load_prompts(
    run: RLRun, recipe: Recipe, tokenizer: Tokenizer, source: tuple[str, DatasetSpec], seed: int
) -> tuple[list[Prompt], list[Fault]]:
    """Return the prompts and the bad rows of one `source`: its path in the spec, and its spec."""
    path, spec = source
    if spec.source.startswith(GENERATED):
        records: Iterable[Record] = generate_records(
            spec, path, seed, whole=run.spec.reward.verifier == "reasoning_gym"
        )
    else:
        records = read_records(spec, path)
    rows, faults = parse_records(records, spec)
    num_read = len(rows) + len(faults)
    prompts, too_long = render_rows(rows, run.spec.data, tokenizer, max_tokens=recipe.length.prompt_tokens)
    faults += too_long
    check_bad_share(faults, num_read, path=path, source=spec.source, max_share=run.spec.data.max_bad_share)
    return prompts, faults


def parse_records(records: Iterable[Record], spec: DatasetSpec) -> tuple[list[Row], list[Fault]]:
    """Return the well-formed rows and the faults of the other records."""
    rows: list[Row] = []
    faults: list[Fault] = []
    for index, (where, record) in enumerate(records):
        row = record if isinstance(record, Fault) else parse_row(record, spec, index=index, where=where)
        if isinstance(row, Fault):
            faults.append(row)
        else:
            rows.append(row)
    return rows, faults


def check_bad_share(faults: Sequence[Fault], num_read: int, *, path: str, source: str, max_share: float) -> None:
    """Raise InvalidRun if more than `max_share` of the rows is bad, or if no row is good."""
    if num_read == 0:
        raise InvalidRun([Fault(f"{path}.source", source, "at least one row")])
    share = len(faults) / num_read
    if share <= max_share and len(faults) < num_read:
        return
    summary = f"{len(faults)} of {num_read} rows of {source} are bad ({share:.4g})"
    allowed = f"a share of at most {max_share:g}, and one good row; the first bad ones follow"
    raise InvalidRun([Fault("spec.data.maxBadShare", summary, allowed), *faults[:NUM_NAMED]])


def read_records(spec: DatasetSpec, path: str) -> Iterator[Record]:
    """Yield the first `size` records of a file or hub data set. Raises InvalidRun, DataUnavailable."""
    suffix = Path(spec.source).suffix
    if suffix not in (".jsonl", ".parquet"):
        return islice(_fetch_hub(spec, path), spec.size)
    if not Path(spec.source).is_file():
        raise InvalidRun([Fault(f"{path}.source", spec.source, "a file that exists")])
    read = _read_jsonl(Path(spec.source)) if suffix == ".jsonl" else _read_parquet(Path(spec.source), path)
    return islice(read, spec.size)


def _read_jsonl(file: Path) -> Iterator[Record]:
    with file.open("rb") as lines:  # bytes: a line in a wrong encoding is then one bad row
        for number, line in enumerate(lines, start=1):
            where = f"{file}:{number}"
            if not line.strip():
                continue
            try:
                yield where, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield where, Fault(where, f"not JSON ({error})", "one JSON object a line")


def _read_parquet(file: Path, path: str) -> Iterator[Record]:
    import pyarrow as arrow  # type: ignore[import-untyped]  # has no stubs; imported here because few runs read parquet
    import pyarrow.parquet as parquet  # type: ignore[import-untyped]  # the same

    try:
        with parquet.ParquetFile(file) as table:
            number = 0
            for batch in table.iter_batches(batch_size=PARQUET_ROWS):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{file}:{number}", record
    except arrow.ArrowException as error:
        raise InvalidRun([Fault(f"{path}.source", str(file), f"a parquet file that can be read ({error})")]) from error


def _fetch_hub(spec: DatasetSpec, path: str) -> Iterator[Record]:
    from datasets import load_dataset  # slow to import, and most runs read files

    try:
        table = load_dataset(spec.source, split=spec.split)
    except ConnectionError as error:
        raise DataUnavailable(
            f"{path}.source: {spec.source}, the hub does not answer ({error}); "
            "a local .jsonl or .parquet file needs no network"
        ) from error
    except (FileNotFoundError, ValueError) as error:  # no such data set; no such split or configuration
        allowed = f"a hub data set with split {spec.split!r}, a .jsonl or a .parquet file ({error})"
        raise InvalidRun([Fault(f"{path}.source", spec.source, allowed)]) from error
    for number, record in enumerate(table, start=1):
        yield f"{spec.source}:{number}", record


def generate_records(spec: DatasetSpec, path: str, seed: int, *, whole: bool) -> Iterator[Record]:
    """Yield `size` generated records; `prompt` is an alias of the task's `question`.

    Args:
        spec, path: the source and its path in the run's spec.
        seed: of the generator.
        whole: store the whole record in the answer, which the verifier `reasoning_gym` needs.

    Raises InvalidRun for an unknown task, an unknown option or a refused value.
    """
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    task = spec.source.removeprefix(GENERATED)
    if task not in DATASETS:
        near = ", ".join(difflib.get_close_matches(task, DATASETS, n=3) or sorted(DATASETS))
        raise InvalidRun([Fault(f"{path}.source", spec.source, f"a task of reasoning_gym, such as {near}")])
    options = sorted({field.name for field in fields(DATASETS[task][1])} - {"seed", "size"})
    unknown = sorted(set(spec.task) - set(options))
    if unknown:
        allowed = f"options of {task} are {', '.join(options)}"
        raise InvalidRun([Fault(f"{path}.task.{name}", repr(spec.task[name]), allowed) for name in unknown])
    try:
        table = reasoning_gym.create_dataset(task, seed=seed, size=spec.size, **spec.task)
    except (AssertionError, TypeError, ValueError) as error:  # its options are checked in these ways
        raise InvalidRun([Fault(f"{path}.task", repr(spec.task), f"{task} refuses it: {error}")]) from error
    return _name_generated(spec, path, table, whole=whole)


def _name_generated(
    spec: DatasetSpec, path: str, table: Iterable[dict[str, object]], *, whole: bool
) -> Iterator[Record]:
    task = spec.source.removeprefix(GENERATED)
    for number, record in enumerate(table, start=1):
        named = {"prompt": record["question"], **record}
        if whole:
            try:
                named[spec.answer_field] = build_entry_answer(GeneratedRecord(task, spec.task, record))
            except ValueError as error:
                raise InvalidRun(
                    [Fault(f"{path}.source", spec.source, f"a task that can be scored: {error}")]
                ) from error
        yield f"{spec.source}:{number}", named
