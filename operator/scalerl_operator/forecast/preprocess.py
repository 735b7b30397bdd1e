"""Which early points to leave out, by a rule that knows no unit. PURE.

The paper drops about the first epoch of its runs by eye. Here a leading stretch is left out only if the law that fits
the rest contradicts it: an F-test of the sums of squares with and without the first quarter of the points. If that
fails, and the points scatter clearly less about the curve without it, the shortest stretch is dropped without which
the quarter's remainder fits again. Points that fit badly but hardly disturb are kept: they hold the start, R0.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc

from scalerl_operator.forecast.laws import SIGMOID, gains_on
from scalerl_operator.forecast.linear import Target, solve
from scalerl_operator.forecast.noise import CURVE_PARAMETERS
from scalerl_operator.forecast.points import Array

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
