"""From points to forecast: burn-in, posterior, rivals, verdict. PURE."""

import math
from dataclasses import replace
from typing import Literal

import numpy as np

from scalerl_operator.forecast.burn_in import find_burn_in
from scalerl_operator.forecast.noise import noise_of
from scalerl_operator.forecast.points import Array, FitError, Points
from scalerl_operator.forecast.posterior import Posterior, fit_posterior
from scalerl_operator.forecast.result import LEVELS, Forecast, curves_of
from scalerl_operator.forecast.rivals import fit_rivals, sigmoid_backtest
from scalerl_operator.forecast.verdict import MIN_POINTS, find_decline, judge

DIGITS = 7  # of a stored draw: far below the spread of the draws, and short in JSON


def fit_forecast(
    points: Points,
    *,
    budget: float | None = None,
    target: float | None = None,
    burn_in: float | None = None,
    law: Literal["auto", "sigmoid"] = "auto",
) -> Forecast:
    """Fit the sigmoid and say how far it may be believed.

    Args:
        points: of one run so far. The evaluation before the first step (compute 0) anchors R0.
        budget: compute at which the run will end, > 0, in the points' unit.
        target: pass rate whose compute is predicted, in [0, 1].
        burn_in: points before this compute are left out; None: by the rule of `burn_in.py`.
        law: `auto`: a rival that forecasts this run better lowers the verdict. `sigmoid`: rivals are reported only.

    Raises FitError for a budget, target or burn_in outside its range. Too few points are a verdict, not an error.
    """
    _check("budget", budget, 1.0e-300)
    _check("target", target, 0.0, 1.0)
    _check("burn_in", burn_in, 0.0)
    start = _find_start(points) if burn_in is None else burn_in
    used = points.starting_at(start)
    blank = Forecast("NotIdentified", "", "sigmoid", len(used), start, points.unit, budget=budget, target=target)
    if len(used) < MIN_POINTS:
        return replace(blank, reason=f"{len(used)} usable points; a fit needs at least {MIN_POINTS}")
    blank = replace(blank, last_compute=float(used.compute[-1]))
    decline = find_decline(used)
    if decline is not None:
        return replace(blank, reason=decline)
    return _fit(used, blank, law)


def _fit(points: Points, blank: Forecast, law: Literal["auto", "sigmoid"]) -> Forecast:
    last, y = float(points.compute[-1]), points.pass_rate
    x, noise = points.compute / last, noise_of(points)
    posterior = fit_posterior(x, y, noise)
    variance = noise.variances(np.array([posterior.factor]))[:, 0]
    residual = y - posterior.curve
    fitted = replace(
        _summarise(blank, _rounded(posterior, last)),
        sigma=float(np.sqrt(np.median(variance))),
        rmse=float(np.sqrt(np.mean(residual**2))),
        backtest_error=sigmoid_backtest(x, y, variance),
        rivals=fit_rivals(x, y, variance, last),
    )
    level = np.average(y, weights=1.0 / variance)
    rise = float((((y - level) ** 2 - residual**2) / variance).sum())
    verdict, reason = judge(fitted, rise=rise, contested=law == "auto")
    return replace(fitted, verdict=verdict, reason=reason)


def _find_start(points: Points) -> float:
    """Return the compute of the first point that the burn-in rule keeps; 0 if it keeps all."""
    if len(points) < MIN_POINTS or points.compute[-1] <= 0.0:
        return 0.0
    drop = find_burn_in(points.compute / points.compute[-1], points.pass_rate, noise_of(points).variance)
    return float(points.compute[drop]) if drop else 0.0


def _summarise(blank: Forecast, draws: Array) -> Forecast:
    """Return the forecast with everything that follows from the draws [NUM_DRAWS, 4]."""
    ceiling, ceiling_low, ceiling_high = _spread(draws[:, 0])
    b, b_low, b_high = np.exp(_spread(np.log(draws[:, 1]))).tolist()
    c_mid, c_mid_low, c_mid_high = np.exp(_spread(np.log(draws[:, 2]))).tolist()
    fitted = replace(
        blank,
        ceiling=ceiling,
        ceiling_low=ceiling_low,
        ceiling_high=ceiling_high,
        b=b,
        b_low=b_low,
        b_high=b_high,
        c_mid=c_mid,
        c_mid_low=c_mid_low,
        c_mid_high=c_mid_high,
        r0=float(draws[:, 3].mean()),
        draws=tuple((a, b, c, r) for a, b, c, r in draws.tolist()),
    )
    return _with_target(_with_budget(fitted, draws), draws)


def _with_budget(forecast: Forecast, draws: Array) -> Forecast:
    if forecast.budget is None or forecast.last_compute is None:
        return forecast
    curves = curves_of(draws, np.array([forecast.last_compute, max(forecast.budget, forecast.last_compute)]))
    at_budget, low, high = _spread(curves_of(draws, np.array([float(forecast.budget)]))[:, 0])
    gain, gain_low, gain_high = _spread(curves[:, 1] - curves[:, 0])
    return replace(
        forecast,
        predicted_at_budget=at_budget,
        low=low,
        high=high,
        gain_left=gain,
        gain_left_low=gain_low,
        gain_left_high=gain_high,
    )


def _with_target(forecast: Forecast, draws: Array) -> Forecast:
    """Solve the curve of every draw for the target; a draw whose ceiling is not above it never arrives."""
    if forecast.target is None:
        return forecast
    ceiling, b, c_mid, r0 = draws.T
    gained, left = np.maximum(forecast.target - r0, 0.0), ceiling - forecast.target
    odds = np.divide(gained, left, out=np.full_like(left, np.inf), where=left > 0.0)
    with np.errstate(over="ignore"):  # next to its ceiling a draw arrives after the end of time, which inf says
        arrival = np.sort(c_mid * odds ** (1.0 / b))
    low, middle, high = (float(arrival[int(level * (len(arrival) - 1))]) for level in (LEVELS[0], 0.5, LEVELS[1]))
    known = [value if np.isfinite(value) else None for value in (middle, low, high)]
    return replace(forecast, target_compute=known[0], target_low=known[1], target_high=known[2])


def _spread(values: Array) -> tuple[float, float, float]:
    """Return mean, lower and upper end of the 90 % interval of the draws."""
    low, high = np.quantile(values, LEVELS)
    return float(values.mean()), float(low), float(high)


def _rounded(posterior: Posterior, last_compute: float) -> Array:
    """Return the draws (A, B, C_mid, R0), [NUM_DRAWS, 4], C_mid in the user's unit, with DIGITS digits."""
    draws = np.stack([posterior.ceiling, posterior.b, posterior.c_mid * last_compute, posterior.r0], axis=1)
    size = np.floor(np.log10(np.maximum(np.abs(draws), 1e-300)))
    places = np.clip(DIGITS - 1 - size, -300, DIGITS + 300)
    return np.asarray(np.rint(draws * 10.0**places) / 10.0**places)


def _check(name: str, value: float | None, least: float, most: float = math.inf) -> None:
    if value is not None and not (least <= value <= most and math.isfinite(value)):
        raise FitError(f"{name} is {value:g}; need a finite number in [{least:g}, {most:g}]")
