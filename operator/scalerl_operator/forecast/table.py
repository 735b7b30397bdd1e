"""A learning curve from the text of a CSV file, and a forecast as rows for a table. PURE."""

import csv
import io
import math
from dataclasses import dataclass

from scalerl_operator.forecast.points import FitError, Points, points
from scalerl_operator.forecast.result import Forecast

X_NAMES = ("gpu_hours", "compute_gpu_hours", "compute", "device_hours", "flops", "tokens", "step")
Y_NAMES = ("pass_rate", "pass_rate_mean16", "accuracy", "reward_mean", "eval_acc")
ERROR_NAMES = ("standard_error", "se")
UNITS = {
    "gpu_hours": "GPU-h",
    "compute_gpu_hours": "GPU-h",
    "device_hours": "device-h",
    "step": "steps",
    "steps": "steps",
}


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read; None: the first of the usual names that the file has."""

    x: str | None = None
    y: str | None = None
    standard_error: str | None = None


def parse_csv(text: str, columns: Columns | None = None) -> Points:
    """Return the curve in `text`, whose first line names the columns.

    Rows whose pass rate is empty are skipped: many logs have evaluations on some rows only. Raises FitError that names
    the line (the first is 1) and the column.
    """
    reader = csv.DictReader(io.StringIO(text))
    names = list(reader.fieldnames or [])
    wanted = columns or Columns()
    x_name = _column(names, wanted.x, X_NAMES, "x")
    y_name = _column(names, wanted.y, Y_NAMES, "y")
    error_name = wanted.standard_error or next((name for name in ERROR_NAMES if name in names), None)
    if error_name is not None and error_name not in names:
        raise FitError(f"no column {error_name!r}; the file has {names}")
    rows: list[tuple[float, ...]] = []
    for row in reader:
        if (row[y_name] or "").strip():
            read = (x_name, y_name) if error_name is None else (x_name, y_name, error_name)
            rows.append(tuple(_number(row[name], name, reader.line_num) for name in read))
            _check_row(rows, x_name, y_name, reader.line_num)
    columns_read = list(zip(*rows, strict=True)) or [(), ()]
    error = columns_read[2] if len(columns_read) > 2 else None
    return points(columns_read[0], columns_read[1], error, unit=UNITS.get(x_name, x_name))


def forecast_rows(forecast: Forecast) -> list[tuple[str, str]]:
    """Return (what, value) pairs for a person, with intervals where there are any."""
    f, unit = forecast, forecast.unit
    rows = [("verdict", f.verdict), ("reason", f.reason), ("points used", str(f.points))]
    if f.burn_in > 0.0:
        rows.append(("burn-in", f"points before {f.burn_in:,.6g} {unit} left out"))
    if f.ceiling is None:
        return rows
    rows += [
        ("ceiling A", _interval(f.ceiling, f.ceiling_low, f.ceiling_high, ".3f")),
        ("midpoint C_mid", _interval(f.c_mid, f.c_mid_low, f.c_mid_high, ",.4g", unit)),
        ("steepness B", _interval(f.b, f.b_low, f.b_high, ".2f")),
        ("start R0", _interval(f.r0, None, None, ".3f")),
        ("noise sd of a point", _interval(f.sigma, None, None, ".4f")),
    ]
    if f.budget is not None:
        rows.append((f"pass rate at {f.budget:,.6g} {unit}", _interval(f.predicted_at_budget, f.low, f.high, ".3f")))
        rows.append(("gain left", _interval(f.gain_left, f.gain_left_low, f.gain_left_high, ".3f")))
    if f.target is not None:
        rows.append((f"{unit} to {f.target:g}", _arrival(f)))
    rows += [(f"rival: {rival.name}", _law(rival.ceiling, rival.rmse, rival.backtest_error)) for rival in f.rivals]
    return [*rows, ("sigmoid", _law(f.ceiling, f.rmse or 0.0, f.backtest_error))]


def _column(names: list[str], wanted: str | None, usual: tuple[str, ...], axis: str) -> str:
    if wanted is not None and wanted in names:
        return wanted
    found = next((name for name in usual if name in names), None) if wanted is None else None
    if found is None:
        asked = f"no column {wanted!r}" if wanted is not None else f"no usual column for {axis} ({', '.join(usual)})"
        raise FitError(f"{asked}; the file has {names}")
    return found


def _number(text: str | None, name: str, line: int) -> float:
    try:
        value = float((text or "").strip())
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise FitError(f"line {line}, column {name}: {text!r}; need a finite number")
    return value


def _check_row(rows: list[tuple[float, ...]], x_name: str, y_name: str, line: int) -> None:
    """The same rules as `points`, with the file's own names for row and column."""
    x, y = rows[-1][:2]
    if x < 0.0 or (len(rows) > 1 and x <= rows[-2][0]):
        before = f", after {rows[-2][0]:g}" if len(rows) > 1 else ""
        raise FitError(f"line {line}, column {x_name}: {x:g}{before}; need rising numbers of at least 0")
    if not 0.0 <= y <= 1.0:
        raise FitError(f"line {line}, column {y_name}: {y:g}; need a share in [0, 1]; divide percentages by 100")
    if len(rows[-1]) > 2 and rows[-1][2] < 0.0:
        raise FitError(f"line {line}, standard error: {rows[-1][2]:g}; need at least 0")


def _interval(value: float | None, low: float | None, high: float | None, form: str, unit: str = "") -> str:
    if value is None:
        return "unknown"
    band = "" if low is None or high is None else f"  [{low:{form}}, {high:{form}}]"
    return f"{value:{form}}{band} {unit}".rstrip()


def _arrival(f: Forecast) -> str:
    middle, low, high = (
        "never" if value is None else f"{value:,.4g}" for value in (f.target_compute, f.target_low, f.target_high)
    )
    return f"{middle}  [{low}, {high}]"


def _law(ceiling: float, rmse: float, backtest_error: float | None) -> str:
    past = "" if backtest_error is None else f", error on this run's past {backtest_error:.4f}"
    return f"ceiling {ceiling:.3f}, rmse {rmse:.4f}{past}"
