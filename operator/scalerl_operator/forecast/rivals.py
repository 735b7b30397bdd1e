"""Every law's fit to the same points and its weight: how far it is believed against the others. PURE.

weight = prior x density of the points under the law / (back-test error + half of the noise)

The density says how well a law describes the run, the back-test how well it predicted the run's second half. The
density is taken at its word: where a law is only near the truth, its misfit looks like errors that wander, and `noise`
has those.
"""

from dataclasses import dataclass

import numpy as np

from scalerl_operator.forecast.backtest import PLATEAU_POINTS, backtest_laws, backtest_plateau
from scalerl_operator.forecast.laws import CURVED_RIVALS, SIGMOID
from scalerl_operator.forecast.noise import Noise
from scalerl_operator.forecast.points import Array
from scalerl_operator.forecast.posterior import Posterior, fit_posteriors

PLATEAU = "plateau"
Draw = tuple[float, float, float, float]
PRIOR = {SIGMOID.name: 0.5, **{law.name: 0.5 / 3.0 for law in CURVED_RIVALS}}  # the paper's law, unless the run objects
NUM_DRAWS = 400
NUM_RIVAL_DRAWS = 100
LEAST_WEIGHT = 0.005  # a law below it has no draws: it could not move a 5 % quantile
DIGITS = 7  # of a stored draw: far below the spread of the draws, and short in JSON


@dataclass(frozen=True)
class Rival:
    """A law that was fitted beside the sigmoid."""

    name: str
    parameters: tuple[tuple[str, float], ...]
    """(name, median); compute in the points' unit."""
    ceiling: float
    rmse: float
    """Root mean squared residual of the best curve, unweighted."""
    backtest_error: float | None
    """Mean absolute error of the rolling back-test; None for a short run."""
    weight: float = 0.0
    """Its share of the interval and band; the sigmoid and all rivals sum to 1. The plateau has none: it has no past."""
    draws: tuple[Draw, ...] = ()
    """Equally likely (ceiling, two shape parameters, low); none if its weight is negligible."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """The sigmoid and its rivals on the same points."""

    sigmoid: Posterior
    draws: Array
    """[NUM_DRAWS, 4]: (A, B, C_mid, R0), C_mid in the user's unit."""
    weight: float
    backtest_error: float | None
    rivals: tuple[Rival, ...]


def fit_laws(
    x: Array, y: Array, noise: Noise, last_compute: float, *, contested: bool, r0: float | None = None
) -> Fitted:
    """Fit the sigmoid, the power law, the exponential, the logistic and the plateau, and weigh them.

    Args:
        x: [n >= 2], compute over the last compute.
        y: [n], pass rates.
        noise: of the same points.
        last_compute: turns parameters back into the user's unit.
        contested: whether rivals get a weight.
        r0: where the curves begin, if that is known.
    """
    laws = (SIGMOID, *CURVED_RIVALS)
    counts = [NUM_DRAWS, *[NUM_RIVAL_DRAWS] * len(CURVED_RIVALS)]
    sigmoid, *others = fit_posteriors(laws, x, y, noise, num_draws=counts, r0=r0)
    variance = sigmoid.factor**2 * noise.variance
    errors = backtest_laws(laws, x, y, variance, r0)
    weights = weigh([sigmoid, *others], errors, float(np.sqrt(np.median(variance)))) if contested else [1.0, 0, 0, 0]
    rivals = tuple(
        _rival(each, y, (error, weight), last_compute)
        for each, error, weight in zip(others, errors[1:], weights[1:], strict=True)
    )
    return Fitted(
        sigmoid=sigmoid,
        draws=_natural(sigmoid, last_compute),
        weight=float(weights[0]),
        backtest_error=errors[0],
        rivals=(*rivals, _plateau(x, y)),
    )


def weigh(posteriors: list[Posterior], errors: list[float | None], sigma: float) -> list[float]:
    """Return the weights of laws, which sum to 1; the formula is at the head of this module.

    Args:
        posteriors: one for each law, the sigmoid's first.
        errors: of their back-tests, all known or all None.
        sigma: noise sd of a point: a smaller difference of errors is luck.
    """
    log_weight = np.array([np.log(PRIOR[each.law.name]) + each.log_evidence for each in posteriors])
    known = [error for error in errors if error is not None]
    if known:
        log_weight = log_weight - np.log(np.array(known) + 0.5 * sigma)
    weight = np.exp(log_weight - log_weight.max())
    return [float(each) for each in weight / weight.sum()]


def _rival(found: Posterior, y: Array, scored: tuple[float | None, float], last: float) -> Rival:
    draws, (error, weight) = _natural(found, last), scored
    middle = np.median(draws, axis=0)
    return Rival(
        name=found.law.name,
        parameters=tuple((name, float(value)) for name, value in zip(found.law.names, middle, strict=True) if name),
        ceiling=float(middle[0]),
        rmse=float(np.sqrt(np.mean((y - found.curve) ** 2))),
        backtest_error=error,
        weight=weight,
        draws=as_tuples(draws) if weight >= LEAST_WEIGHT else (),
    )


def _plateau(x: Array, y: Array) -> Rival:
    level = float(y[-PLATEAU_POINTS:].mean())
    rmse = float(np.sqrt(np.mean((y[-PLATEAU_POINTS:] - level) ** 2)))
    return Rival(PLATEAU, (("ceiling", level),), level, rmse, backtest_plateau(x, y))


def as_tuples(draws: Array) -> tuple[Draw, ...]:
    """Return the rows of draws [d, 4]."""
    return tuple(map(tuple, draws.tolist()))


def _natural(found: Posterior, last_compute: float) -> Array:
    """Return the draws (ceiling, two shape parameters, low), [d, 4], in the user's unit, with DIGITS digits."""
    shape = found.law.natural(found.first, found.second, last_compute)
    draws = np.stack([found.ceiling, *shape, found.low], axis=1)
    size = np.floor(np.log10(np.maximum(np.abs(draws), 1e-300)))
    places = np.clip(DIGITS - 1 - size, -300, DIGITS + 300)
    return np.asarray(np.rint(draws * 10.0**places) / 10.0**places)
