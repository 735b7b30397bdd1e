"""Reads a data set into prompts and records every bad row. I/O."""

import difflib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

from scalerl_api.data import DatasetSpec
from scalerl_api.recipe import Recipe
from scalerl_api.rlrun import RLRun
from scalerl_api.validation import Fault, InvalidRun
from scalerl_runtime.data.prompts import (
    GeneratedRecord,
    Row,
    Tokenizer,
    build_entry_answer,
    parse_row,
    render_rows,
)
from scalerl_runtime.hub import CONTENT_ERRORS, first_line, is_path_like, is_transient
from scalerl_runtime.types import Prompt

GENERATED = "reasoning_gym:"
NUM_NAMED = 10  # bad rows in an error; more would hide its message
PARQUET_ROWS = 1024  # read at once
FILE_TYPES = (".jsonl", ".parquet")
OTHER_TYPES = (".json", ".csv", ".tsv", ".txt", ".gz", ".zst", ".zip", ".arrow", ".xlsx", ".yaml")  # no hub ids either
# Exceptions that the content of a data set, or code that reads it, can raise.
READING_ERRORS = (*CONTENT_ERRORS, RuntimeError)

# The place of a record, and the record or the fault that prevented reading it.
Record = tuple[str, object | Fault]


class DataUnavailable(RuntimeError):
    """A data set could not be fetched; the spec may be right, so a later start may succeed."""


def load_prompts(
    run: RLRun, recipe: Recipe, tokenizer: Tokenizer, source: tuple[str, DatasetSpec, int | None], seed: int
) -> tuple[list[Prompt], list[Fault]]:
    """Return the prompts and the bad rows of one `source`: its path in the spec, its spec, the model's `vocab_size`."""
    path, spec, vocab_size = source
    if spec.source.startswith(GENERATED):
        records: Iterable[Record] = generate_records(
            spec, path, seed, whole="reasoning_gym" in [each.verifier for each in run.spec.judges_of(spec)]
        )
    else:
        records = read_records(spec, path)
    rows, faults = parse_records(records, spec)
    num_read = len(rows) + len(faults)
    limits, tags = recipe.length.prompt_tokens, recipe.length.think_tags
    prompts, refused = render_rows(rows, run.spec.data, tokenizer, max_tokens=limits, tags=tags, vocab_size=vocab_size)
    faults += refused
    check_bad_share(faults, num_read, path=path, source=spec.source, max_share=run.spec.data.max_bad_share)
    return [replace(prompt, source=spec.label) for prompt in prompts], faults


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
    with reading(spec, path):
        yield from islice(_open_source(spec, path), spec.num_wanted)


def _open_source(spec: DatasetSpec, path: str) -> Iterator[Record]:
    file = Path(spec.source).expanduser()
    suffix = file.suffix.lower()
    if suffix in FILE_TYPES and not file.is_dir():
        if not file.is_file():
            raise InvalidRun([Fault(f"{path}.source", spec.source, "a file that exists")])
        return _read_jsonl(file) if suffix == ".jsonl" else _read_parquet(file)
    if file.is_dir():
        raise InvalidRun([Fault(f"{path}.source", spec.source, "a .jsonl or .parquet file, not a folder")])
    if is_path_like(spec.source) or file.exists() or suffix in OTHER_TYPES:
        missing = "" if file.exists() else "; this one does not exist"
        raise InvalidRun([Fault(f"{path}.source", spec.source, f"a .jsonl or .parquet file, or a hub id{missing}")])
    return _fetch_hub(spec)


@contextmanager
def reading(spec: DatasetSpec, path: str) -> Iterator[None]:
    """Raise InvalidRun for what the content of a source causes in the block, DataUnavailable for an outage.

    Errors of memory and processes pass.
    """
    import pyarrow as arrow  # imported here because it is slow
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    http_error: type[BaseException] = HfHubHTTPError.__bases__[0]  # of the hub's HTTP library
    try:
        yield
    except (InvalidRun, DataUnavailable):
        raise
    except (*READING_ERRORS, DatasetsError, arrow.ArrowException, http_error) as error:
        if is_transient(error):
            raise DataUnavailable(_name_outage(spec, path, error)) from error
        kind = Path(spec.source).suffix.lower().removeprefix(".")
        allowed = f"a {kind} file that can be read"
        if f".{kind}" not in FILE_TYPES:
            allowed = f"a hub data set with split {spec.split!r}, a .jsonl or a .parquet file"
        words = f"{type(error).__name__}: {first_line(error)}"
        raise InvalidRun([Fault(f"{path}.source", spec.source, f"{allowed} ({words})")]) from error


def _name_outage(spec: DatasetSpec, path: str, error: BaseException) -> str:
    if Path(spec.source).suffix.lower() in FILE_TYPES:
        return f"{path}.source: {spec.source} cannot be read now ({first_line(error)})"
    return (
        f"{path}.source: {spec.source}, the hub does not answer ({first_line(error)}); "
        "a local .jsonl or .parquet file needs no network"
    )


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


def _read_parquet(file: Path) -> Iterator[Record]:
    import pyarrow.parquet as parquet  # few runs read parquet

    with parquet.ParquetFile(file) as table:
        number = 0
        for batch in table.iter_batches(batch_size=PARQUET_ROWS):
            for record in batch.to_pylist():
                number += 1
                yield f"{file}:{number}", record


def _fetch_hub(spec: DatasetSpec) -> Iterator[Record]:
    from datasets import load_dataset  # slow to import, and most runs read files

    for number, record in enumerate(load_dataset(spec.source, split=spec.split), start=1):
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
        table = reasoning_gym.create_dataset(task, seed=seed, size=spec.num_wanted, **spec.task)
    except READING_ERRORS as error:  # its options are checked in these ways
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
