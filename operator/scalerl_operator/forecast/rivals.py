"""The other laws, fitted to the same points, and every law judged on the run's own past. PURE."""

from dataclasses import dataclass

import numpy as np

from scalerl_operator.forecast.laws import CURVED_RIVALS, SIGMOID, Law, grid
from scalerl_operator.forecast.linear import solve
from scalerl_operator.forecast.points import Array

PLATEAU = "plateau"
PLATEAU_POINTS = 3  # a plateau is the mean of the last values: one alone is mostly noise
MAX_ORIGINS = 5
MIN_ORIGIN = 5  # points before the first origin: fewer fit any law
MIN_AHEAD = 2  # points after the last origin
HORIZON = 2.0  # an origin at C is asked about points up to 2 C, as the paper's own extrapolations are
REFINE = 9  # nodes along each axis of the second grid: a quarter of the first's spacing


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


@dataclass(frozen=True, eq=False)
class _Coarse:
    """A law's coarse grid over the run."""

    law: Law
    axes: tuple[Array, Array]
    nodes: tuple[Array, Array]
    gain: Array
    """[m, n]."""


@dataclass(frozen=True, eq=False)
class _Best:
    """The best curve of a law."""

    shape: tuple[float, float]
    low: float
    ceiling: float
    curve: Array
    """[n]: at every point of the run, fitted or not."""


def fit_rivals(x: Array, y: Array, variance: Array, last_compute: float) -> tuple[Rival, ...]:
    """Fit the power law, the exponential, the logistic and the plateau.

    Args:
        x: [n >= 2], compute over the last compute.
        y, variance: [n], pass rates and their variances.
        last_compute: turns parameters back into the user's unit.
    """
    curved = tuple(_fit_law(_coarse(law, x), x, y, variance, last_compute) for law in CURVED_RIVALS)
    return (*curved, _fit_plateau(x, y))


def sigmoid_backtest(x: Array, y: Array, variance: Array) -> float | None:
    """Return the sigmoid's mean absolute error in the rolling back-test."""
    return _backtest(_coarse(SIGMOID, x), x, y, variance)


def backtest_origins(n: int) -> list[int]:
    """Return the prefix lengths from which the rest of the run is forecast; empty for a short run."""
    first, last = max(MIN_ORIGIN, n // 2), n - MIN_AHEAD
    if last < first:
        return []
    return sorted({round(k) for k in np.linspace(first, last, MAX_ORIGINS)})


def _coarse(law: Law, x: Array) -> _Coarse:
    axes = law.axes(x)
    nodes = grid(axes)
    return _Coarse(law, axes, nodes, law.gain(x, *nodes))


def _fit_law(coarse: _Coarse, x: Array, y: Array, variance: Array, last_compute: float) -> Rival:
    best = _best_curves(coarse, x, y, 1.0 / variance[:, None])[0]
    return Rival(
        name=coarse.law.name,
        parameters=coarse.law.parameters((best.low, best.ceiling), best.shape, last_compute),
        ceiling=best.ceiling,
        rmse=float(np.sqrt(np.mean((y - best.curve) ** 2))),
        backtest_error=_backtest(coarse, x, y, variance),
    )


def _best_curves(coarse: _Coarse, x: Array, y: Array, weights: Array) -> list[_Best]:
    """Return the best curve under each column of weights [n, k]: the best node, then the best of a fine grid there."""
    penalised = solve(coarse.gain, y, weights).chi2 + coarse.law.penalty(coarse.nodes[1])[:, None]
    curves = []
    for column, node in enumerate(np.argmin(penalised, axis=0)):
        around = [_around(axis, at[node]) for axis, at in zip(coarse.axes, coarse.nodes, strict=True)]
        first, second = grid((around[0], around[1]))
        gain = coarse.law.gain(x, first, second)
        fitted = solve(gain, y, weights[:, column : column + 1])
        best = int(np.argmin(fitted.chi2[:, 0] + coarse.law.penalty(second)))
        low, ceiling = float(fitted.low[best, 0]), float(fitted.ceiling[best, 0])
        shape = (float(first[best]), float(second[best]))
        curves.append(_Best(shape, low, ceiling, low + (ceiling - low) * gain[best]))
    return curves


def _around(axis: Array, centre: float) -> Array:
    if len(axis) == 1:
        return axis
    cell = axis[1] - axis[0]
    return np.linspace(max(centre - cell, axis[0]), min(centre + cell, axis[-1]), REFINE)


def _fit_plateau(x: Array, y: Array) -> Rival:
    origins = backtest_origins(len(x))
    level = float(y[-PLATEAU_POINTS:].mean())
    rmse = float(np.sqrt(np.mean((y[-PLATEAU_POINTS:] - level) ** 2)))
    predicted = np.array([np.full(len(x), y[max(0, k - PLATEAU_POINTS) : k].mean()) for k in origins])
    return Rival(PLATEAU, (("ceiling", level),), level, rmse, _mean_error(predicted, x, y, origins))


def _backtest(coarse: _Coarse, x: Array, y: Array, variance: Array) -> float | None:
    """Fit every prefix, one column of weights each, and predict what came after it."""
    origins = backtest_origins(len(x))
    if not origins:
        return None
    seen = np.arange(len(x))[:, None] < np.array(origins)[None, :]
    curves = _best_curves(coarse, x, y, seen / variance[:, None])
    return _mean_error(np.array([best.curve for best in curves]), x, y, origins)


def _mean_error(predicted: Array, x: Array, y: Array, origins: list[int]) -> float | None:
    """Return the mean over origins of the mean absolute error up to HORIZON times the origin's compute."""
    errors = []
    for row, k in zip(predicted, origins, strict=True):
        ahead = x[k:] <= max(HORIZON * x[k - 1], x[k])
        errors.append(float(np.abs(row[k:] - y[k:])[ahead].mean()))
    return float(np.mean(errors)) if errors else None
