"""`scalerl fit` and `scalerl compare`: CSV files in, a table, JSON and a picture out. I/O."""

import json
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

from scalerl_operator.cli.csv_curve import parse_curve, parse_entropy
from scalerl_operator.cli.options import Columns, CompareOptions, FitOptions
from scalerl_operator.forecast import (
    EntropyForecast,
    FitError,
    Forecast,
    Points,
    compare,
    estimate_margin,
    fit_forecast,
    forecast_entropy,
    identified_at,
    margin_of,
    stop_point,
    try_burn_ins,
)
from scalerl_operator.forecast.result import Json
from scalerl_operator.local.durable_files import save_text
from scalerl_operator.render.compare_table import comparison_json, comparison_lines, comparison_rows
from scalerl_operator.render.fit_tables import (
    HeldBack,
    assess_held_back,
    burn_in_rows,
    fit_json,
    forecast_rows,
    rival_rows,
)
from scalerl_operator.render.text import format_rows, format_table

LOSS = 0.01  # pass rate: half of what replicates of one recipe differ by
LAW_HEADER = ("LAW", "WEIGHT", "CEILING", "RMSE", "BACK-TEST")
BURN_IN_HEADER = ("LEFT OUT BEFORE", "POINTS", "VERDICT", "CEILING")
COMPARE_HEADER = ("RUN", "VERDICT", "CEILING", "AGAINST FIRST", "B", "C_MID", "COMPUTE", "WHAT IT IS")


def run_fit(options: FitOptions) -> str:
    """Fit one curve, write the requested files, return the text to print. Raises FitError for a bad file."""
    curve = load_curve(options.file, options.columns)
    until = options.fit_until if options.fit_until is not None else float("inf")
    fitted = curve.until(until)
    found = fit_forecast(fitted, budget=options.budget, target=options.target, r0=options.r0)
    held_back, starts = assess_held_back(found, curve, until), try_burn_ins(fitted, found, r0=options.r0)
    entropy = _entropy(options, until)
    if options.json is not None:
        save_json(options.json, fit_json(found, starts, held_back, entropy))
    if options.picture is not None:
        from scalerl_operator.render.plots import draw_fit

        options.picture.write_bytes(draw_fit(curve, found, until, y_label=options.y))
    rows = forecast_rows(found)
    if held_back is not None:
        rows.append(("held back", _describe(held_back, until)))
    rows += _plan_rows(found, fitted)
    if entropy is not None:
        rows.append(("entropy", entropy.reason))
    tables = [format_rows(rows), format_table(LAW_HEADER, rival_rows(found))]
    if starts:
        tables.append(format_table(BURN_IN_HEADER, burn_in_rows(starts, found.unit)))
    return "\n".join(tables)


def run_compare(options: CompareOptions) -> str:
    """Compare curves with the first of them, write the requested files, return the text to print. Raises FitError.

    With the full recipe first and a run without each of its parts after it, this is the paper's leave-one-out table.
    Source: Khatri et al. 2025, arXiv:2510.13786, A.8.
    """
    curves = [load_curve(path, options.columns) for path in options.files]
    forecasts = [fit_forecast(curve) for curve in curves]
    margin, source = _margin(options, forecasts)
    stems = [path.stem for path in options.files]
    names = stems if len(set(stems)) == len(stems) else [str(path) for path in options.files]
    found = compare(names, curves, forecasts, margin=margin)
    if options.json is not None:
        save_json(options.json, comparison_json(found), indent=2)
    if options.picture is not None:
        from scalerl_operator.render.plots import draw_comparison

        picture = draw_comparison(found, dict(zip(names, curves, strict=True)), y_label=options.y)
        options.picture.write_bytes(picture)
    return f"{format_table(COMPARE_HEADER, comparison_rows(found))}\n{comparison_lines(found, source)}"


def _margin(options: CompareOptions, forecasts: Sequence[Forecast]) -> tuple[float, str]:
    """Return the margin and its origin."""
    if options.margin is not None:
        return options.margin, "given"
    if options.replicates:
        replicates = [fit_forecast(load_curve(path, options.columns)) for path in options.replicates]
        return margin_of(replicates), f"of {len(replicates)} replicates"
    return estimate_margin(forecasts), "estimated from the runs' own intervals"


def _plan_rows(found: Forecast, fitted: Points) -> list[tuple[str, str]]:
    """Return the rows: where the ceiling will be identified, and from where a stop loses little."""
    rows = []
    if found.draws and found.verdict != "Identified":
        at = identified_at(found, fitted)
        rows.append(("identified", "not within 30 times the compute" if at is None else f"near {at:.4g} {found.unit}"))
    stop = stop_point(found, loss=LOSS) if found.verdict != "NotIdentified" else None
    if stop is not None:
        rows.append((f"loses less than {LOSS:g}", f"from {stop:.4g} {found.unit} on"))
    return rows


def _entropy(options: FitOptions, until: float) -> EntropyForecast | None:
    """Return the forecast from the entropy up to `until`; None without a column for it."""
    if options.entropy is None:
        return None
    x, y = parse_entropy(_read(options.file), Columns(options.x, options.entropy), str(options.file))
    num_fitted = bisect_right(x, until)
    return forecast_entropy(x[:num_fitted], y[:num_fitted], floor=options.entropy_floor, unit=options.x)


def save_json(path: Path, document: Json, *, indent: int | None = None) -> None:
    """Write a document as strict JSON. Raises ValueError for NaN and Infinity."""
    save_text(path, json.dumps(document, indent=indent, allow_nan=False) + "\n")


def load_curve(path: Path, columns: Columns) -> Points:
    """Return the curve in `columns` of a CSV file. Raises FitError."""
    return parse_curve(_read(path), columns, str(path))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FitError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FitError(f"{path}: {error}") from error


def _describe(found: HeldBack, until: float) -> str:
    return (
        f"mean error {found.mean_error:.4f} over {found.points} points past {until:g}, "
        f"{found.inside} of them in the 90 % band"
    )
