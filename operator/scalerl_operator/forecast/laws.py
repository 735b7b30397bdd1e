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
B_NORMALISER = 2.0 * float(np.log(B_PRIOR[1] * np.sqrt(2.0 * np.pi) / np.log(B_RANGE[1] / B_RANGE[0])))
OLDEST = 1e-6  # of the last compute; keeps the search finite when the first point is next to zero


@dataclass(frozen=True)
class Law:
    """One family of curves with one or two shape parameters."""

    name: str
    axes: Callable[[Array], tuple[Array, Array]]
    """Points' x [n] -> grids of the two shape coordinates, evenly spaced; the second is [0.0] if there is one only."""
    gain: Callable[[Array, Array, Array], Array]
    """x [n], coordinates [m], [m] -> g [m, n], rising in x."""
    natural: Callable[[Array, Array, float, float], tuple[Array, Array]]
    """Coordinates [d], [d], last compute, first compute above 0 -> the two shape parameters in the user's units [d]."""
    share: Callable[[Array, Array, Array], Array]
    """Shape parameters [d, 1], [d, 1], compute [n] -> g [d, n]: as `gain`, in the user's units."""
    slope: Callable[[Array, Array, Array], Array]
    """The same -> dg/dC per unit of compute, [d, n]."""
    names: tuple[str, str, str, str]
    """Of a draw's four numbers: ceiling, the two shape parameters, low."""
    penalty: Callable[[Array], Array] = np.zeros_like
    """Second coordinate -> minus twice its log prior, to be added to chi2."""


def first_positive(x: Array) -> float:
    """Return the smallest x above 0, at least OLDEST; 1.0 if there is none."""
    above = x[x > 0.0]
    return max(float(above[0]), OLDEST) if len(above) else 1.0


def log_compute(x: Array) -> Array:
    """Return log x with -inf at 0, where every law is at its start."""
    return np.log(x, out=np.full_like(x, -np.inf), where=x > 0.0)


def sigmoid_gain(x: Array, log_c_mid: Array, log_b: Array) -> Array:
    """Return 1 / (1 + (C_mid / C)^B), [m, n]; 0 at C = 0. Source: Eq. 1 of arXiv:2510.13786."""
    slope = np.exp(log_b)[:, None]
    gain: Array = expit(slope * (log_compute(x)[None, :] - log_c_mid[:, None]))
    return gain


def _sigmoid_axes(x: Array) -> tuple[Array, Array]:
    earliest = np.log(first_positive(x)) - 1.0  # a run may have been past its midpoint when it was first measured
    return np.linspace(earliest, np.log(C_MID_BEYOND), 36), np.linspace(np.log(B_RANGE[0]), np.log(B_RANGE[1]), 14)


def _power_gain(x: Array, log_exponent: Array, _: Array) -> Array:
    """Return 1 - (C_1 / C)^B from the first positive compute on; the law has no value at 0, and 0 stands there."""
    start = np.log(first_positive(x))
    age = np.maximum(log_compute(x), start) - start
    gain: Array = -np.expm1(-np.exp(log_exponent)[:, None] * age[None, :])
    return gain


def _exponential_gain(x: Array, log_tau: Array, _: Array) -> Array:
    gain: Array = -np.expm1(-x[None, :] / np.exp(log_tau)[:, None])
    return gain


def _logistic_gain(x: Array, middle: Array, log_width: Array) -> Array:
    gain: Array = expit((x[None, :] - middle[:, None]) / np.exp(log_width)[:, None])
    return gain


def _sigmoid_share(b: Array, c_mid: Array, compute: Array) -> Array:
    share: Array = expit(b * (log_compute(compute) - np.log(c_mid)))
    return share


def _sigmoid_slope(b: Array, c_mid: Array, compute: Array) -> Array:
    share = _sigmoid_share(b, c_mid, compute)
    slope: Array = b / compute * share * (1.0 - share)
    return slope


def _power_share(exponent: Array, first: Array, compute: Array) -> Array:
    share: Array = -np.expm1(-exponent * np.maximum(log_compute(compute) - np.log(first), 0.0))
    return share


def _power_slope(exponent: Array, first: Array, compute: Array) -> Array:
    slope: Array = exponent / compute * (1.0 - _power_share(exponent, first, compute)) * (compute >= first)
    return slope


def _exponential_share(tau: Array, _: Array, compute: Array) -> Array:
    share: Array = -np.expm1(-compute / tau)
    return share


def _exponential_slope(tau: Array, _: Array, compute: Array) -> Array:
    slope: Array = np.exp(-compute / tau) / tau
    return slope


def _logistic_share(middle: Array, width: Array, compute: Array) -> Array:
    share: Array = expit((compute - middle) / width)
    return share


def _logistic_slope(middle: Array, width: Array, compute: Array) -> Array:
    share = _logistic_share(middle, width, compute)
    slope: Array = share * (1.0 - share) / width
    return slope


SIGMOID = Law(
    "sigmoid",
    _sigmoid_axes,
    sigmoid_gain,
    lambda log_c_mid, log_b, last, _: (np.exp(log_b), np.exp(log_c_mid) * last),
    _sigmoid_share,
    _sigmoid_slope,
    ("ceiling", "b", "c_mid", "r0"),
    lambda log_b: np.square((log_b - B_PRIOR[0]) / B_PRIOR[1]) + B_NORMALISER,
)
POWER_LAW = Law(  # the paper's A.4: R = A - D / C^B
    "power law",
    lambda _: (np.linspace(np.log(0.02), np.log(5.0), 40), np.zeros(1)),
    _power_gain,
    lambda log_exponent, _, __, first: (np.exp(log_exponent), np.full_like(log_exponent, first)),
    _power_share,
    _power_slope,
    ("ceiling", "b", "first", "at_first"),
)
EXPONENTIAL = Law(
    "exponential",
    lambda x: (np.linspace(np.log(first_positive(x)) - 1.0, np.log(C_MID_BEYOND), 40), np.zeros(1)),
    _exponential_gain,
    lambda log_tau, _, last, __: (np.exp(log_tau) * last, np.zeros_like(log_tau)),
    _exponential_share,
    _exponential_slope,
    ("ceiling", "tau", "", "r0"),
)
LOGISTIC = Law(
    "logistic",
    lambda _: (np.linspace(-0.5, 1.5, 28), np.linspace(np.log(0.02), np.log(1.0), 12)),
    _logistic_gain,
    lambda middle, log_width, last, _: (middle * last, np.exp(log_width) * last),
    _logistic_share,
    _logistic_slope,
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


def grid(axes: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return the coordinates of every node of the two axes, each [m]."""
    first, second = np.meshgrid(*axes, indexing="ij")
    return first.ravel(), second.ravel()
