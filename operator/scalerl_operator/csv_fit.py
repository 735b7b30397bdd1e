"""A learning curve from a CSV file, its forecast as a table, and its error on what was held back. PURE."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalerl_operator.forecast import FitError, Forecast, Points, Start, ceiling_interval, point_band, points


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
    wanted = [column for column in (columns.x, columns.y, columns.error) if column is not None]
    rows = _rows(text, wanted, name)
    for number, row in rows:
        _check_row(row, columns, f"{name}: row {number}")
    table = _sorted_columns([row for _, row in rows], wanted, name)
    return points(table[0], table[1], table[2] if columns.error else None, unit=columns.x)


def parse_series(text: str, x: str, y: str, name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Return two columns of CSV `text`, sorted by the first, `y` of any size; otherwise as `parse_curve`."""
    table = _sorted_columns([row for _, row in _rows(text, [x, y], name)], [x, y], name)
    return table[0], table[1]


def _rows(text: str, wanted: Sequence[str], name: str) -> list[tuple[int, tuple[float, ...]]]:
    """Return (row number, values) of the rows that have a value in the first two columns."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    reader = csv.DictReader(lines)
    header = reader.fieldnames or []
    for column in wanted:
        if column not in header:
            raise FitError(f"{name}: no column {column!r}; the header has {', '.join(header) or 'nothing'}")
    rows = []
    for number, row in enumerate(reader, start=1):
        if all((row[column] or "").strip() for column in wanted[:2]):
            values = tuple(_number(row[column], f"{name}: row {number}, column {column}") for column in wanted)
            rows.append((number, values))
    return rows


def _sorted_columns(rows: list[tuple[float, ...]], wanted: Sequence[str], name: str) -> list[tuple[float, ...]]:
    rows.sort(key=lambda row: row[0])
    for before, after in zip(rows, rows[1:], strict=False):
        if before[0] == after[0]:
            raise FitError(f"{name}: column {wanted[0]}: {after[0]:g} is there twice; give one row for each")
    return list(zip(*rows, strict=True)) if rows else [() for _ in wanted]


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


@dataclass(frozen=True)
class HeldBack:
    """A forecast on the points that it had not seen."""

    points: int
    mean_error: float
    """Mean absolute error of the curve."""
    inside: int
    """How many lie in the 90 % band of a measurement."""


def judge_held_back(forecast: Forecast, curve: Points, until: float) -> HeldBack | None:
    """Judge a forecast on the points past `until`; None if there is no curve or no such point."""
    later = curve.compute > until
    if not forecast.draws or not later.any():
        return None
    y, errors = curve.pass_rate[later], curve.standard_error
    middle, low, high = point_band(forecast, curve.compute[later], errors[later] if errors is not None else None)
    return HeldBack(int(later.sum()), float(np.abs(middle - y).mean()), int(((y >= low) & (y <= high)).sum()))


def forecast_rows(forecast: Forecast) -> list[tuple[str, str]]:
    """Return (label, text) rows of a forecast; what is not known is not there."""
    unit = forecast.unit
    rows = [("verdict", forecast.verdict), ("reason", forecast.reason), ("points", str(forecast.points))]
    if forecast.burn_in:
        rows.append(("left out before", f"{forecast.burn_in:g} {unit}"))
    rows += _interval("ceiling A", (forecast.ceiling, forecast.ceiling_low, forecast.ceiling_high), "")
    if forecast.draws:
        rows += _interval("ceiling A, 80 %", ceiling_interval(forecast, level=0.8), "")
    rows += _interval("midpoint C_mid", (forecast.c_mid, forecast.c_mid_low, forecast.c_mid_high), unit)
    rows += _interval("slope B", (forecast.b, forecast.b_low, forecast.b_high), "")
    if forecast.r0 is not None:
        rows.append(("start R0", f"{forecast.r0:.4f}"))
    rows += _future_rows(forecast)
    if forecast.sigma is not None:
        alike = "" if forecast.correlation is None else f", correlation of neighbours {forecast.correlation:.2f}"
        rows.append(("noise (sd)", f"{forecast.sigma:.4f}{alike}"))
    return rows


def _future_rows(forecast: Forecast) -> list[tuple[str, str]]:
    """What is asked about the budget and the target."""
    unit, rows = forecast.unit, []
    if forecast.budget is not None:
        until = f"{forecast.budget:g} {unit}"
        rows += _interval(f"at {until}", (forecast.predicted_at_budget, forecast.low, forecast.high), "")
        gain = (forecast.gain_left, forecast.gain_left_low, forecast.gain_left_high)
        rows += _interval(f"gain left to {until}", gain, "")
        marginal = (forecast.marginal_gain, forecast.marginal_gain_low, forecast.marginal_gain_high)
        rows += _interval("gain per unit now", marginal, f"per {unit}")
    if forecast.target is not None:
        found = (forecast.target_compute, forecast.target_low, forecast.target_high)
        never = [(f"reaches {forecast.target:g} at", "not in most of the curves that fit")]
        rows += _interval(f"reaches {forecast.target:g} at", found, unit) or never
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
    """Return (law, weight, ceiling, rmse, back-test error) of the sigmoid and every rival."""
    rows = [_law_row("sigmoid", forecast.weight, _sigmoid_ceiling(forecast), forecast.rmse, forecast.backtest_error)]
    for each in forecast.rivals:
        weight = each.weight if each.draws or each.weight else None
        rows.append(_law_row(each.name, weight, each.ceiling, each.rmse, each.backtest_error))
    return rows


def burn_in_rows(starts: Sequence[Start], unit: str) -> list[tuple[str, ...]]:
    """Return (left out before, points, verdict, ceiling with its interval) of fits with other burn-ins."""
    return [
        (
            f"{each.burn_in:.4g} {unit}" + (" (used)" if each.used else ""),
            str(each.points),
            each.verdict,
            "-" if each.ceiling is None else f"{each.ceiling:.3f} [{each.low:.3f}, {each.high:.3f}]",
        )
        for each in starts
    ]


def _sigmoid_ceiling(forecast: Forecast) -> float | None:
    return float(np.median([draw[0] for draw in forecast.draws])) if forecast.draws else forecast.ceiling


def _law_row(name: str, weight: float | None, *numbers: float | None) -> tuple[str, ...]:
    return (name, "-" if weight is None else f"{weight:.3f}", *("-" if n is None else f"{n:.4f}" for n in numbers))
