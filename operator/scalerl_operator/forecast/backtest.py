"""Back-test of every law on the run's own past: fitted to its first points, scored on the later ones. PURE."""

from collections.abc import Sequence

import numpy as np

from scalerl_operator.forecast.laws import Law, gains_on, grid
from scalerl_operator.forecast.linear import Solution, Target, solve_each
from scalerl_operator.forecast.points import Array

MAX_ORIGINS = 5
MIN_ORIGIN = 5  # points before the first origin: fewer fit any law
MIN_AHEAD = 2  # points after the last origin
HORIZON = 2.0  # an origin at C is scored on points up to 2 C, as the paper's own extrapolations are
REFINE = 7  # nodes along each axis of the second grid: a third of the first's spacing
PLATEAU_POINTS = 3  # a plateau is the mean of the last values: one alone is mostly noise


def origins(n: int) -> list[int]:
    """Return the prefix lengths from which the rest of the run is forecast; empty for a short run."""
    first, last = max(MIN_ORIGIN, n // 2), n - MIN_AHEAD
    if last < first:
        return []
    return sorted({round(k) for k in np.linspace(first, last, MAX_ORIGINS)})


def backtest_laws(
    laws: Sequence[Law], x: Array, y: Array, variance: Array, r0: float | None = None
) -> list[float | None]:
    """Return each law's mean absolute error in the rolling back-test; None for a short run.

    Args:
        laws: some of `laws`.
        x: [n], compute over the last compute.
        y, variance: [n], pass rates and their variances.
        r0: where the curves begin, if that is known.
    """
    starts = origins(len(x))
    if not starts:
        return [None] * len(laws)
    fitted = np.arange(len(x))[:, None] < np.array(starts)[None, :]
    target = Target(np.ones_like(y), y, fitted / variance[:, None], r0)
    return [mean_error(curves, x, y, starts) for curves in _best_curves(laws, x, target)]


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


def _best_curves(laws: Sequence[Law], x: Array, target: Target) -> list[Array]:
    """Return each law's best curve at every x under each column of weights, [k, n]: of a fine grid at its best node."""
    axes = [law.axes(x) for law in laws]
    coarse = solve_each([gains_on(law, x, each) for law, each in zip(laws, axes, strict=True)], target)
    fine = [_around_best(law, each, found) for law, each, found in zip(laws, axes, coarse, strict=True)]
    gains = [law.gain(x, first.ravel(), second.ravel()) for law, (first, second) in zip(laws, fine, strict=True)]
    column, curves = np.arange(target.weights.shape[1]), []
    for law, nodes, gain, found in zip(laws, fine, gains, solve_each(gains, target), strict=True):
        chi2 = found.chi2.reshape(*nodes[0].shape, -1)[column, :, column]  # its own nodes under its own weights
        row = column * nodes[0].shape[1] + (chi2 + law.penalty(*nodes)).argmin(axis=1)
        low, ceiling = found.low[row, column, None], found.ceiling[row, column, None]
        curves.append(low + (ceiling - low) * gain[row])
    return curves


def _around_best(law: Law, axes: tuple[Array, Array], found: Solution) -> tuple[Array, Array]:
    """Return the nodes around the best node of the law's whole grid, for each column of weights, [k, nodes] each."""
    first, second = grid(axes)
    best = (found.chi2 + law.penalty(first, second)[:, None]).argmin(axis=0)
    steps = grid((_steps(axes[0]), _steps(axes[1])))
    return (
        np.clip(first[best][:, None] + steps[0], axes[0][0], axes[0][-1]),
        np.clip(second[best][:, None] + steps[1], axes[1][0], axes[1][-1]),
    )


def _steps(axis: Array) -> Array:
    """Return steps over a cell on either side."""
    return np.linspace(axis[0] - axis[1], axis[1] - axis[0], REFINE) if len(axis) > 1 else np.zeros(1)
