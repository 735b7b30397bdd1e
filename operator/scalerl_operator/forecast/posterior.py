"""The posterior of each law on a grid, and draws of its parameters. PURE.

Priors, all weak and all stated: A uniform in [0, 1] and R0 uniform in [0, A]; C_mid log-uniform from just before the
first point to ten times the last; B log-normal about 1.7, factor 2; the errors of `noise.Noise`. The two linear
parameters are integrated exactly (a normal cut by the triangle 0 <= R0 <= A <= 1), the others by summing a grid that is
zoomed on to where the posterior is. No random number is drawn: the same points give the same forecast.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from scalerl_operator.forecast.laws import Law, gains_on, grid
from scalerl_operator.forecast.linear import Normal, Solution, Target, normal_equations, solve_normal
from scalerl_operator.forecast.noise import Noise
from scalerl_operator.forecast.points import Array

Axes = tuple[Array, Array]
Indices = NDArray[np.int64]

ZOOMS = ((18, 10), (26, 14))  # nodes along the two shape axes after each zoom
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
    """Posterior mean of the noise factor, of sampling and wandering together."""
    correlation: float
    """Posterior mean of the correlation of neighbouring errors."""
    spectrum: Array
    """[n]: posterior mean of the errors' variance over frequency, of `Noise.turned` points."""
    curve: Array
    """[n]: the most likely curve, for residuals."""
    log_evidence: float
    """Log of the points' density under the law, up to a constant that all laws share."""


@dataclass(frozen=True, eq=False)
class _Data:
    """The data that all laws are fitted to."""

    x: Array
    noise: Noise
    target: Target


@dataclass(frozen=True, eq=False)
class _Nodes:
    """One law's grid, and how likely its nodes are."""

    law: Law
    axes: Axes
    factors: Array
    """[f, k]."""
    log_prior: Array
    """[f, m, k]: of shape and noise, and the likelihood's share that does not depend on the curve."""
    log_peak: Array
    """[f, m, k]: log prior and likelihood with the linear parameters at their best."""
    normal: Normal
    solution: Solution


@dataclass(frozen=True, eq=False)
class _Cells:
    """A law's nodes, each under one kind and size of error, [cell]: A and R0 are normal there, but for their bounds."""

    row: Indices
    column: Indices
    factor: Array
    log_weight: Array
    """With A and R0 integrated, but for R0's bounds."""
    ceiling: "Cut"
    a: Array
    c: Array
    p: Array

    def r0_given(self, ceiling: Array) -> "Cut":
        """Return R0's distribution for each ceiling [cell, s]."""
        a = self.a[:, None]
        mean = (self.p[:, None] - self.c[:, None] * ceiling) / a
        return Cut(mean, np.broadcast_to(a**-0.5, ceiling.shape), ceiling)


def fit_posteriors(
    laws: Sequence[Law], x: Array, y: Array, noise: Noise, *, num_draws: Sequence[int], r0: float | None = None
) -> list[Posterior]:
    """Return the posterior of each law.

    Args:
        laws: some of `laws`.
        x: [n >= 2], compute over the last compute, increasing from >= 0 to 1.
        y: [n], pass rates.
        noise: of the same points.
        num_draws: d of each law, equally likely.
        r0: where the curves begin, if that is known.
    """
    rough = replace(noise, kinds=noise.kinds.rough())
    axes, data = [law.axes(x) for law in laws], _Data(x, rough, rough.target(y, r0))
    for shape in ZOOMS:
        axes = [_zoom(each, shape) for each in _weigh(laws, axes, data)]
    data = _Data(x, noise, noise.target(y, r0))
    nodes = _weigh(laws, axes, data)
    return [_draw(each, data, count) for each, count in zip(nodes, num_draws, strict=True)]


def _weigh(laws: Sequence[Law], axes: Sequence[Axes], data: _Data) -> list[_Nodes]:
    """Solve for the linear parameters at all nodes of all laws in one pass."""
    x, noise, target = data.x, data.noise, data.target
    gains = noise.turned(np.concatenate([gains_on(law, x, each) for law, each in zip(laws, axes, strict=True)]))
    eq = normal_equations(gains, target)
    found = solve_normal(eq)
    ends = np.cumsum([len(first) * len(second) for first, second in axes])
    nodes = []
    for law, each, end in zip(laws, axes, ends, strict=True):
        own = slice(end - len(each[0]) * len(each[1]), end)
        solution = Solution(found.low[own], found.ceiling[own], found.chi2[own])
        normal = Normal(eq.a[own], eq.b[own], eq.c[own], eq.p[own], eq.q[own], eq.yy)
        factors, log_range = noise.factors(solution.chi2.min(axis=0))
        shape = -0.5 * law.penalty(*grid(each))
        density = noise.log_density(factors) + log_range
        if target.low is not None:
            density = density - np.log(factors)  # its weight is scaled as the points' are, and must not tell of them
        log_prior = density[:, None, :] + shape[None, :, None]
        log_peak = log_prior - 0.5 * solution.chi2 * factors[:, None, :] ** -2.0
        nodes.append(_Nodes(law, each, factors, log_prior, log_peak, normal, solution))
    return nodes


def _zoom(nodes: _Nodes, shape: tuple[int, int]) -> Axes:
    """Return finer axes over the nodes that matter and a cell around them, inside the old axes."""
    matter = nodes.log_peak.max(axis=(0, 2)) > nodes.log_peak.max() - KEEP
    on_axes = matter.reshape(len(nodes.axes[0]), len(nodes.axes[1]))
    sizes = shape if len(nodes.axes[1]) > 1 else (sum(shape), 1)
    return _around(nodes.axes[0], on_axes.any(axis=1), sizes[0]), _around(nodes.axes[1], on_axes.any(axis=0), sizes[1])


