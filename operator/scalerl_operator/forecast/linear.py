"""Closed-form weighted least squares in the two linear parameters, under 0 <= low <= ceiling <= 1. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scalerl_operator.forecast.points import Array

SINGULAR = 1e-12  # of the product of the diagonal: below it the two columns say the same
FIXED = 1e8  # inverse variance of a start that is known: .0001 of pass rate


@dataclass(frozen=True, eq=False)
class Target:
    """The points that curves are compared with, in any orthogonal coordinates in which their errors are independent."""

    one: Array
    """[n]: the constant curve of height 1; ones where the coordinates are the points themselves."""
    y: Array
    """[n]."""
    weights: Array
    """[n, k], >= 0: inverse variances under each of k assumptions; 0 leaves a coordinate out."""
    low: float | None = None
    """Where every curve begins, if that is known: as good as one more point, of inverse variance FIXED."""


@dataclass(frozen=True, eq=False)
class Normal:
    """Normal equations of R = low (1 - g) + ceiling g for m curves and k columns of weights; every array is [m, k]."""

    a: Array
    """Sum of w (1 - g)^2."""
    b: Array
    """Sum of w g^2."""
    c: Array
    """Sum of w g (1 - g)."""
    p: Array
    """Sum of w (1 - g) y."""
    q: Array
    """Sum of w g y."""
    yy: Array
    """[k]: sum of w y^2."""

    def chi2(self, low: Array, ceiling: Array) -> Array:
        """Return the weighted sum of squared residuals, [m, k], never below 0."""
        fitted = low * (low * self.a + 2.0 * ceiling * self.c) + ceiling * ceiling * self.b
        return np.maximum(self.yy - 2.0 * (low * self.p + ceiling * self.q) + fitted, 0.0)

    def where(self, chosen: NDArray[np.bool_]) -> "Normal":
        """Return the sums of the chosen ones [m, k], in one row."""
        a, b, c, p, q = (each[chosen] for each in (self.a, self.b, self.c, self.p, self.q))
        return Normal(a, b, c, p, q, np.broadcast_to(self.yy, chosen.shape)[chosen])


@dataclass(frozen=True, eq=False)
class Solution:
    """The best allowed (low, ceiling) of every curve under every column of weights; every array is [m, k]."""

    low: Array
    ceiling: Array
    chi2: Array


def normal_equations(gain: Array, target: Target) -> Normal:
    """Return the sums for gain [m, n], in the coordinates of `target`."""
    weights, k = target.weights, target.weights.shape[1]
    beside = np.concatenate([weights * target.one[:, None], weights * target.y[:, None]], axis=1)
    sums = gain @ beside  # [m, 2 k]
    wg, wgy, wgg = sums[:, :k], sums[:, k:], (gain * gain) @ weights
    ones, on_y, yy = target.one @ beside[:, :k], target.one @ beside[:, k:], target.y @ beside[:, k:]
    c = wg - wgg
    a, p = ones - wg - c, on_y - wgy
    if target.low is None:
        return Normal(a, wgg, c, p, wgy, yy)
    return Normal(a + FIXED, wgg, c, p + FIXED * target.low, wgy, yy + FIXED * target.low**2)


def solve(gain: Array, target: Target) -> Solution:
    """Fit (low, ceiling) for every curve and weighting.

    Args:
        gain: [m, n], in [0, 1] before it was turned into the coordinates of `target`.
        target: the points.

    The sum of squares is convex: where the free minimum breaks a bound, the best point of the triangle's three sides
    is the answer.
    """
    return solve_normal(normal_equations(gain, target))


def solve_each(gains: Sequence[Array], target: Target) -> list[Solution]:
    """Return `solve` of each block of curves, in one pass."""
    found, ends = solve(np.concatenate(gains), target), np.cumsum([len(gain) for gain in gains])[:-1]
    blocks = zip(*(np.split(each, ends) for each in (found.low, found.ceiling, found.chi2)), strict=True)
    return [Solution(low, ceiling, chi2) for low, ceiling, chi2 in blocks]


def solve_normal(eq: Normal) -> Solution:
    """Return the same from the sums."""
    full = eq.a * eq.b
    det = full - eq.c * eq.c
    regular = det > SINGULAR * full
    safe = np.where(regular, det, 1.0)
    low, ceiling = (eq.p * eq.b - eq.q * eq.c) / safe, (eq.q * eq.a - eq.p * eq.c) / safe
    chi2 = eq.chi2(low, ceiling)
    bound = ~(regular & (low >= 0.0) & (low <= ceiling) & (ceiling <= 1.0))
    if bound.any():
        low[bound], ceiling[bound], chi2[bound] = _solve_on_sides(eq.where(bound))
    return Solution(low, ceiling, chi2)


def _solve_on_sides(eq: Normal) -> tuple[Array, Array, Array]:
    """Return (low, ceiling, chi2), the best of the sides low = 0, ceiling = 1 and low = ceiling."""
    zero, one = np.zeros_like(eq.a), np.ones_like(eq.a)
    level = _clipped(eq.p + eq.q, eq.a + 2.0 * eq.c + eq.b)
    low, ceiling = zero, _clipped(eq.q, eq.b)
    best = eq.chi2(low, ceiling)
    for side_low, side_ceiling in ((_clipped(eq.p - eq.c, eq.a), one), (level, level)):
        chi2 = eq.chi2(side_low, side_ceiling)
        better = chi2 < best
        low, ceiling = np.where(better, side_low, low), np.where(better, side_ceiling, ceiling)
        best = np.where(better, chi2, best)
    return low, ceiling, best


def _clipped(numerator: Array, denominator: Array) -> Array:
    ratio = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0.0)
    return np.clip(ratio, 0.0, 1.0)
