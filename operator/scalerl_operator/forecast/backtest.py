"""Every law judged on the run's own past: fitted to its first points, asked about the later ones. PURE."""

from dataclasses import dataclass

import numpy as np

from scalerl_operator.forecast.laws import Law, grid
from scalerl_operator.forecast.linear import Precision, solve
from scalerl_operator.forecast.points import Array

MAX_ORIGINS = 5
MIN_ORIGIN = 5  # points before the first origin: fewer fit any law
MIN_AHEAD = 2  # points after the last origin
HORIZON = 2.0  # an origin at C is asked about points up to 2 C, as the paper's own extrapolations are
REFINE = 7  # nodes along each axis of the second grid: a third of the first's spacing
PLATEAU_POINTS = 3  # a plateau is the mean of the last values: one alone is mostly noise


@dataclass(frozen=True, eq=False)
class _Best:
    """The best curve of a law."""

    shape: tuple[float, float]
    low: float
    ceiling: float
    curve: Array
    """[n]: at every point of the run, fitted or not."""


def origins(n: int) -> list[int]:
    """Return the prefix lengths from which the rest of the run is forecast; empty for a short run."""
    first, last = max(MIN_ORIGIN, n // 2), n - MIN_AHEAD
    if last < first:
        return []
    return sorted({round(k) for k in np.linspace(first, last, MAX_ORIGINS)})


def backtest_law(law: Law, x: Array, y: Array, variance: Array) -> float | None:
    """Return a law's mean absolute error in the rolling back-test; None for a short run.

    Args:
        x: [n], compute over the last compute.
        y, variance: [n], pass rates and their variances.
    """
    starts = origins(len(x))
    if not starts:
        return None
    seen = np.arange(len(x))[:, None] < np.array(starts)[None, :]
    curves = _best_curves(law, x, y, seen / variance[:, None])
    return mean_error(np.array([best.curve for best in curves]), x, y, starts)


def backtest_plateau(x: Array, y: Array) -> float | None:
    """Return the same of the mean of the last PLATEAU_POINTS values."""
    starts = origins(len(x))
    predicted = np.array([np.full(len(x), y[max(0, k - PLATEAU_POINTS) : k].mean()) for k in starts])
    return mean_error(predicted, x, y, starts)


def mean_error(predicted: Array, x: Array, y: Array, starts: list[int]) -> float | None:
    """Return the mean over origins of the mean absolute error up to HORIZON times the origin's compute."""
    errors = []
    for row, k in zip(predicted, starts, strict=True):
        ahead = x[k:] <= max(HORIZON * x[k - 1], x[k])
        errors.append(float(np.abs(row[k:] - y[k:])[ahead].mean()))
    return float(np.mean(errors)) if errors else None


def _best_curves(law: Law, x: Array, y: Array, weights: Array) -> list[_Best]:
    """Return the best curve under each column of weights [n, k]: the best node, then the best of a fine grid there."""
    axes = law.axes(x)
    nodes = grid(axes)
    penalised = solve(law.gain(x, *nodes), y, Precision(weights)).chi2 + law.penalty(nodes[1])[:, None]
    curves = []
    for column, node in enumerate(np.argmin(penalised, axis=0)):
        around = [_around(axis, at[node]) for axis, at in zip(axes, nodes, strict=True)]
        first, second = grid((around[0], around[1]))
        gain = law.gain(x, first, second)
        fitted = solve(gain, y, Precision(weights[:, column : column + 1]))
        best = int(np.argmin(fitted.chi2[:, 0] + law.penalty(second)))
        low, ceiling = float(fitted.low[best, 0]), float(fitted.ceiling[best, 0])
        shape = (float(first[best]), float(second[best]))
        curves.append(_Best(shape, low, ceiling, low + (ceiling - low) * gain[best]))
    return curves


def _around(axis: Array, centre: float) -> Array:
    if len(axis) == 1:
        return axis
    cell = axis[1] - axis[0]
    return np.linspace(max(centre - cell, axis[0]), min(centre + cell, axis[-1]), REFINE)
