"""Reads a data set into prompts and records every bad row. I/O."""

import itertools
import logging
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from scalerl_api.addresses import is_address, show_address
from scalerl_api.data import DatasetSpec
from scalerl_api.recipe import Recipe
from scalerl_api.rlrun import RLRun
from scalerl_api.validation import Fault, InvalidRun
from scalerl_runtime.data.choices.answers import find_first_option
from scalerl_runtime.data.columns import describe_columns, find_field, find_missing, show, simplify
from scalerl_runtime.data.fetched_files import find_source_files, is_on_hub
from scalerl_runtime.data.file_lists import SourceFault, find_files
from scalerl_runtime.data.generated import READING_ERRORS, generate_records
from scalerl_runtime.data.hub_datasets import fetch_hub, find_name_fault
from scalerl_runtime.data.prompts import Tokenizer, render_rows
from scalerl_runtime.data.readers import Record, RecordTable, describe_cut, read_files, take
from scalerl_runtime.data.rows import (
    BuildAnswer,
    BuildReference,
    Row,
    bind_verifiers,
    is_selected,
    parse_row,
    spell_reference,
)
from scalerl_runtime.hub import first_line, is_transient
from scalerl_runtime.remote.faults import RemoteUnavailable
from scalerl_runtime.types import Prompt

log = logging.getLogger(__name__)

NUM_NAMED = 10  # bad rows in an error; more would hide its message
SAME_LETTERS = 20  # rows; two options in random order would have one letter with a chance of one in half a million
CHUNK_ROWS = 4096  # parsed and tokenized at once; of their records nothing but the prompts is kept


class DataUnavailable(RuntimeError):
    """A data set could not be fetched; the spec may be right, so a later start may succeed."""


@dataclass(frozen=True)
class LoadingContext:
    """Run, tokenizer and verifiers that every source is read for."""

    run: RLRun
    recipe: Recipe
    tokenizer: Tokenizer
    vocab_size: int | None = None  # rows of the model's embedding; None: unknown
    build_reference: BuildReference = field(default=spell_reference)


@dataclass(frozen=True)
class LoadedSource:
    """The prompts and the bad rows of one source."""

    prompts: Sequence[Prompt]
    bad_rows: Sequence[Fault]
    num_read: int  # rows, bad ones included
    cut: str  # words on the rows that `size` left out; empty: there are none


def load_prompts(context: LoadingContext, path: str, spec: DatasetSpec, seed: int) -> LoadedSource:
    """Return the prompts and the bad rows of one source; `path` is its place in the run's spec.

    Raises InvalidRun, DataUnavailable.
    """
    data, length = context.run.spec.data, context.recipe.length
    verifiers = [each.verifier for each in context.run.spec.judges_of(spec)]
    cuts: list[str] = []
    if spec.is_generated:
        records: Iterator[Record] = generate_records(spec, path, seed, whole="reasoning_gym" in verifiers)
    else:
        records = read_records(spec, path, cuts.append)
    build_answer = bind_verifiers(context.build_reference, verifiers)
    prompts: list[Prompt] = []
    faults: list[Fault] = []
    letters: Counter[str] = Counter()
    num_read = 0
    while chunk := list(itertools.islice(records, CHUNK_ROWS)):
        spec = _number_options(chunk, spec, path) if num_read == 0 else spec
        rows, bad = parse_records(chunk, spec, build_answer, first=num_read)
        letters.update(row.letter for row in rows)
        if not rows:
            check_columns(chunk, spec, path)
        made, refused = render_rows(
            rows,
            data,
            context.tokenizer,
            max_tokens=length.prompt_tokens,
            tags=length.think_tags,
            vocab_size=context.vocab_size,
            system_prompt=spec.system_prompt,
        )
        num_read += len(chunk)
        prompts += [replace(prompt, source=spec.label) for prompt in made]
        faults += [*bad, *refused]
    check_bad_share(faults, num_read, path=path, source=spec.source, max_share=data.max_bad_share)
    _check_letters(letters, spec, path)
    log.info("%s: %s: %d rows are read, %d of them are bad", path, spec.source, num_read, len(faults))
    return LoadedSource(prompts, faults, num_read, "".join(cuts))


def _number_options(chunk: Sequence[Record], spec: DatasetSpec, path: str) -> DatasetSpec:
    """Return the spec with the number of the first option, which the first rows show unless it is set."""
    if spec.options_field is None or spec.first_option is not None:
        return spec
    found = find_first_option((record for _, record in chunk), spec)
    if found is None:
        return spec
    log.info("%s.answerField: answers are positions of options, which count from %d", path, found)
    return spec.model_copy(update={"first_option": found})


def _check_letters(letters: Counter[str], spec: DatasetSpec, path: str) -> None:
    """Raise InvalidRun if the right option has one letter in each of many rows: a constant answer would be right."""
    ((letter, count), *others) = letters.most_common() or [("", 0)]
    if letter and not others and count >= SAME_LETTERS:
        allowed = f"true: {letter} is right in each of {count} rows"
        raise InvalidRun([Fault(f"{path}.shuffleOptions", str(spec.shuffle_options or "unset").lower(), allowed)])