def _around(axis: Array, matter: NDArray[np.bool_], size: int) -> Array:
    if len(axis) == 1:
        return axis
    cell, inside = axis[1] - axis[0], axis[matter]
    return np.linspace(max(inside[0] - cell, axis[0]), min(inside[-1] + cell, axis[-1]), size)


def _log_cell(axes: Axes, whole: Axes) -> float:
    """Return the log of a node's share of the prior's range."""
    pairs = [(axis, all_of_it) for axis, all_of_it in zip(axes, whole, strict=True) if len(axis) > 1]
    return sum(float(np.log((axis[1] - axis[0]) / np.ptp(all_of_it))) for axis, all_of_it in pairs)


def _draw(nodes: _Nodes, data: _Data, num_draws: int) -> Posterior:
    """Integrate A and R0 at the nodes that matter and thin what comes out to equal weights."""
    cells = _cells(nodes)
    ceiling = cells.ceiling.slices(SLICES)  # [cell, SLICES]
    r0_cut = cells.r0_given(ceiling)
    weight = np.exp(cells.log_weight - cells.log_weight.max())[:, None] * np.exp(r0_cut.log_mass())
    # Equal weights: walk the particles in order of A and take one wherever another 1/num_draws of the mass is passed.
    order = np.argsort(ceiling, axis=None)
    passed = np.cumsum(weight.ravel()[order])
    taken = order[np.searchsorted(passed, (np.arange(num_draws) + 0.5) / num_draws * passed[-1])]
    node = taken // SLICES
    low = Cut(*(v.ravel()[taken] for v in (r0_cut.mean, r0_cut.sd, r0_cut.high))).quantile(_spaced(num_draws))
    first, second = grid(nodes.axes)
    share, kinds = weight.sum(axis=1) / passed[-1], data.noise.kinds
    size = np.bincount(cells.column, weights=share * cells.factor**2, minlength=len(kinds.share))
    return Posterior(
        law=nodes.law,
        ceiling=ceiling.ravel()[taken],
        low=low,
        first=first[cells.row[node]],
        second=second[cells.row[node]],
        factor=float(share @ cells.factor),
        correlation=float(share @ (kinds.share * kinds.correlation)[cells.column]),
        spectrum=data.noise.spectra @ size,
        curve=_best_curve(nodes, data.x),
        log_evidence=float(cells.log_weight.max() + np.log(passed[-1] / SLICES))
        + _log_cell(nodes.axes, nodes.law.axes(data.x)),
    )


def _cells(nodes: _Nodes) -> _Cells:
    """Return the cells of the grid that hold more than e^-KEEP_DRAWN of what the heaviest holds."""
    level, row, column = np.nonzero(nodes.log_peak > nodes.log_peak.max() - KEEP)
    factor = nodes.factors[level, column]
    eq = _scaled(nodes.normal, row, column, factor**-2.0)
    det = eq.a * eq.b - eq.c**2
    low, ceiling = (eq.p * eq.b - eq.q * eq.c) / det, (eq.q * eq.a - eq.p * eq.c) / det
    chi2 = eq.yy + 0.5 * RIDGE - low * eq.p - ceiling * eq.q  # at the minimum of the uncut normal
    cut = Cut(ceiling, np.sqrt(eq.a / det), np.ones_like(det))
    log_weight = nodes.log_prior[level, row, column] - 0.5 * (chi2 + np.log(det)) + cut.log_mass()
    heavy = log_weight > log_weight.max() - KEEP_DRAWN
    return _Cells(
        row=row[heavy],
        column=column[heavy],
        factor=factor[heavy],
        log_weight=log_weight[heavy],
        ceiling=Cut(cut.mean[heavy], cut.sd[heavy], cut.high[heavy]),
        a=eq.a[heavy],
        c=eq.c[heavy],
        p=eq.p[heavy],
    )


def _scaled(eq: Normal, row: Indices, column: Indices, scale: Array) -> Normal:
    """Return the sums at chosen (row, column), with all weights times `scale` and the ridge's prior added."""
    a, b, c, p, q = (each[row, column] * scale for each in (eq.a, eq.b, eq.c, eq.p, eq.q))
    return Normal(a + RIDGE, b + RIDGE, c, p + 0.5 * RIDGE, q + 0.5 * RIDGE, eq.yy[column] * scale)


def _best_curve(nodes: _Nodes, x: Array) -> Array:
    """Return the most likely curve, [n]."""
    _, row, column = np.unravel_index(int(np.argmax(nodes.log_peak)), nodes.log_peak.shape)
    first, second = grid(nodes.axes)
    low, ceiling = nodes.solution.low[row, column], nodes.solution.ceiling[row, column]
    curve: Array = low + (ceiling - low) * nodes.law.gain(x, first[row], second[row])
    return curve


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
        wide = Cut(*(v[:, None] for v in (self.mean, self.sd, self.high)))
        return wide.quantile((np.arange(count) + _spaced(len(self.mean))[:, None]) / count)


def _spaced(count: int) -> Array:
    """Return `count` numbers that fill (0, 1) evenly, in no order."""
    spaced: Array = np.modf(np.arange(1.0, count + 1.0) * GOLDEN)[0]
    return spaced
