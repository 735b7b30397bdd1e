"""The laws of a learning curve, each as a share of the gain: R = low (1 - g) + ceiling g. PURE.

For fixed shape parameters every law is linear in (low, ceiling), which `linear.solve` finds in closed form. Compute is
counted in units of the last point's, x in [0, 1]: nothing below depends on whether it is 1e-6 or 1e12.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from scalerl_operator.forecast.points import Array

B_PRIOR = (float(np.log(1.7)), float(np.log(2.0)))  # log mean and sd; the paper's runs have 1.09 to 2.44 (Table 1)
B_RANGE = (0.3, 8.0)  # two sd and more on either side
C_MID_BEYOND = 10.0  # a midpoint further out than ten times the data leaves no trace in them
EXPONENT_RANGE = (0.1, 8.0)  # of the power law, which is the sigmoid's far end with the same exponent: the same prior
OLDEST = 1e-6  # of the last compute; keeps the search finite when the first point is next to zero


@dataclass(frozen=True)
class Law:
    """One family of curves with one or two shape parameters."""

    name: str
    axes: Callable[[Array], tuple[Array, Array]]
    """Points' x [n] -> grids of the two shape coordinates, evenly spaced; the second is [0.0] if there is one only."""
    gain: Callable[[Array, Array, Array], Array]
    """x [n], two coordinates that broadcast to [...] -> g [..., n], rising in x."""
    natural: Callable[[Array, Array, float], tuple[Array, Array]]
    """Coordinates [d], [d], last compute -> the two shape parameters in the user's units [d]."""
    share: Callable[[Array, Array, Array], Array]
    """Shape parameters [d, 1], [d, 1], compute [n] -> g [d, n]: as `gain`, in the user's units."""
    slope: Callable[[Array, Array, Array], Array]
    """The same -> dg/dC per unit of compute, [d, n]."""
    bend: Callable[[Array, Array, Array], tuple[Array, Array]]
    """The same -> dg by the first and by the second shape parameter, [d, n] each; 0 for one that is not there."""
    names: tuple[str, str, str, str]
    """Of a draw's four numbers: ceiling, the two shape parameters, low."""
    penalty: Callable[[Array, Array], Array] = lambda first, _: np.zeros_like(first)
    """Two coordinates [m] -> minus twice their log prior against the uniform one of their range, added to chi2."""


def first_positive(x: Array) -> float:
    """Return the smallest x above 0, at least OLDEST; 1.0 if there is none."""
    above = x[x > 0.0]
    return max(float(above[0]), OLDEST) if len(above) else 1.0


def log_compute(x: Array) -> Array:
    """Return log x with -inf at 0, where every law is at its start."""
    return np.log(x, out=np.full_like(x, -np.inf), where=x > 0.0)


def _log_normal(coordinate: Array, prior: tuple[float, float], limits: tuple[float, float]) -> Array:
    """Return the penalty of a log-normal prior on a parameter whose log is the coordinate."""
    level = 2.0 * float(np.log(prior[1] * np.sqrt(2.0 * np.pi) / np.log(limits[1] / limits[0])))
    penalty: Array = np.square((coordinate - prior[0]) / prior[1]) + level
    return penalty


def sigmoid_gain(x: Array, log_c_mid: Array, log_b: Array) -> Array:
    """Return 1 / (1 + (C_mid / C)^B), [..., n]; 0 at C = 0. Source: Eq. 1 of arXiv:2510.13786."""
    slope = np.exp(log_b)[..., None]
    return _logistic(np.exp(slope * log_c_mid[..., None]), np.exp(-slope * log_compute(x)))


def _logistic(middle: Array, ahead: Array) -> Array:
    """Return 1 / (1 + middle ahead): on a grid each factor has one exponential for each column, not for each node."""
    gain: Array = middle * ahead
    gain += 1.0
    return np.divide(1.0, gain, out=gain)


def _sigmoid_axes(x: Array) -> tuple[Array, Array]:
    earliest = np.log(first_positive(x)) - 1.0  # a run may have been past its midpoint when it was first measured
    return np.linspace(earliest, np.log(C_MID_BEYOND), 30), np.linspace(np.log(B_RANGE[0]), np.log(B_RANGE[1]), 12)


def _power_axes(x: Array) -> tuple[Array, Array]:
    first = np.log(first_positive(x))
    onset = np.linspace(first - 2.0, max(first + 1.0, float(np.log(0.1))), 8)
    return np.linspace(np.log(EXPONENT_RANGE[0]), np.log(EXPONENT_RANGE[1]), 20), onset


def _power_gain(x: Array, log_exponent: Array, log_onset: Array) -> Array:
    """Return 1 - (C_1 / C)^B from the onset C_1 on, 0 before: the law alone has no value at 0."""
    age = np.maximum(log_compute(x) - log_onset[..., None], 0.0)
    gain: Array = -np.expm1(-np.exp(log_exponent)[..., None] * age)
    return gain


def _exponential_gain(x: Array, log_tau: Array, _: Array) -> Array:
    gain: Array = -np.expm1(-x / np.exp(log_tau)[..., None])
    return gain


def _logistic_gain(x: Array, middle: Array, log_width: Array) -> Array:
    width = np.exp(log_width)[..., None]
    return _logistic(np.exp(middle[..., None] / width), np.exp(-x / width))


def _sigmoid_share(b: Array, c_mid: Array, compute: Array) -> Array:
    share: Array = expit(b * (log_compute(compute) - np.log(c_mid)))
    return share


def _sigmoid_slope(b: Array, c_mid: Array, compute: Array) -> Array:
    share = _sigmoid_share(b, c_mid, compute)
    slope: Array = b / compute * share * (1.0 - share)
    return slope


