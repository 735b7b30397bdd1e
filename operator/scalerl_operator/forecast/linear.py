"""Closed-form weighted least squares in the two linear parameters, under 0 <= low <= ceiling <= 1. PURE."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scalerl_operator.forecast.points import Array

SINGULAR = 1e-12  # of the product of the diagonal: below it the two columns say the same


@dataclass(frozen=True, eq=False)
class Precision:
    """Inverse covariances of the points under k noise levels: tridiagonal, as those of AR(1) errors are."""

    diagonal: Array
    """[n, k], >= 0; 0 leaves a point out."""
    beside: Array | None = None
    """[n - 1, k]: between neighbours; None for independent errors."""

    def times(self, values: Array) -> Array:
        """Return precision times values [n], [n, k]."""
        product: Array = self.diagonal * values[:, None]
        if self.beside is not None:
            product[:-1] += self.beside * values[1:, None]
            product[1:] += self.beside * values[:-1, None]
        return product

    def square(self, rows: Array) -> Array:
        """Return row' precision row for each of rows [m, n], [m, k]."""
        squares: Array = (rows * rows) @ self.diagonal
        if self.beside is not None:
            squares += 2.0 * ((rows[:, :-1] * rows[:, 1:]) @ self.beside)
        return squares


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
        fitted = low * (low * self.a + 2.0 * ceiling * self.c) + ceiling**2 * self.b
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


def normal_equations(gain: Array, y: Array, precision: Precision) -> Normal:
    """Return the sums for gain [m, n], y [n] and a precision of [n, k]."""
    ones, on_y = precision.times(np.ones(len(y))), precision.times(y)
    wg, wgg, wgy = gain @ ones, precision.square(gain), gain @ on_y
    return Normal(ones.sum(axis=0) - 2.0 * wg + wgg, wgg, wg - wgg, on_y.sum(axis=0) - wgy, wgy, y @ on_y)


def solve(gain: Array, y: Array, precision: Precision) -> Solution:
    """Fit (low, ceiling) for every curve and weighting.

    Args:
        gain: [m, n], in [0, 1].
        y: [n].
        precision: of [n, k].

    The sum of squares is convex: where the free minimum breaks a bound, the best point of the triangle's three sides
    is the answer.
    """
    eq = normal_equations(gain, y, precision)
    det = eq.a * eq.b - eq.c**2
    regular = det > SINGULAR * eq.a * eq.b
    safe = np.where(regular, det, 1.0)
    low, ceiling = (eq.p * eq.b - eq.q * eq.c) / safe, (eq.q * eq.a - eq.p * eq.c) / safe
    free = regular & (low >= 0.0) & (low <= ceiling) & (ceiling <= 1.0)
    chi2 = eq.chi2(low, ceiling)
    bound = ~free
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
