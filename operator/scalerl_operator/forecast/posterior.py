"""What the points say about the sigmoid: draws of (A, B, C_mid, R0) from a grid posterior. PURE.

Priors, all weak and all stated: A uniform in [0, 1] and R0 uniform in [0, A]; C_mid log-uniform from just before the
first point to ten times the last; B log-normal about 1.7, factor 2; the noise factor of `noise.Noise`. The two linear
parameters are integrated exactly (a normal cut by the triangle 0 <= R0 <= A <= 1), the others by summing a grid that is
zoomed on to where the posterior is. No random number is drawn: the same points give the same forecast.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from scalerl_operator.forecast.laws import SIGMOID, grid
from scalerl_operator.forecast.linear import normal_equations, solve
from scalerl_operator.forecast.noise import Noise
from scalerl_operator.forecast.points import Array

ZOOMS = ((24, 14), (40, 22))  # nodes along C_mid and B after each zoom
KEEP = 12.0  # log weights further below the best are dropped: e^-12 of the peak
SLICES = 5  # of A's distribution at one node
NUM_DRAWS = 400
RIDGE = 1e-2  # adds a normal prior of sd 10 to A and R0: nothing on [0, 1], but no node is singular
GOLDEN = 0.6180339887498949  # its multiples modulo 1 fill [0, 1) evenly


@dataclass(frozen=True, eq=False)
class Posterior:
    """The posterior of the sigmoid, x in units of the last compute."""

    ceiling: Array
    """[NUM_DRAWS], sorted."""
    b: Array
    c_mid: Array
    r0: Array
    factor: float
    """Posterior mean of the noise factor."""
    curve: Array
    """[n]: the curve of least squares, for residuals."""


@dataclass(frozen=True, eq=False)
class _Nodes:
    """A grid and its log weights."""

    log_c_mid: Array
    log_b: Array
    gain: Array
    factors: Array
    log_prior: Array
    """[m, k]: of shape and noise, and the likelihood's share that does not depend on the curve."""
    log_peak: Array
    """[m, k]: log prior and likelihood with the linear parameters at their best."""
    curve: Array
    """[n]: of least squares."""


def fit_posterior(x: Array, y: Array, noise: Noise) -> Posterior:
    """Return the posterior of the sigmoid.

    Args:
        x: [n >= 2], compute over the last compute, increasing from >= 0 to 1.
        y: [n], pass rates.
        noise: of the same points.
    """
    axes = SIGMOID.axes(x)
    nodes = _weigh(x, y, noise, axes)
    for shape in ZOOMS:
        axes = _zoom(nodes, axes, shape)
        nodes = _weigh(x, y, noise, axes)
    return _draw(nodes, y, noise)


def _weigh(x: Array, y: Array, noise: Noise, axes: tuple[Array, Array]) -> _Nodes:
    log_c_mid, log_b = grid(axes)
    gain = SIGMOID.gain(x, log_c_mid, log_b)
    plain = solve(gain, y, 1.0 / noise.variance[:, None])
    best = int(np.argmin(plain.chi2[:, 0]))
    curve = plain.low[best] + (plain.ceiling[best] - plain.low[best]) * gain[best]
    factors = noise.factors(float(plain.chi2[best, 0]))
    variances = noise.variances(factors)
    log_prior = noise.log_prior(factors) - 0.5 * np.log(variances).sum(axis=0)
    log_prior = log_prior - 0.5 * SIGMOID.penalty(log_b)[:, None]
    log_peak = log_prior - 0.5 * solve(gain, y, 1.0 / variances).chi2
    return _Nodes(log_c_mid, log_b, gain, factors, log_prior, log_peak, curve)


def _zoom(nodes: _Nodes, axes: tuple[Array, Array], shape: tuple[int, int]) -> tuple[Array, Array]:
    """Return finer axes over the nodes that matter and two cells around them, inside the old axes."""
    matter = nodes.log_peak.max(axis=1) > nodes.log_peak.max() - KEEP
    zoomed = []
    for axis, coordinate, size in zip(axes, (nodes.log_c_mid, nodes.log_b), shape, strict=True):
        margin = 2.0 * (axis[1] - axis[0])
        low, high = coordinate[matter].min() - margin, coordinate[matter].max() + margin
        zoomed.append(np.linspace(max(low, axis[0]), min(high, axis[-1]), size))
    return zoomed[0], zoomed[1]


def _draw(nodes: _Nodes, y: Array, noise: Noise) -> Posterior:
    """Integrate A and R0 at the nodes that matter and thin what comes out to equal weights."""
    row, column = np.nonzero(nodes.log_peak > nodes.log_peak.max() - KEEP)
    eq = normal_equations(nodes.gain, y, 1.0 / noise.variances(nodes.factors))
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
    # Equal weights: walk the particles in order of A and take one wherever another 1/NUM_DRAWS of the mass is passed.
    order = np.argsort(ceiling, axis=None)
    passed = np.cumsum(weight.ravel()[order])
    taken = order[np.searchsorted(passed, (np.arange(NUM_DRAWS) + 0.5) / NUM_DRAWS * passed[-1])]
    node = taken // SLICES
    r0 = Cut(*(v.ravel()[taken] for v in (r0_cut.mean, r0_cut.sd, r0_cut.high))).quantile(_spaced(NUM_DRAWS))
    return Posterior(
        ceiling=ceiling.ravel()[taken],
        b=np.exp(nodes.log_b[row[node]]),
        c_mid=np.exp(nodes.log_c_mid[row[node]]),
        r0=r0,
        factor=float(np.average(nodes.factors[column], weights=weight.sum(axis=1))),
        curve=nodes.curve,
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
