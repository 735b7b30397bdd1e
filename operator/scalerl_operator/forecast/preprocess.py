"""Preprocessing of points before a fit: burn-in is left out, outliers are set aside, long runs are condensed. PURE.

Burn-in, by a rule that knows no unit. The paper drops about the first epoch of its runs by eye. Here a leading stretch
is left out only if the law that fits the rest contradicts it: an F-test of the sums of squares with and without the
first quarter of the points. If that fails, and the points scatter clearly less about the curve without it, the shortest
stretch is dropped without which the quarter's remainder fits again. Points that fit badly but hardly disturb are kept:
they hold the start, R0.

Outliers, found by their neighbours alone. A curve that rises lies between its neighbours. An evaluation far above or
below all four of them, two on either side, is no property of any law here: it is set aside and reported, never fitted
and never dropped in silence. Two in a row are neighbours of each other and stay: that may be the run and not the
evaluation.

Condensing: a run of very many evaluations becomes a few hundred means. Neighbours are averaged, in blocks that are
equally long in the logarithm of compute at the start and in compute later: the fit's work stays the same, and what a
block loses of the curve is far below the noise of its mean.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc

from scalerl_operator.forecast.laws import SIGMOID, gains_on
from scalerl_operator.forecast.linear import Target, solve
from scalerl_operator.forecast.noise import CURVE_PARAMETERS, scatter
from scalerl_operator.forecast.points import Array, Points

IntArray = NDArray[np.int64]

MAX_SHARE = 0.25  # of the points
MIN_POINTS = 16  # of the run; below it a quarter is too few to contradict anything
DISTURBANCE = 1.5  # times the scatter of the rest; below it dropping points costs more (R0) than it gains
GRID_ERROR = 0.02  # of the whole rise: the coarse grid's own misfit, which is not burn-in
CONTRADICTION = 1e-3  # chance of such a misfit under the law; one good run in a thousand loses points needlessly


def find_burn_in(x: Array, y: Array, variance: Array, r0: float | None = None) -> int:
    """Return how many leading points to leave out.

    Args:
        x: [n], compute over the last compute, increasing from >= 0 to 1.
        y, variance: [n], pass rates and their variances, up to a common factor.
        r0: where the curve begins, if that is known.
    """
    n = len(x)
    if n < MIN_POINTS:
        return 0
    most, gain = int(n * MAX_SHARE), gains_on(SIGMOID, x, SIGMOID.axes(x))

    def least(drop: IntArray) -> Array:
        """Return the least sum of squares without the first `drop` points, for each of `drop` [k]."""
        kept = np.arange(n)[:, None] >= drop[None, :]
        chi2: Array = solve(gain, Target(np.ones_like(y), y, kept / variance[:, None], r0)).chi2.min(axis=0)
        return chi2

    everything, rest = least(np.array([0, most]))
    freedom = n - most - CURVE_PARAMETERS
    noise = max(rest / freedom, (GRID_ERROR * float(np.ptp(y))) ** 2 / float(np.median(variance)), 1e-12)
    if everything / (n - CURVE_PARAMETERS) < DISTURBANCE**2 * noise:
        return 0
    drop = np.arange(most)
    extra = most - drop
    excess = np.maximum(least(drop) - rest, 0.0)
    fits = np.append(fdtrc(extra, freedom, excess / extra / noise) > CONTRADICTION, True)
    return int(np.argmax(fits))


MIN_OUTLIER_POINTS = 8

OUTLIER_SDS = 6.0  # beyond the neighbours' own range, in sd of the noise: one evaluation in many thousands

LEAST_OUTLIER = 0.03  # pass rate: a smaller jump does no harm

MOST_OUTLIERS = 0.1  # of the points: where more jump, jumping is the noise


def find_outliers(points: Points) -> NDArray[np.bool_]:
    """Return which points are set aside, [n]. The first and the last two are never: they have no second side."""
    y, none = points.pass_rate, np.zeros(len(points), dtype=np.bool_)
    if len(y) < MIN_OUTLIER_POINTS:
        return none
    around = np.stack([y[:-4], y[1:-3], y[3:-1], y[4:]])
    beyond = np.maximum(y[2:-2] - around.max(axis=0), around.min(axis=0) - y[2:-2])
    sd = scatter(y)
    if points.standard_error is not None:
        sd = max(sd, float(np.median(points.standard_error)))
    found = none.copy()
    found[2:-2] = beyond > max(OUTLIER_SDS * sd, LEAST_OUTLIER)
    return found if found.sum() <= max(1.0, MOST_OUTLIERS * len(y)) else none


MOST_FITTED = 160  # points that are fitted as they are; the paper's longest run has 75


def condense(points: Points) -> Points:
    """Return at most about MOST_FITTED points; a run that has no more is returned as it is."""
    n = len(points)
    if n <= MOST_FITTED:
        return points
    edges = np.union1d(np.geomspace(1, n, MOST_FITTED // 2), np.linspace(0, n, MOST_FITTED // 2)).round().astype(int)
    starts = np.unique(np.append(0, edges[edges < n]))
    count = np.diff(np.append(starts, n))

    def mean(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, starts) / count

    # Without stated errors the points' own scatter is the error: only so do blocks of unlike size weigh as they should.
    error = points.standard_error if points.standard_error is not None else np.full(n, scatter(points.pass_rate))
    return Points(
        compute=mean(points.compute),
        pass_rate=mean(points.pass_rate),
        standard_error=np.sqrt(mean(error**2) / count),
        unit=points.unit,
    )
