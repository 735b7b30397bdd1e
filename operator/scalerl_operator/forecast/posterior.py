"""What the points say about the sigmoid: draws of (A, B, C_mid, R0) from a grid posterior. PURE.

Priors, all weak and all stated: A uniform in [0, 1] and R0 uniform in [0, A]; C_mid log-uniform from just before the
first point to ten times the last; B log-normal about 1.7, factor 2; the noise factor of `noise.Noise`. The two linear
parameters are integrated exactly (a normal cut by the triangle 0 <= R0 <= A <= 1), the others by summing a grid that is
zoomed on to where the posterior is. No random number is drawn: the same points give the same forecast.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from scalerl_operator.forecast.laws import Law, grid
from scalerl_operator.forecast.linear import Precision, normal_equations, solve
from scalerl_operator.forecast.noise import Levels, Noise
from scalerl_operator.forecast.points import Array

ZOOMS = ((18, 10), (30, 16))  # nodes along the two shape axes after each zoom; a law with one needs the last only
KEEP = 12.0  # log weights further below the best are dropped from the grid: e^-12 of the peak
KEEP_DRAWN = 9.0  # and from the draws
SLICES = 4  # of A's distribution at one node
RIDGE = 1e-2  # adds a normal prior of sd 10 to A and R0: nothing on [0, 1], but no node is singular
GOLDEN = 0.6180339887498949  # its multiples modulo 1 fill [0, 1) evenly


@dataclass(frozen=True, eq=False)
class Posterior:
    """The posterior of one law, x in units of the last compute."""

    law: Law
    ceiling: Array
    """[d], sorted."""
    low: Array
    first: Array
    """[d]: the shape coordinates of `Law.axes`."""
    second: Array
    factor: float
    """Posterior mean of the noise factor."""
    correlation: float
    """Posterior mean of the correlation of neighbouring errors."""
    curve: Array
    """[n]: the most likely curve, for residuals."""
    log_evidence: float
    """Log of the points' density under the law, up to a constant that all laws share."""


@dataclass(frozen=True, eq=False)
class _Nodes:
    """A grid and its log weights."""

    first: Array
    second: Array
    gain: Array
    levels: Levels
    precision: Precision
    log_prior: Array
    """[m, k]: of shape and noise, and the likelihood's share that does not depend on the curve."""
    log_peak: Array
    """[m, k]: log prior and likelihood with the linear parameters at their best."""
    curve: Array
    """[n]: the most likely one."""


def fit_posterior(law: Law, x: Array, y: Array, noise: Noise, *, num_draws: int) -> Posterior:
    """Return the posterior of a law.

    Args:
        law: one of `laws`.
        x: [n >= 2], compute over the last compute, increasing from >= 0 to 1.
        y: [n], pass rates.
        noise: of the same points.
        num_draws: d, equally likely.
    """
    axes = law.axes(x)
    prior = sum(float(np.log(np.ptp(axis))) for axis in axes if len(axis) > 1)
    flat = sum(len(axis) == 1 for axis in axes)
    gain = law.gain(x, *grid(axes))
    for shape in ZOOMS[flat:]:
        chi2 = solve(gain, y, noise.precision(noise.unit())).chi2.min(axis=0)
        nodes = _weigh(law, gain, y, noise, (axes, noise.levels(chi2, fine=False)))
        axes = _zoom(nodes, axes, shape)
        gain = law.gain(x, *grid(axes))
    nodes = _weigh(law, gain, y, noise, (axes, noise.levels(chi2, fine=True)))
    cell = sum(float(np.log(axis[1] - axis[0])) for axis in axes if len(axis) > 1)
    return _draw(law, nodes, y, cell - prior, num_draws)


def _weigh(law: Law, gain: Array, y: Array, noise: Noise, at: tuple[tuple[Array, Array], Levels]) -> _Nodes:
    axes, levels = at
    first, second = grid(axes)
    precision = noise.precision(levels)
    log_prior = noise.log_density(levels) - 0.5 * law.penalty(second)[:, None]
    solution = solve(gain, y, precision)
    log_peak = log_prior - 0.5 * solution.chi2
    best = np.unravel_index(int(np.argmax(log_peak)), log_peak.shape)
    curve = solution.low[best] + (solution.ceiling[best] - solution.low[best]) * gain[best[0]]
    return _Nodes(first, second, gain, levels, precision, log_prior, log_peak, curve)