def _sigmoid_bend(b: Array, c_mid: Array, compute: Array) -> tuple[Array, Array]:
    share = _sigmoid_share(b, c_mid, compute)
    bend = share * (1.0 - share)
    return bend * np.log(compute / c_mid), -bend * b / c_mid


def _power_share(exponent: Array, first: Array, compute: Array) -> Array:
    share: Array = -np.expm1(-exponent * np.maximum(log_compute(compute) - np.log(first), 0.0))
    return share


def _power_slope(exponent: Array, first: Array, compute: Array) -> Array:
    slope: Array = exponent / compute * (1.0 - _power_share(exponent, first, compute)) * (compute >= first)
    return slope


def _power_bend(exponent: Array, first: Array, compute: Array) -> tuple[Array, Array]:
    left = (1.0 - _power_share(exponent, first, compute)) * (compute >= first)
    return left * np.log(compute / first), -left * exponent / first


def _exponential_share(tau: Array, _: Array, compute: Array) -> Array:
    share: Array = -np.expm1(-compute / tau)
    return share


def _exponential_slope(tau: Array, _: Array, compute: Array) -> Array:
    slope: Array = np.exp(-compute / tau) / tau
    return slope


def _exponential_bend(tau: Array, _: Array, compute: Array) -> tuple[Array, Array]:
    bend: Array = -compute * np.exp(-compute / tau) / tau**2
    return bend, np.zeros_like(bend)


def _logistic_share(middle: Array, width: Array, compute: Array) -> Array:
    share: Array = expit((compute - middle) / width)
    return share


def _logistic_slope(middle: Array, width: Array, compute: Array) -> Array:
    share = _logistic_share(middle, width, compute)
    slope: Array = share * (1.0 - share) / width
    return slope


def _logistic_bend(middle: Array, width: Array, compute: Array) -> tuple[Array, Array]:
    slope = _logistic_slope(middle, width, compute)
    return -slope, -slope * (compute - middle) / width


SIGMOID = Law(
    "sigmoid",
    _sigmoid_axes,
    sigmoid_gain,
    lambda log_c_mid, log_b, last: (np.exp(log_b), np.exp(log_c_mid) * last),
    _sigmoid_share,
    _sigmoid_slope,
    _sigmoid_bend,
    ("ceiling", "b", "c_mid", "r0"),
    lambda _, log_b: _log_normal(log_b, B_PRIOR, B_RANGE),
)
POWER_LAW = Law(  # the paper's A.4: R = A - D / C^B
    "power law",
    _power_axes,
    _power_gain,
    lambda log_exponent, log_onset, last: (np.exp(log_exponent), np.exp(log_onset) * last),
    _power_share,
    _power_slope,
    _power_bend,
    ("ceiling", "b", "onset", "r0"),
    lambda log_exponent, _: _log_normal(log_exponent, B_PRIOR, EXPONENT_RANGE),
)
EXPONENTIAL = Law(
    "exponential",
    lambda x: (np.linspace(np.log(first_positive(x)) - 1.0, np.log(C_MID_BEYOND), 40), np.zeros(1)),
    _exponential_gain,
    lambda log_tau, _, last: (np.exp(log_tau) * last, np.zeros_like(log_tau)),
    _exponential_share,
    _exponential_slope,
    _exponential_bend,
    ("ceiling", "tau", "", "r0"),
)
LOGISTIC = Law(
    "logistic",
    lambda _: (np.linspace(-0.5, 1.5, 24), np.linspace(np.log(0.02), np.log(1.0), 10)),
    _logistic_gain,
    lambda middle, log_width, last: (middle * last, np.exp(log_width) * last),
    _logistic_share,
    _logistic_slope,
    _logistic_bend,
    ("ceiling", "middle", "width", "lower"),
)
CURVED_RIVALS = (POWER_LAW, EXPONENTIAL, LOGISTIC)
LAWS = {law.name: law for law in (SIGMOID, *CURVED_RIVALS)}


def curves_of(law: Law, draws: Array, compute: Array) -> Array:
    """Return the pass rates of draws [d, 4] = (ceiling, two shape parameters, low) at compute [n], [d, n]."""
    ceiling, first, second, low = (draws[:, i, None] for i in range(4))
    curves: Array = low + (ceiling - low) * law.share(first, second, compute)
    return curves


def slopes_of(law: Law, draws: Array, compute: Array) -> Array:
    """Return the rise per unit of compute of draws [d, 4] at compute [n] > 0, [d, n]."""
    ceiling, first, second, low = (draws[:, i, None] for i in range(4))
    slopes: Array = (ceiling - low) * law.slope(first, second, compute)
    return slopes


def gradient_of(law: Law, draws: Array, compute: Array) -> Array:
    """Return dR by (ceiling, two shape parameters, low) of draws [d, 4] at compute [n] > 0, [d, n, 4]."""
    ceiling, first, second, low = (draws[:, i, None] for i in range(4))
    share, bends = law.share(first, second, compute), law.bend(first, second, compute)
    return np.stack([share, *((ceiling - low) * bend for bend in bends), 1.0 - share], axis=-1)


def gains_on(law: Law, x: Array, axes: tuple[Array, Array]) -> Array:
    """Return a law's gain at x [n] at every node of the two axes, [m, n]; nodes in the order of `grid`."""
    return law.gain(x, axes[0][:, None], axes[1][None, :]).reshape(-1, len(x))


def grid(axes: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return the coordinates of every node of the two axes, each [m]."""
    return np.repeat(axes[0], len(axes[1])), np.tile(axes[1], len(axes[0]))
