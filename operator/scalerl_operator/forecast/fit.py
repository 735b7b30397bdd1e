"""From points to forecast: outliers, burn-in, the laws, verdict. PURE."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from scalerl_operator.forecast.band import (
    arrival,
    ceiling_interval,
    curve_band,
    gain_between,
    marginal_gain,
    shape_interval,
)
from scalerl_operator.forecast.laws import SIGMOID
from scalerl_operator.forecast.noise import Noise, noise_of
from scalerl_operator.forecast.points import Array, FitError, Points
from scalerl_operator.forecast.preprocess import condense, find_burn_in, find_outliers
from scalerl_operator.forecast.result import Forecast, Verdict
from scalerl_operator.forecast.rivals import Fitted, as_tuples, fit_laws
from scalerl_operator.forecast.verdict import MIN_POINTS, find_decline, judge

# Share of the rise so far by which a run leaves its law per doubling of compute: public runs were followed to twice the
# compute of the fit (docs/forecast.md), and with it nine tenths of their later points are in the band.
DRIFT = 0.04
LEAD = 2.0  # between laws that are about as likely the middle would jump from one evaluation to the next


def fit_forecast(
    points: Points,
    *,
    budget: float | None = None,
    target: float | None = None,
    burn_in: float | None = None,
    r0: float | None = None,
    law: Literal["auto", "sigmoid"] = "auto",
) -> Forecast:
    """Fit the sigmoid and say how far it may be believed.

    Args:
        points: of one run so far. The evaluation before the first step (compute 0) anchors R0.
        budget: compute at which the run will end, > 0, in the points' unit.
        target: pass rate whose compute is predicted, in [0, 1].
        burn_in: points before this compute are left out; None: by the rule of `burn_in.py`.
        r0: pass rate at which the run began, in [0, 1], if that is known better than its points know it: every law's
            lower end is then fixed there. None: fitted.
        law: `auto`: a rival that forecasts this run better lowers the verdict. `sigmoid`: rivals are reported only.

    Raises FitError for a budget, target, burn_in or r0 outside its range. Too few points are a verdict, not an error.
    """
    _check("budget", budget, 1.0e-300)
    _check("target", target, 0.0, 1.0)
    _check("burn_in", burn_in, 0.0)
    _check("r0", r0, 0.0, 1.0)
    odd = find_outliers(points)
    sound = points.where(~odd)
    start = _find_start(condense(sound), r0) if burn_in is None else burn_in
    used = sound.starting_at(start)
    blank = Forecast("NotIdentified", "", "sigmoid", len(used), start, points.unit, budget=budget, target=target)
    blank = replace(blank, outliers=tuple(points.compute[odd].tolist()))
    if len(used) < MIN_POINTS:
        return replace(blank, reason=f"{len(used)} usable points; a fit needs at least {MIN_POINTS}")
    blank = replace(blank, last_compute=float(used.compute[-1]))
    few = condense(used)
    decline = find_decline(few)
    if decline is not None:
        return replace(blank, reason=decline)
    return _fit(few, blank, contested=law == "auto", r0=r0)


def _fit(points: Points, blank: Forecast, *, contested: bool, r0: float | None) -> Forecast:
    last, y = float(points.compute[-1]), points.pass_rate
    x, noise = points.compute / last, noise_of(points)
    laws = fit_laws(x, y, noise, last, contested=contested, r0=r0)
    variance = laws.sigmoid.factor**2 * noise.variance
    residual = y - laws.sigmoid.curve
    fitted = replace(
        blank,
        law=_best_law(laws),
        sigma=float(np.sqrt(np.median(variance))),
        correlation=laws.sigmoid.correlation,
        drift=DRIFT * float(np.ptp(laws.sigmoid.curve)),
        weight=laws.weight,
        r0=float(laws.draws[:, 3].mean()),
        rmse=float(np.sqrt(np.mean(residual**2))),
        backtest_error=laws.backtest_error,
        rivals=laws.rivals,
        draws=as_tuples(laws.draws),
    )
    verdict, reason = judge(summarized := _summarize(fitted, last), rise=_rise(y, noise, laws), contested=contested)
    return replace(summarized, verdict=verdict, reason=reason + _aside(summarized))


def _best_law(laws: Fitted) -> str:
    """Return the law whose medians are reported: the sigmoid, unless a rival is LEAD times as likely."""
    best = max(laws.rivals, key=lambda rival: rival.weight)
    return best.name if best.weight > LEAD * laws.weight else SIGMOID.name


def _rise(y: Array, noise: Noise, laws: Fitted) -> float:
    """Return the fall of chi2 from the best constant to the sigmoid, under the noise that was found."""
    inverse = 1.0 / laws.sigmoid.spectrum
    one, turned = noise.turned(np.ones_like(y)), noise.turned(y)
    level = float((one * inverse) @ turned / ((one * inverse) @ one))
    constant, curve = np.square(noise.turned(np.stack([y - level, y - laws.sigmoid.curve]))) @ inverse
    return float(constant - curve)


def _aside(forecast: Forecast) -> str:
    """Say what was set aside."""
    if not forecast.outliers:
        return ""
    where = ", ".join(f"{compute:.4g}" for compute in forecast.outliers)
    return f"; set aside, far from all of their neighbours: the evaluations at {where} {forecast.unit}"


def _find_start(points: Points, r0: float | None) -> float:
    """Return the compute of the first point that the burn-in rule keeps; 0 if it keeps all."""
    if len(points) < MIN_POINTS or points.compute[-1] <= 0.0:
        return 0.0
    drop = find_burn_in(points.compute / points.compute[-1], points.pass_rate, noise_of(points).variance, r0)
    return float(points.compute[drop]) if drop else 0.0


def _summarize(fitted: Forecast, last: float) -> Forecast:
    """Return the forecast with everything that follows from its draws."""
    (ceiling, low, high), shape = ceiling_interval(fitted), shape_interval(fitted)
    (b, b_low, b_high), (c_mid, c_mid_low, c_mid_high) = shape["b"], shape["c_mid"]
    known = replace(
        fitted,
        ceiling=ceiling,
        ceiling_low=low,
        ceiling_high=high,
        b=b,
        b_low=b_low,
        b_high=b_high,
        c_mid=c_mid,
        c_mid_low=c_mid_low,
        c_mid_high=c_mid_high,
    )
    return _with_target(_with_budget(_with_slope(known, last), last))


def _with_slope(forecast: Forecast, last: float) -> Forecast:
    slope, low, high = marginal_gain(forecast, last)
    return replace(forecast, marginal_gain=slope, marginal_gain_low=low, marginal_gain_high=high)


def _with_budget(forecast: Forecast, last: float) -> Forecast:
    if forecast.budget is None:
        return forecast
    at_budget, low, high = (float(each[0]) for each in curve_band(forecast, [forecast.budget]))
    gain, gain_low, gain_high = gain_between(forecast, last, max(forecast.budget, last))
    return replace(
        forecast,
        predicted_at_budget=at_budget,
        low=low,
        high=high,
        gain_left=gain,
        gain_left_low=gain_low,
        gain_left_high=gain_high,
    )


def _with_target(forecast: Forecast) -> Forecast:
    if forecast.target is None:
        return forecast
    found = [value if math.isfinite(value) else None for value in arrival(forecast, forecast.target)]
    return replace(forecast, target_compute=found[0], target_low=found[1], target_high=found[2])


def _check(name: str, value: float | None, least: float, most: float = math.inf) -> None:
    if value is not None and not (least <= value <= most and math.isfinite(value)):
        raise FitError(f"{name} is {value:g}; need a finite number in [{least:g}, {most:g}]")


BURN_IN_SHARES = (0.0, 0.03, 0.1)  # of the last compute: the paper's 0, 1,500 and 5,000 of 50,000 GPU-hours (A.7)


@dataclass(frozen=True)
class BurnInFit:
    """A fit of the points from one compute on."""

    burn_in: float
    """Compute before which points are left out."""
    used: bool
    """Whether it is the forecast's own."""
    points: int
    verdict: Verdict
    ceiling: float | None
    """None, as its interval, where too few points are left or the run declined."""
    low: float | None
    high: float | None
    """90 % interval."""


def try_burn_ins(points: Points, forecast: Forecast, *, r0: float | None = None) -> tuple[BurnInFit, ...]:
    """Return fits of the points from the forecast's own burn-in and from BURN_IN_SHARES of the last compute, in order.

    Starts that leave the same points are tried once. None at all where there was nothing to fit. `r0`: the start that
    the forecast was given, if it was.
    """
    if forecast.last_compute is None:
        return ()
    tried: dict[int, BurnInFit] = {}
    for start in (forecast.burn_in, *(share * forecast.last_compute for share in BURN_IN_SHARES)):
        left = points.starting_at(start)
        if len(left) in tried or not len(left):
            continue
        used = not tried
        found = forecast if used else fit_forecast(points, burn_in=start, r0=r0)
        tried[len(left)] = BurnInFit(
            start, used, found.points, found.verdict, found.ceiling, found.ceiling_low, found.ceiling_high
        )
    return tuple(sorted(tried.values(), key=lambda each: each.burn_in))