def parse_records(
    records: Iterable[Record], spec: DatasetSpec, build_answer: BuildAnswer, *, first: int = 0
) -> tuple[list[Row], list[Fault]]:
    """Return the well-formed rows and the faults of the other records; `first` is the index of the first record."""
    rows: list[Row] = []
    faults: list[Fault] = []
    for index, (where, record) in enumerate(records, start=first):
        row = record if isinstance(record, Fault) else parse_row(record, spec, build_answer, index=index, where=where)
        if isinstance(row, Fault):
            faults.append(row)
        else:
            rows.append(row)
    return rows, faults


def check_columns(records: Iterable[Record], spec: DatasetSpec, path: str) -> None:
    """Raise InvalidRun, once for each, for the columns that none of the records has."""
    known = [record for _, record in records if isinstance(record, Mapping)]
    faults = []
    for name, value in spec.column_fields:
        missing = find_missing(known, value)
        if missing is not None:
            faults.append(Fault(f"{path}.{name}", missing, describe_columns(known, missing)))
    if faults:
        raise InvalidRun(faults)


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


def read_records(spec: DatasetSpec, path: str, on_cut: Callable[[str], None] = lambda _: None) -> Iterator[Record]:
    """Yield the first `size` records of files or of a hub data set; a cut is logged, and `on_cut` gets its words.

    Raises InvalidRun, DataUnavailable.
    """
    with reading(spec, path):
        table = _open_source(spec, path)
        if spec.where:
            table = replace(table, records=_select(table, spec, path), num_rows=None)
        num_read = 0
        for record in take(table, spec.num_wanted):
            num_read += 1
            yield record
        cut = describe_cut(table, spec.num_wanted, num_read)
        if cut is not None:
            log.info("%s.size: %s: %s", path, spec.source, cut)
            on_cut(cut)


def _select(table: RecordTable, spec: DatasetSpec, path: str) -> Iterator[Record]:
    """Yield the records that `where` takes, and those that are bad. Raises InvalidRun if it takes none."""
    num_taken, num_left = 0, 0
    values: dict[str, dict[str, None]] = {name: {} for name in spec.where}
    for where, record in table.records:
        if is_selected(record, spec):
            num_taken += 1
            yield where, record
            continue
        num_left += 1
        for name, found in values.items():
            if len(found) < NUM_NAMED and isinstance(record, Mapping):
                found[show(simplify(find_field(record, name)))] = None
    if num_taken == 0 and num_left:
        raise InvalidRun(
            [
                Fault(f"{path}.where.{name}", str(spec.where[name]), f"a value of this column: {', '.join(found)}")
                for name, found in values.items()
            ]
        )
    log.info("%s.where: %d rows are taken, %d are left out", path, num_taken, num_left)


def _open_source(spec: DatasetSpec, path: str) -> RecordTable:
    files = find_source_files(spec.source)
    if files is None:
        return fetch_hub(spec)
    hub_only = "none: only a data set of the hub has it"
    if spec.config is not None:
        raise InvalidRun([Fault(f"{path}.config", spec.config, hub_only)])
    if spec.split != DatasetSpec.model_fields["split"].default:
        raise InvalidRun([Fault(f"{path}.split", spec.split, f"{hub_only}; name the file of the split")])
    return read_files(files)


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
    except SourceFault as error:
        raise InvalidRun([Fault(f"{path}.source", show_address(spec.source), str(error))]) from error
    except RemoteUnavailable as error:
        raise DataUnavailable(f"{path}.source: {spec.source}: {error}") from error
    except (*READING_ERRORS, EOFError, zlib.error, DatasetsError, arrow.ArrowException, http_error) as error:
        is_local = _is_local(spec)
        if is_transient(error):
            raise DataUnavailable(_describe_outage(spec, path, error, is_local=is_local)) from error
        fault = None if is_local else find_name_fault(spec, path, error)
        words = f"{type(error).__name__}: {first_line(error)}"
        kind = "a file that can be read" if is_local else f"a hub data set with split {spec.split!r}, or a file"
        raise InvalidRun([fault or Fault(f"{path}.source", spec.source, f"{kind} ({words})")]) from error


def _is_local(spec: DatasetSpec) -> bool:
    """Whether it is read from files, here or of a bucket, and not by the hub's library."""
    if is_address(spec.source):
        return not is_on_hub(spec.source)
    try:
        return find_files(spec.source) is not None
    except (SourceFault, OSError):
        return True


def _describe_outage(spec: DatasetSpec, path: str, error: BaseException, *, is_local: bool) -> str:
    if is_local:
        return f"{path}.source: {spec.source} cannot be read now ({first_line(error)})"
    return f"{path}.source: {spec.source}, the hub does not answer ({first_line(error)}); a local file needs no network"
