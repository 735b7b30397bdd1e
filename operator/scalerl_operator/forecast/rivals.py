"""The other laws, fitted to the same points, and every law judged on the run's own past. PURE."""

from dataclasses import dataclass

import numpy as np

from scalerl_operator.forecast.laws import CURVED_RIVALS, SIGMOID, Law, grid
from scalerl_operator.forecast.linear import solve
from scalerl_operator.forecast.points import Array
from scalerl_operator.forecast.posterior import B_PRIOR

PLATEAU = "plateau"
PLATEAU_POINTS = 3  # a plateau is the mean of the last values: one alone is mostly noise
MAX_ORIGINS = 6
MIN_ORIGIN = 5  # points before the first origin: fewer fit any law
MIN_AHEAD = 2  # points after the last origin
HORIZON = 2.0  # an origin at C is asked about points up to 2 C, as the paper's own extrapolations are
REFINE = 15  # nodes along each axis of the second, finer grid


@dataclass(frozen=True)
class Rival:
    """A law that was fitted beside the sigmoid."""

    name: str
    parameters: tuple[tuple[str, float], ...]
    """(name, value); compute in the points' unit."""
    ceiling: float
    rmse: float
    """Root mean squared residual, unweighted."""
    backtest_error: float | None
    """Mean absolute error of the rolling back-test; None for a short run."""


def fit_rivals(x: Array, y: Array, variance: Array, last_compute: float) -> tuple[Rival, ...]:
    """Fit the power law, the exponential, the logistic and the plateau.

    Args:
        x: [n >= 2], compute over the last compute.
        y, variance: [n], pass rates and their variances.
        last_compute: turns parameters back into the user's unit.
    """
    origins = backtest_origins(len(x))
    curved = tuple(_fit_law(law, x, y, variance, last_compute, origins) for law in CURVED_RIVALS)
    return (*curved, _fit_plateau(x, y, origins))


def sigmoid_backtest(x: Array, y: Array, variance: Array) -> float | None:
    """Return the sigmoid's mean absolute error in the rolling back-test."""
    coordinates = grid(SIGMOID.axes(x))
    penalty = ((coordinates[1] - B_PRIOR[0]) / B_PRIOR[1]) ** 2
    return _backtest(SIGMOID.gain(x, *coordinates), penalty, x, y, variance, backtest_origins(len(x)))


def backtest_origins(n: int) -> list[int]:
    """Return the prefix lengths from which the rest of the run is forecast; empty for a short run."""
    first, last = max(MIN_ORIGIN, n // 2), n - MIN_AHEAD
    if last < first:
        return []
    return sorted({round(k) for k in np.linspace(first, last, MAX_ORIGINS)})


def _fit_law(law: Law, x: Array, y: Array, variance: Array, last_compute: float, origins: list[int]) -> Rival:
    axes = law.axes(x)
    coordinates = grid(axes)
    gain = law.gain(x, *coordinates)
    error = _backtest(gain, np.zeros(len(gain)), x, y, variance, origins)
    weights = 1.0 / variance[:, None]
    best = int(np.argmin(solve(gain, y, weights).chi2[:, 0]))
    around = tuple(_around(axis, c[best]) for axis, c in zip(axes, coordinates, strict=True))
    first, second = grid((around[0], around[1]))
    gain = law.gain(x, first, second)
    fitted = solve(gain, y, weights)
    best = int(np.argmin(fitted.chi2[:, 0]))
    low, ceiling = float(fitted.low[best, 0]), float(fitted.ceiling[best, 0])
    residual = y - low - (ceiling - low) * gain[best]
    shape = (float(first[best]), float(second[best]))
    rmse = float(np.sqrt(np.mean(residual**2)))
    return Rival(law.name, law.parameters((low, ceiling), shape, last_compute), ceiling, rmse, error)


def _around(axis: Array, centre: float) -> Array:
    if len(axis) == 1:
        return axis
    cell = axis[1] - axis[0]
    return np.linspace(max(centre - cell, axis[0]), min(centre + cell, axis[-1]), REFINE)


def _fit_plateau(x: Array, y: Array, origins: list[int]) -> Rival:
    level = float(y[-PLATEAU_POINTS:].mean())
    rmse = float(np.sqrt(np.mean((y[-PLATEAU_POINTS:] - level) ** 2)))
    predicted = np.array([np.full(len(x), y[max(0, k - PLATEAU_POINTS) : k].mean()) for k in origins])
    return Rival(PLATEAU, (("ceiling", level),), level, rmse, _mean_error(predicted, x, y, origins))


def _backtest(gain: Array, penalty: Array, x: Array, y: Array, variance: Array, origins: list[int]) -> float | None:
    """Fit every prefix at once, one column of weights each, and predict what came after it."""
    if not origins:
        return None
    seen = np.arange(len(x))[:, None] < np.array(origins)[None, :]
    fitted = solve(gain, y, seen / variance[:, None])
    best = np.argmin(fitted.chi2 + penalty[:, None], axis=0)
    column = np.arange(len(origins))
    low, ceiling = fitted.low[best, column][:, None], fitted.ceiling[best, column][:, None]
    return _mean_error(low + (ceiling - low) * gain[best], x, y, origins)


def _mean_error(predicted: Array, x: Array, y: Array, origins: list[int]) -> float | None:
    """Return the mean over origins of the mean absolute error up to HORIZON times the origin's compute."""
    errors = []
    for row, k in zip(predicted, origins, strict=True):
        ahead = x[k:] <= max(HORIZON * x[k - 1], x[k])
        errors.append(float(np.abs(row[k:] - y[k:])[ahead].mean()))
    return float(np.mean(errors)) if errors else None