def _zoom(nodes: _Nodes, axes: tuple[Array, Array], shape: tuple[int, int]) -> tuple[Array, Array]:
    """Return finer axes over the nodes that matter and two cells around them, inside the old axes."""
    matter = nodes.log_peak.max(axis=1) > nodes.log_peak.max() - KEEP
    zoomed = []
    for axis, coordinate, size in zip(axes, (nodes.first, nodes.second), shape, strict=True):
        if len(axis) == 1:
            zoomed.append(axis)
            continue
        margin = 2.0 * (axis[1] - axis[0])
        low, high = coordinate[matter].min() - margin, coordinate[matter].max() + margin
        zoomed.append(np.linspace(max(low, axis[0]), min(high, axis[-1]), size))
    return zoomed[0], zoomed[1]


def _draw(law: Law, nodes: _Nodes, y: Array, log_cell: float, num_draws: int) -> Posterior:
    """Integrate A and R0 at the nodes that matter and thin what comes out to equal weights."""
    row, column = np.nonzero(nodes.log_peak > nodes.log_peak.max() - KEEP_DRAWN)
    eq = normal_equations(nodes.gain, y, nodes.precision)
    a, b, c = eq.a[row, column] + RIDGE, eq.b[row, column] + RIDGE, eq.c[row, column]
    p, q = eq.p[row, column] + 0.5 * RIDGE, eq.q[row, column] + 0.5 * RIDGE
    det = a * b - c**2
    free_r0, free_ceiling = (p * b - q * c) / det, (q * a - p * c) / det
    chi2 = eq.yy[column] + 0.5 * RIDGE - free_r0 * p - free_ceiling * q  # at the minimum of the uncut normal
    ceiling_cut = Cut(free_ceiling, np.sqrt(a / det), np.ones_like(det))
    ceiling = ceiling_cut.slices(SLICES)  # [node, SLICES]
    a_wide, p_wide, c_wide = (v[:, None] + np.zeros(SLICES) for v in (a, p, c))
    r0_cut = Cut((p_wide - c_wide * ceiling) / a_wide, a_wide**-0.5, ceiling)
    log_weight = nodes.log_prior[row, column] - 0.5 * (chi2 + np.log(det)) + ceiling_cut.log_mass()
    weight = np.exp(log_weight - log_weight.max())[:, None] * np.exp(r0_cut.log_mass())
    # Equal weights: walk the particles in order of A and take one wherever another 1/num_draws of the mass is passed.
    order = np.argsort(ceiling, axis=None)
    passed = np.cumsum(weight.ravel()[order])
    taken = order[np.searchsorted(passed, (np.arange(num_draws) + 0.5) / num_draws * passed[-1])]
    node = taken // SLICES
    low = Cut(*(v.ravel()[taken] for v in (r0_cut.mean, r0_cut.sd, r0_cut.high))).quantile(_spaced(num_draws))
    levels, share = nodes.levels, weight.sum(axis=1)
    return Posterior(
        law=law,
        ceiling=ceiling.ravel()[taken],
        low=low,
        first=nodes.first[row[node]],
        second=nodes.second[row[node]],
        factor=float(np.average(levels.factors[column], weights=share)),
        correlation=float(np.average(levels.correlations[column], weights=share)),
        curve=nodes.curve,
        log_evidence=float(log_weight.max() + np.log(passed[-1] / SLICES)) + log_cell,
    )


@dataclass(frozen=True, eq=False)
class Cut:
    """Normal distributions cut to [0, high], elementwise."""

    mean: Array
    sd: Array
    high: Array

    def log_mass(self) -> Array:
        """Return the log of the share that the cut leaves; very negative where none is left."""
        kept = ndtr((self.high - self.mean) / self.sd) - ndtr(-self.mean / self.sd)
        log_mass: Array = np.log(np.maximum(kept, 1e-300))
        return log_mass

    def quantile(self, u: Array) -> Array:
        """Return the quantiles at u in (0, 1) of what is left."""
        below = ndtr(-self.mean / self.sd)
        kept = ndtr((self.high - self.mean) / self.sd) - below
        uncut: Array = self.mean + self.sd * ndtri(np.clip(below + u * kept, 1e-300, 1.0))
        return np.clip(uncut, 0.0, self.high)

    def slices(self, count: int) -> Array:
        """Return one quantile out of each of `count` parts of equal mass, [m, count].

        Where in its part it lies differs from row to row: rows together fill the tails, which middles would cut off.
        """
        wide = Cut(*(v[:, None] + np.zeros(count) for v in (self.mean, self.sd, self.high)))
        return wide.quantile((np.arange(count) + _spaced(len(self.mean))[:, None]) / count)


def _spaced(count: int) -> Array:
    """Return `count` numbers that fill (0, 1) evenly, in no order."""
    spaced: Array = np.modf(np.arange(1.0, count + 1.0) * GOLDEN)[0]
    return spaced
