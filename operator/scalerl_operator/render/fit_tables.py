"""A forecast as rows and JSON, and its error on held-back points. PURE."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from scalerl_operator.forecast import (
    BurnInFit,
    EntropyForecast,
    Forecast,
    Points,
    ceiling_interval,
    curve_band,
    point_band,
    shape_interval,
    to_json,
)
from scalerl_operator.forecast.result import Json

Interval = tuple[float, float]


@dataclass(frozen=True)
class HeldBack:
    """The error of a forecast on points that were held back from its fit."""

    points: int
    mean_error: float
    """Mean absolute error of the curve."""
    inside: int
    """Number of points in the 90 % band of a measurement."""


def assess_held_back(forecast: Forecast, curve: Points, until: float) -> HeldBack | None:
    """Return the error on the points past `until`; None without a curve or without such a point."""
    later = curve.compute > until
    if not forecast.draws or not later.any():
        return None
    y, errors = curve.pass_rate[later], curve.standard_error
    middle, low, high = point_band(forecast, curve.compute[later], errors[later] if errors is not None else None)
    return HeldBack(int(later.sum()), float(np.abs(middle - y).mean()), int(((y >= low) & (y <= high)).sum()))


def intervals_80(forecast: Forecast) -> dict[str, Interval]:
    """Return the 80 % intervals, by field of the forecast; unknown ones are left out."""
    if not forecast.draws:
        return {}
    found = {"ceiling": ceiling_interval(forecast, level=0.8), **shape_interval(forecast, level=0.8)}
    intervals = {name: (low, high) for name, (_, low, high) in found.items()}
    if forecast.budget is not None:
        _, lows, highs = curve_band(forecast, [forecast.budget], level=0.8)
        intervals["predicted_at_budget"] = (float(lows[0]), float(highs[0]))
    return intervals


def fit_json(
    forecast: Forecast, starts: Sequence[BurnInFit], held_back: HeldBack | None, entropy: EntropyForecast | None
) -> dict[str, Json]:
    """Return the whole result of `scalerl fit` as plain JSON values; `from_json` parses the value of `forecast`."""
    return {
        "forecast": to_json(forecast),
        "intervals_80": {name: list(interval) for name, interval in intervals_80(forecast).items()},
        "burn_ins": [asdict(each) for each in starts],
        "held_back": None if held_back is None else asdict(held_back),
        "entropy": None if entropy is None else asdict(entropy),
    }


def forecast_rows(forecast: Forecast) -> list[tuple[str, str]]:
    """Return (label, text) rows of a forecast, without unknown values. Intervals: 90 %, then 80 %."""
    unit, narrow = forecast.unit, intervals_80(forecast)
    rows = [("verdict", forecast.verdict), ("reason", forecast.reason), ("points", str(forecast.points))]
    if forecast.burn_in:
        rows.append(("left out before", f"{forecast.burn_in:g} {unit}"))
    ceiling = (forecast.ceiling, forecast.ceiling_low, forecast.ceiling_high)
    rows += _interval("ceiling A", ceiling, "", narrow.get("ceiling"))
    c_mid = (forecast.c_mid, forecast.c_mid_low, forecast.c_mid_high)
    rows += _interval("midpoint C_mid", c_mid, unit, narrow.get("c_mid"))
    rows += _interval("slope B", (forecast.b, forecast.b_low, forecast.b_high), "", narrow.get("b"))
    if forecast.r0 is not None:
        rows.append(("start R0", f"{forecast.r0:.4f}"))
    rows += _future_rows(forecast, narrow.get("predicted_at_budget"))
    if forecast.sigma is not None:
        alike = "" if forecast.correlation is None else f", correlation of neighbours {forecast.correlation:.2f}"
        rows.append(("noise (sd)", f"{forecast.sigma:.4f}{alike}"))
    return rows


def _future_rows(forecast: Forecast, narrow: Interval | None) -> list[tuple[str, str]]:
    """Return the rows of the budget, of the target and of the gain by the next unit of compute."""
    unit, rows = forecast.unit, []
    if forecast.budget is not None:
        until = f"{forecast.budget:g} {unit}"
        rows += _interval(f"at {until}", (forecast.predicted_at_budget, forecast.low, forecast.high), "", narrow)
        gain = (forecast.gain_left, forecast.gain_left_low, forecast.gain_left_high)
        rows += _interval(f"gain left to {until}", gain, "")
    marginal = (forecast.marginal_gain, forecast.marginal_gain_low, forecast.marginal_gain_high)
    rows += _interval("gain per unit now", marginal, f"per {unit}")
    if forecast.target is not None:
        found = (forecast.target_compute, forecast.target_low, forecast.target_high)
        never = [(f"reaches {forecast.target:g} at", "not in most of the curves that fit")]
        rows += _interval(f"reaches {forecast.target:g} at", found, unit) or never
    return rows


def _interval(
    label: str, values: Sequence[float | None], unit: str, narrow: Interval | None = None
) -> list[tuple[str, str]]:
    value, low, high = values
    if value is None:
        return []
    text = f"{value:.4g}"
    if low is not None or high is not None:
        text += f" [{'?' if low is None else f'{low:.4g}'}, {'?' if high is None else f'{high:.4g}'}]"
    text = f"{text} {unit}".rstrip()
    return [(label, text if narrow is None else f"{text}; 80 %: [{narrow[0]:.4g}, {narrow[1]:.4g}]")]


def rival_rows(forecast: Forecast) -> list[tuple[str, ...]]:
    """Return (law, weight, ceiling, rmse, back-test error) of the sigmoid and every rival."""
    rows = [_law_row("sigmoid", forecast.weight, _sigmoid_ceiling(forecast), forecast.rmse, forecast.backtest_error)]
    for each in forecast.rivals:
        weight = each.weight if each.draws or each.weight else None
        rows.append(_law_row(each.name, weight, each.ceiling, each.rmse, each.backtest_error))
    return rows


def burn_in_rows(starts: Sequence[BurnInFit], unit: str) -> list[tuple[str, ...]]:
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
