"""Every law judged on the run's own past: fitted to its first points, asked about the later ones. PURE."""

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
    return mean_error(_best_curves(law, x, y, Precision(seen / variance[:, None])), x, y, starts)


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


def _best_curves(law: Law, x: Array, y: Array, weights: Precision) -> Array:
    """Return the best curve at every x under each column of weights [n, k], [k, n]: of a fine grid at its best node."""
    axes = law.axes(x)
    nodes = grid(axes)
    penalised = solve(law.gain(x, *nodes), y, weights).chi2 + law.penalty(nodes[1])[:, None]
    around = [
        grid((_around(axes[0], nodes[0][node]), _around(axes[1], nodes[1][node]))) for node in penalised.argmin(axis=0)
    ]
    count = len(around[0][0])
    first, second = (np.concatenate([each[i] for each in around]) for i in range(2))
    gain = law.gain(x, first, second)
    fitted = solve(gain, y, weights)
    curves = []
    for column in range(len(around)):  # its own grid under its own weights; the other blocks are other columns'
        own = slice(column * count, (column + 1) * count)
        best = own.start + int(np.argmin(fitted.chi2[own, column] + law.penalty(second[own])))
        low, ceiling = fitted.low[best, column], fitted.ceiling[best, column]
        curves.append(low + (ceiling - low) * gain[best])
    return np.array(curves)


def _around(axis: Array, centre: float) -> Array:
    if len(axis) == 1:
        return axis
    cell = axis[1] - axis[0]
    return np.linspace(max(centre - cell, axis[0]), min(centre + cell, axis[-1]), REFINE)
