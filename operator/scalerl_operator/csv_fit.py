"""A learning curve from a CSV file, its forecast as a table, and its error on what was held back. PURE."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalerl_operator.forecast import FitError, Forecast, Points, curve_band, points


@dataclass(frozen=True)
class Columns:
    """Which columns to read."""

    x: str
    y: str
    error: str | None = None


def parse_curve(text: str, columns: Columns, name: str) -> Points:
    """Return the curve in CSV `text` with a header. Raises FitError that names `name`, row and column.

    Rows without a value in either column are left out: metrics files measure on some rows only. Rows are sorted by x.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    reader = csv.DictReader(lines)
    header = reader.fieldnames or []
    wanted = [column for column in (columns.x, columns.y, columns.error) if column is not None]
    for column in wanted:
        if column not in header:
            raise FitError(f"{name}: no column {column!r}; the header has {', '.join(header) or 'nothing'}")
    rows = []
    for number, row in enumerate(reader, start=1):
        if (row[columns.x] or "").strip() and (row[columns.y] or "").strip():
            rows.append(tuple(_number(row[column], f"{name}: row {number}, column {column}") for column in wanted))
            _check_row(rows[-1], columns, f"{name}: row {number}")
    rows.sort(key=lambda row: row[0])
    for before, after in zip(rows, rows[1:], strict=False):
        if before[0] == after[0]:
            raise FitError(f"{name}: column {columns.x}: {after[0]:g} is there twice; give one row for each")
    table = list(zip(*rows, strict=True)) if rows else [() for _ in wanted]
    return points(table[0], table[1], table[2] if columns.error else None, unit=columns.x)


def _number(text: str | None, place: str) -> float:
    try:
        value = float(text or "")
    except ValueError as error:
        raise FitError(f"{place}: {text!r} is not a number") from error
    if not math.isfinite(value):
        raise FitError(f"{place}: {text!r} is not finite")
    return value


def _check_row(row: Sequence[float], columns: Columns, place: str) -> None:
    if row[0] < 0.0:
        raise FitError(f"{place}, column {columns.x}: {row[0]:g}; compute is at least 0")
    if not 0.0 <= row[1] <= 1.0:
        raise FitError(f"{place}, column {columns.y}: {row[1]:g}; a pass rate is in [0, 1], not in percent")
    if len(row) > 2 and row[2] < 0.0:
        raise FitError(f"{place}, column {columns.error}: {row[2]:g}; a standard error is at least 0")


def mean_held_back_error(forecast: Forecast, curve: Points, until: float) -> tuple[float, int] | None:
    """Return (mean |predicted - measured|, points) past `until`; None if there is no curve or no such point."""
    later = curve.compute > until
    if not forecast.draws or not later.any():
        return None
    mean, _, _ = curve_band(forecast, curve.compute[later])
    return float(np.abs(mean - curve.pass_rate[later]).mean()), int(later.sum())


def forecast_rows(forecast: Forecast) -> list[tuple[str, str]]:
    """Return (label, text) rows of a forecast; what is not known is not there."""
    unit = forecast.unit
    rows = [("verdict", forecast.verdict), ("reason", forecast.reason), ("points", str(forecast.points))]
    if forecast.burn_in:
        rows.append(("left out before", f"{forecast.burn_in:g} {unit}"))
    rows += _interval("ceiling A", (forecast.ceiling, forecast.ceiling_low, forecast.ceiling_high), "")
    rows += _interval("midpoint C_mid", (forecast.c_mid, forecast.c_mid_low, forecast.c_mid_high), unit)
    rows += _interval("slope B", (forecast.b, forecast.b_low, forecast.b_high), "")
    if forecast.r0 is not None:
        rows.append(("start R0", f"{forecast.r0:.4f}"))
    if forecast.budget is not None:
        rows += _interval(
            f"at {forecast.budget:g} {unit}", (forecast.predicted_at_budget, forecast.low, forecast.high), ""
        )
    if forecast.target is not None:
        found = (forecast.target_compute, forecast.target_low, forecast.target_high)
        never = [(f"reaches {forecast.target:g} at", "not in most of the curves that fit")]
        rows += _interval(f"reaches {forecast.target:g} at", found, unit) or never
    if forecast.sigma is not None:
        rows.append(("noise (sd)", f"{forecast.sigma:.4f}"))
    return rows


def _interval(label: str, values: Sequence[float | None], unit: str) -> list[tuple[str, str]]:
    value, low, high = values
    if value is None:
        return []
    text = f"{value:.4g}"
    if low is not None or high is not None:
        text += f" [{'?' if low is None else f'{low:.4g}'}, {'?' if high is None else f'{high:.4g}'}]"
    return [(label, f"{text} {unit}".rstrip())]


def rival_rows(forecast: Forecast) -> list[tuple[str, ...]]:
    """Return (law, ceiling, rmse, back-test error) of the sigmoid and every rival."""
    rows: list[tuple[str, ...]] = [
        ("sigmoid", _cell(forecast.ceiling), _cell(forecast.rmse), _cell(forecast.backtest_error))
    ]
    for each in forecast.rivals:
        rows.append((each.name, _cell(each.ceiling), _cell(each.rmse), _cell(each.backtest_error)))
    return rows


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
