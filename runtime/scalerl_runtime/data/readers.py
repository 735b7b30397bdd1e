"""Reads the records of files: JSON, lines of JSON, tables of text, Parquet. I/O."""

import csv
import gzip
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, cast

from scalerl_api.validation import Fault
from scalerl_runtime.data.file_lists import DataFile, SourceFault

PARQUET_ROWS = 1024  # read at once
# Files up to this size are read to their end to count the rows that `size` leaves out.
MAX_COUNT_BYTES = 256_000_000
MAX_CELL = 2**31 - 1  # characters; the default of 131,072 is less than a prompt may have
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

# The place of a record, and the record or the fault that prevented reading it.
Record = tuple[str, object | Fault]


@dataclass(frozen=True)
class RecordTable:
    """The records of a source, as they come."""

    records: Iterator[Record]
    num_rows: int | None  # None: known at the end only
    is_small: bool  # so that reading to the end, to count, takes seconds


def read_files(files: Sequence[DataFile]) -> RecordTable:
    """Return the records of the files, one after another. Errors of reading come while they are iterated."""
    records = itertools.chain.from_iterable(READERS[file.kind](file) for file in files)
    num_rows = sum(map(_count_parquet, files)) if files[0].kind == ".parquet" else None
    scale = 5 if files[0].is_zipped else 1  # text is about so much smaller when zipped
    return RecordTable(records, num_rows, sum(file.path.stat().st_size for file in files) * scale <= MAX_COUNT_BYTES)


def take(table: RecordTable, size: int | None) -> Iterator[Record]:
    """Yield the first `size` records; None: all."""
    return itertools.islice(table.records, size)


def describe_cut(table: RecordTable, size: int | None, num_read: int) -> str | None:
    """Return the words on the rows that `size` left out; None if there are none. Reads on to count them."""
    if size is None or num_read < size:
        return None
    if table.num_rows is not None:
        num_left = table.num_rows - num_read
    elif table.is_small:
        num_left = sum(1 for _ in table.records)
    elif next(table.records, None) is not None:
        return f"read the first {num_read:,} rows; more rows follow"
    else:
        return None
    return f"read the first {num_read:,} of {num_read + num_left:,} rows" if num_left > 0 else None


@contextmanager
def _open(file: DataFile) -> Iterator[IO[bytes]]:
    with file.path.open("rb") as opened:
        if not file.is_zipped:
            yield opened
            return
        with gzip.GzipFile(fileobj=opened) as unzipped:
            yield cast(IO[bytes], unzipped)


def _read_jsonl(file: DataFile) -> Iterator[Record]:
    with _open(file) as lines:  # bytes: a line in a wrong encoding is then one bad row
        yield from _parse_lines(lines, file.label)


def _parse_lines(lines: Iterator[bytes] | IO[bytes], name: str) -> Iterator[Record]:
    for number, line in enumerate(lines, start=1):
        where = f"{name}:{number}"
        if not line.strip():
            continue
        try:
            yield where, json.loads(line)
        except (ValueError, RecursionError) as error:
            yield where, Fault(where, f"not JSON ({error})", "one JSON object a line")


def _read_json(file: DataFile) -> Iterator[Record]:
    """A list of objects, an object with one such list inside, or an object a line."""
    with _open(file) as opened:
        content = opened.read()
    try:
        value = json.loads(content)
    except ValueError as error:
        lines = content.splitlines()
        if not content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") or len(lines) < 2:
            raise SourceFault(f"a .json file: {file.path.name} is not JSON ({error})") from error
        yield from _parse_lines(iter(lines), file.label)
        return
    for number, record in enumerate(_find_list(value, file.path.name), start=1):
        yield f"{file.label}:[{number - 1}]", record


def _find_list(value: object, name: str) -> Sequence[object]:
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        raise SourceFault(f"a list of objects; {name} holds a {type(value).__name__}")
    lists = {key: each for key, each in value.items() if isinstance(each, list) and each and isinstance(each[0], dict)}
    if len(lists) == 1:
        return next(iter(lists.values()))
    if lists:
        raise SourceFault(f"one list of objects; {name} has {len(lists)}: {', '.join(map(str, lists))}")
    if value and not any(isinstance(each, list | dict) for each in value.values()):
        return [value]  # a file with a single row
    raise SourceFault(f"a list of objects, or an object with one such list; {name} has {', '.join(map(str, value))}")


def _read_csv(file: DataFile) -> Iterator[Record]:
    delimiter = "\t" if file.kind == ".tsv" else ","
    csv.field_size_limit(MAX_CELL)
    with _open(file) as opened, _decode(opened) as lines:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header = _check_header(next(reader, []), file.path.name, delimiter)
        while True:
            start = reader.line_num + 1
            where = f"{file.label}:{start}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "end of data" in str(error):
                    raise SourceFault(
                        f"closed quotes; one in {file.path.name}, line {start}, is never closed"
                    ) from error
                yield where, Fault(where, f"not a row ({error})", "quotes around a whole cell, doubled inside")
                continue
            if cells:
                yield where, _build_record(cells, header, where)


def _build_record(cells: list[str], header: list[str], where: str) -> object | Fault:
    if len(cells) != len(header):
        return Fault(where, f"{len(cells)} cells", f"as many as the header, {len(header)}")
    if any("\udc80" <= letter <= "\udcff" for cell in cells for letter in cell):
        return Fault(where, "bytes that are not UTF-8", "text in UTF-8")
    return dict(zip(header, cells, strict=True))


def _check_header(header: list[str], name: str, delimiter: str) -> list[str]:
    for other in (";", "\t", "|", ","):
        if len(header) == 1 and other != delimiter and other in header[0]:
            raise SourceFault(f"columns separated by {delimiter!r}; those of {name} are by {other!r}")
    twice = sorted({column for column in header if column and header.count(column) > 1})
    if twice:
        raise SourceFault(f"every column once; {name} has {', '.join(twice)} more than once")
    return header


def _decode(opened: IO[bytes]) -> io.TextIOWrapper:
    """Return the text; bytes that are not UTF-8 become lone surrogates, so that they spoil their row alone."""
    head = opened.read(2)
    opened.seek(0)
    encoding = "utf-16" if head in UTF16_MARKS else "utf-8-sig"
    errors = "strict" if encoding == "utf-16" else "surrogateescape"
    return io.TextIOWrapper(opened, encoding=encoding, errors=errors, newline="")


def _read_parquet(file: DataFile) -> Iterator[Record]:
    import pyarrow.parquet as parquet  # few runs read parquet

    with parquet.ParquetFile(file.path) as table:
        number = 0
        for batch in table.iter_batches(batch_size=PARQUET_ROWS):
            for record in batch.to_pylist():
                number += 1
                yield f"{file.label}:{number}", record


def _count_parquet(file: DataFile) -> int:
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(file.path) as table:
        return int(table.metadata.num_rows)


READERS = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
