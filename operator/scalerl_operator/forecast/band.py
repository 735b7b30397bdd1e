"""A forecast at any compute: curve, band, measurement, gain, arrival at a target. PURE.

Every number comes from the same draws. The middle is the median of the law that leads (`Forecast.law`); the interval is
over the draws of all laws, each law by its weight. A mean over laws would lie between them, where none of them is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from scalerl_operator.forecast.laws import LAWS, SIGMOID, Law, curves_of, slopes_of
from scalerl_operator.forecast.points import Array, FitError, Numbers
from scalerl_operator.forecast.result import Forecast

LEVEL = 0.9  # of every interval unless the caller names another
DRIFT_DOUBLINGS = 2.0  # of compute, after which a run has wandered as far from its law as it will
ARRIVAL_STEPS = 50  # halvings of 12 decades of compute on either side of the last point
ARRIVAL_DECADES = 12.0


@dataclass(frozen=True, eq=False)
class _Component:
    """One law's draws."""

    law: Law
    draws: Array
    """[d, 4]."""
    weight: float


Values = Callable[[_Component], Array]
"""One law's draws -> [d, n]."""


def curve_band(forecast: Forecast, compute: Numbers, *, level: float = LEVEL) -> tuple[Array, Array, Array]:
    """Return the curve and the band of the run's pass rate at each compute, three arrays [n], without eval noise.

    Args:
        forecast: with draws. Raises FitError without, as after a refusal for too few points.
        compute: [n], >= 0.
        level: share of runs inside, in (0, 1).

    Past the last point the band is widened by the forecast's drift: a run leaves its law, whichever it is.
    """
    at = np.asarray(compute, dtype=np.float64)
    middle, low, high = _spread(forecast, lambda each: curves_of(each.law, each.draws, at), level)
    return _widened(middle, low, high, _z(level) * _drift(forecast, at))


def point_band(
    forecast: Forecast, compute: Numbers, standard_error: Numbers | float | None = None, *, level: float = LEVEL
) -> tuple[Array, Array, Array]:
    """Return the curve and the band of a measurement at each compute, three arrays [n].

    Args:
        forecast, compute, level: as for `curve_band`.
        standard_error: of the measurements; counts where it is above the scatter of the fitted points.
    """
    middle, low, high = curve_band(forecast, compute, level=level)
    error = np.asarray(0.0 if standard_error is None else standard_error, dtype=np.float64)
    return _widened(middle, low, high, _z(level) * np.maximum(error, forecast.sigma or 0.0))


def ceiling_interval(forecast: Forecast, *, level: float = LEVEL) -> tuple[float, float, float]:
    """Return the ceiling and its interval. Raises FitError without draws."""
    return _scalars(_spread(forecast, lambda each: each.draws[:, :1], level))


def shape_interval(forecast: Forecast, *, level: float = LEVEL) -> dict[str, tuple[float, float, float]]:
    """Return geometric mean and interval of the sigmoid's `b` and `c_mid`. Raises FitError without draws."""
    draws = np.log(_components(forecast)[0].draws[:, 1:3])
    low, high = np.exp([_between_nodes(column, _tails(level)) for column in draws.T]).T
    middle = np.exp(draws.mean(axis=0))
    return {name: (float(middle[i]), float(low[i]), float(high[i])) for i, name in enumerate(("b", "c_mid"))}


def _between_nodes(values: Array, levels: tuple[float, float]) -> Array:
    """Return quantiles of draws [d] that lie on a grid's nodes: each node's mass is spread as far as its neighbours."""
    nodes, counts = np.unique(values, return_counts=True)
    passed = (np.cumsum(counts) - 0.5 * counts) / len(values)
    between: Array = np.interp(levels, passed, nodes)
    return between


def gain_between(forecast: Forecast, start: float, end: float, *, level: float = LEVEL) -> tuple[float, float, float]:
    """Return the rise from one compute to another and its interval, with the drift. Raises FitError without draws."""
    at = np.array([start, end])
    middle, low, high = _spread(forecast, lambda each: np.diff(curves_of(each.law, each.draws, at)), level)
    return _scalars(_widened(middle, low, high, _z(level) * np.diff(_drift(forecast, at))))


