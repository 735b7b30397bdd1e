"""Parses learning curves from CSV: columns by name; a bad cell is refused with its line and column. PURE."""

import csv
import math
from collections.abc import Sequence

from scalerl_operator.cli.options import Columns
from scalerl_operator.forecast import (
    FitError,
    Points,
    binomial_standard_error,
    points,
)

Row = tuple[float, ...]


def parse_curve(text: str, columns: Columns, name: str) -> Points:
    """Return the curve in CSV `text` with a header. Raises FitError with `name`, line and column.

    Rows without a value of x or y are skipped: metrics files have evaluations in some rows only. Rows are sorted by x.
    """
    wanted = [column for column in (columns.x, columns.y, columns.error) if column is not None]
    rows = _rows(text, wanted, name)
    for line, row in rows:
        _check_row(row, columns, f"{name}: line {line}")
    table = _sorted_columns(rows, wanted, name)
    errors = table[2] if columns.error else None
    if columns.completions is not None:
        errors = tuple(binomial_standard_error(rate, columns.completions) for rate in table[1])
    return points(table[0], table[1], errors, unit=columns.x)


def parse_entropy(text: str, columns: Columns, name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Return compute and the entropy in column `columns.y`; otherwise as `parse_curve`."""
    rows = _rows(text, [columns.x, columns.y], name)
    for line, (compute, entropy) in rows:
        _check_compute(compute, columns, f"{name}: line {line}")
        if entropy < 0.0:
            raise FitError(f"{name}: line {line}, column {columns.y}: {entropy:g}; an entropy is at least 0")
    table = _sorted_columns(rows, [columns.x, columns.y], name)
    return table[0], table[1]


def _rows(text: str, wanted: Sequence[str], name: str) -> list[tuple[int, Row]]:
    """Return (line of the file, values) of the rows with a value in the first two columns."""
    lines = [
        (number, line)
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip() and not line.startswith("#")
    ]
    reader = csv.DictReader(line for _, line in lines)
    header = reader.fieldnames or []
    for column in wanted:
        if column not in header:
            raise FitError(f"{name}: no column {column!r}; the header has {', '.join(header) or 'nothing'}")
    rows = []
    for row in reader:
        number = lines[reader.line_num - 1][0]
        if all((row[column] or "").strip() for column in wanted[:2]):
            values = tuple(_number(row[column], f"{name}: line {number}, column {column}") for column in wanted)
            rows.append((number, values))
    return rows


def _sorted_columns(rows: Sequence[tuple[int, Row]], wanted: Sequence[str], name: str) -> list[Row]:
    ordered = sorted(rows, key=lambda each: each[1][0])
    for (line, before), (later, after) in zip(ordered, ordered[1:], strict=False):
        if before[0] == after[0]:
            place = f"{name}: lines {line} and {later}, column {wanted[0]}"
            raise FitError(f"{place}: {after[0]:g} appears twice; give one row for each")
    return list(zip(*(row for _, row in ordered), strict=True)) if rows else [() for _ in wanted]


def _number(text: str | None, place: str) -> float:
    try:
        value = float(text or "")
    except ValueError as error:
        raise FitError(f"{place}: {text!r} is not a number") from error
    if not math.isfinite(value):
        raise FitError(f"{place}: {text!r} is not finite")
    return value


def _check_compute(compute: float, columns: Columns, place: str) -> None:
    if compute < 0.0:
        raise FitError(f"{place}, column {columns.x}: {compute:g}; compute is at least 0")


def _check_row(row: Row, columns: Columns, place: str) -> None:
    _check_compute(row[0], columns, place)
    if not 0.0 <= row[1] <= 1.0:
        raise FitError(f"{place}, column {columns.y}: {row[1]:g}; a pass rate is in [0, 1], not in percent")
    if len(row) > 2 and row[2] < 0.0:
        raise FitError(f"{place}, column {columns.error}: {row[2]:g}; a standard error is at least 0")
