"""Plans from a pilot: when its ceiling will be known, where to stop, how to split compute over several runs. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalerl_operator.forecast.band import arrival, curve_band
from scalerl_operator.forecast.laws import B_PRIOR, SIGMOID, gradient_of
from scalerl_operator.forecast.noise import noise_of
from scalerl_operator.forecast.points import Array, FitError, Points
from scalerl_operator.forecast.preprocess import condense
from scalerl_operator.forecast.result import Forecast
from scalerl_operator.forecast.verdict import IDENTIFIED_WIDTH

Z90 = 1.6449  # half of a normal's central 90 %, in sd
REACHES = np.geomspace(1.0, 30.0, 18)  # of the pilot's last compute
MAX_DRAWS = 40  # futures that are looked at
MAX_FUTURE = 200  # points that stand for all that are still to come
C_MID_SD = 2.0  # prior sd of log C_mid, as wide as the fit's
LEVEL_SD = 0.5  # prior sd of A and R0 on [0, 1]
CHUNKS = 60  # of a budget that is split


def sigmoid_gradient(draws: Array, compute: Array) -> Array:
    """Return dR / d(A, R0, log C_mid, log B) of draws [d, 4] = (A, B, C_mid, R0) at compute [n] > 0, [d, n, 4]."""
    by_a, by_b, by_c_mid, by_r0 = np.moveaxis(gradient_of(SIGMOID, draws, compute), -1, 0)
    return np.stack([by_a, by_r0, by_c_mid * draws[:, 2, None], by_b * draws[:, 1, None]], axis=-1)


def expected_width(forecast: Forecast, curve: Points, compute: float) -> float:
    """Return the width that the ceiling's 90 % interval is expected to have once the run is at `compute`.

    Args:
        forecast: of the pilot, with draws. Raises FitError without.
        curve: the pilot's points; later ones are thought as dense, in compute, and as good as they are.
        compute: at least the pilot's last.

    Median over the forecast's sigmoids, each taken for the truth: Fisher information of all points by then and of the
    priors. Wandering errors count as fewer points. A lower bound: it knows no other law.
    """
    if not forecast.draws or forecast.sigma is None:
        raise FitError(f"the forecast has no curve: {forecast.reason}")
    used = condense(forecast.kept(curve))
    rho, variance = forecast.correlation or 0.0, noise_of(used).variance
    weights = np.median(variance) / variance * (1.0 - rho) / (1.0 + rho) / forecast.sigma**2
    at, weights = _with_future(used.compute, weights, compute)
    at, weights = at[at > 0.0], weights[at > 0.0]
    draws = np.array(forecast.draws)[:: max(1, len(forecast.draws) // MAX_DRAWS)]
    gradient = sigmoid_gradient(draws, at)
    prior = np.diag([LEVEL_SD**-2, LEVEL_SD**-2, C_MID_SD**-2, B_PRIOR[1] ** -2])
    information = np.einsum("n,dni,dnj->dij", weights, gradient, gradient) + prior
    sd = np.sqrt(np.linalg.inv(information)[:, 0, 0])
    return min(1.0, float(2.0 * Z90 * np.median(sd)))


def _with_future(measured: Array, weights: Array, until: float) -> tuple[Array, Array]:
    """Return computes and inverse variances of the points measured, [n], and of evenly spaced ones from there on.

    The future has as much information per compute as the past; so many points that it matters are merged.
    """
    ahead, span = until - float(measured[-1]), float(measured[-1] - measured[0])
    count = min(int(ahead / span * (len(measured) - 1) + 1e-9), MAX_FUTURE)
    if count == 0:
        return measured, weights
    each = float(weights[1:].sum()) / span * ahead / count
    later = np.linspace(measured[-1], until, count + 1)[1:]
    return np.append(measured, later), np.append(weights, np.full(count, each))


def identified_at(forecast: Forecast, curve: Points, *, width: float = IDENTIFIED_WIDTH) -> float | None:
    """Return the first compute at which the ceiling's interval is expected to be as narrow as `width`.

    None if not within 30 times the pilot's compute. Arguments and errors as for `expected_width`.
    """
    last = float(curve.compute[-1])
    for reach in REACHES:
        if expected_width(forecast, curve, last * float(reach)) <= width:
            return last * float(reach)
    return None


def stop_point(forecast: Forecast, *, loss: float) -> float | None:
    """Return the compute at which the run may end and lose no more than `loss` of its pass rate at the budget.

    Args:
        forecast: with a budget.
        loss: of the pass rate, > 0.

    None without a budget or a curve. It follows the middle curve, so the loss is larger in half of the runs.
    """
    if forecast.predicted_at_budget is None or forecast.budget is None:
        return None
    return min(arrival(forecast, max(forecast.predicted_at_budget - loss, 0.0))[0], forecast.budget)


@dataclass(frozen=True)
class Share:
    """One run's part of a budget."""

    compute: float
    """To spend from now on."""
    pass_rate: float
    """Where its middle curve then is."""


def split_budget(forecasts: Sequence[Forecast], budget: float) -> tuple[Share, ...]:
    """Return how to split `budget` so that the sum of the runs' pass rates is largest.

    Args:
        forecasts: one for each run, with draws, in the same unit. Raises FitError without.
        budget: compute to be spent from now on by all runs together, > 0.

    Exact for CHUNKS equal parts, by dynamic programming: near its midpoint a curve bends upwards, where taking the
    steepest first is wrong.
    """
    extra = np.linspace(0.0, budget, CHUNKS + 1)
    best, choices = np.zeros(CHUNKS + 1), []
    levels = [curve_band(each, (each.last_compute or 0.0) + extra)[0] for each in forecasts]
    for level in levels:
        value = np.full((CHUNKS + 1, CHUNKS + 1), -np.inf)  # all parts so far, this run's parts
        for own in range(CHUNKS + 1):
            value[own:, own] = best[: CHUNKS + 1 - own] + level[own]
        choices.append(value.argmax(axis=1))
        best = value.max(axis=1)
    left, shares = CHUNKS, []
    for level, choice in zip(reversed(levels), reversed(choices), strict=True):
        own = int(choice[left])
        shares.append(Share(float(extra[own]), float(level[own])))
        left -= own
    return tuple(reversed(shares))