def marginal_gain(forecast: Forecast, compute: float, *, level: float = LEVEL) -> tuple[float, float, float]:
    """Return the curve's rise per unit of compute at `compute` > 0 and its interval. Raises FitError without draws."""
    at = np.array([compute])
    return _scalars(_spread(forecast, lambda each: slopes_of(each.law, each.draws, at), level))


def arrival(forecast: Forecast, target: float, *, level: float = LEVEL) -> tuple[float, float, float]:
    """Return the compute at which the curve reaches the pass rate `target`, and its interval; inf is never.

    Raises FitError without draws.
    """
    if forecast.last_compute is None:
        raise FitError(f"the forecast has no curve: {forecast.reason}")
    last = forecast.last_compute
    return _scalars(_spread(forecast, lambda each: _arrivals(each, target, last), level))


def _arrivals(each: _Component, target: float, last: float) -> Array:
    """Return when each draw reaches the target, [d, 1], by bisection in log compute: every curve rises."""
    decades = np.full((len(each.draws), 1), ARRIVAL_DECADES)
    low, high = -decades, decades
    first, second = each.draws[:, 1:2], each.draws[:, 2:3]
    ceiling, start = each.draws[:, :1], each.draws[:, 3:]
    for _ in range(ARRIVAL_STEPS):
        middle = 0.5 * (low + high)
        there = start + (ceiling - start) * each.law.share(first, second, last * 10.0**middle) >= target
        low, high = np.where(there, low, middle), np.where(there, middle, high)
    found = np.where(high < decades, last * 10.0**high, np.inf)
    return np.where(start >= target, 0.0, found)


def _components(forecast: Forecast) -> list[_Component]:
    """Return the laws that have draws, the sigmoid first."""
    if not forecast.draws:
        raise FitError(f"the forecast has no curve: {forecast.reason}")
    found = [_Component(SIGMOID, np.array(forecast.draws), 1.0 if forecast.weight is None else forecast.weight)]
    found += [_Component(LAWS[r.name], np.array(r.draws), r.weight) for r in forecast.rivals if r.draws]
    return found


def _spread(forecast: Forecast, values: Values, level: float) -> tuple[Array, Array, Array]:
    """Return the middle and the interval of what `values` makes of each law's draws, three arrays [n]."""
    components = _components(forecast)
    found = [values(each) for each in components]
    weights = [np.full(len(each), part.weight / len(each)) for each, part in zip(found, components, strict=True)]
    low, high = _quantiles(np.concatenate(found), np.concatenate(weights), _tails(level))
    chosen = [part.law.name for part in components].index(forecast.law)
    middle = _quantiles(found[chosen], weights[chosen], (0.5,))[0]
    return np.clip(middle, low, high), low, high


def _quantiles(values: Array, weights: Array, levels: tuple[float, ...]) -> list[Array]:
    """Return the weighted quantiles of values [d, n], one array [n] for each level."""
    order = np.argsort(values, axis=0)
    passed = np.cumsum(weights[order], axis=0)
    ranked = np.take_along_axis(values, order, axis=0)
    total = passed[-1]
    return [
        np.take_along_axis(ranked, np.argmax(passed >= level * total - 1e-12, axis=0)[None, :], axis=0)[0]
        for level in levels
    ]


def _drift(forecast: Forecast, compute: Array) -> Array:
    """Return the sd by which the run may have left its law at each compute."""
    if forecast.drift is None or forecast.last_compute is None:
        return np.zeros_like(compute)
    doublings = np.log2(np.maximum(compute / forecast.last_compute, 1.0))
    drift: Array = forecast.drift * np.minimum(doublings, DRIFT_DOUBLINGS)
    return drift


def _widened(middle: Array, low: Array, high: Array, by: Array) -> tuple[Array, Array, Array]:
    """Return the band with an independent spread added; a pass rate stays in [0, 1]."""
    below, above = np.hypot(middle - low, by), np.hypot(high - middle, by)
    return middle, np.maximum(middle - below, 0.0), np.minimum(middle + above, 1.0)


def _tails(level: float) -> tuple[float, float]:
    return 0.5 * (1.0 - level), 0.5 * (1.0 + level)


def _z(level: float) -> float:
    return float(ndtri(_tails(level)[1]))


def _scalars(values: tuple[Array, Array, Array]) -> tuple[float, float, float]:
    return float(values[0][0]), float(values[1][0]), float(values[2][0])
