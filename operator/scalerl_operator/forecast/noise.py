"""How far a measured pass rate scatters about its curve, and how alike neighbouring evaluations are. PURE.

Two unknowns: a factor on the evaluations' own errors, and the correlation of one evaluation's error with the next one's
(AR(1), Ornstein and Uhlenbeck's process at even spacing): training wanders about its trend more slowly than it is
measured, and a law is only near the truth. Both are integrated over, not estimated once.
"""

from dataclasses import dataclass

import numpy as np

from scalerl_operator.forecast.linear import Precision
from scalerl_operator.forecast.points import Array, Points

SMALLEST_ERROR = 1e-3  # a pass rate is rarely written more exactly; keeps noise-free input finite
SHARE_OF_MEDIAN = 0.25  # an error far below the others is an estimate from too few successes, not a better measurement
GUESS = 0.01  # without standard errors: 1,000 prompts of 16 samples scatter by .004, 200 of 4 by .018
FINE_FACTORS, COARSE_FACTORS = 6, 2  # quadrature nodes for the factor, at each correlation
CORRELATIONS = np.array([0.0, 0.3, 0.6, 0.85])  # of neighbours
INDEPENDENCE = 3.0  # samples are drawn anew at every evaluation: only what scatters beyond their error can wander
CURVE_PARAMETERS = 4


@dataclass(frozen=True, eq=False)
class Levels:
    """Quadrature nodes of the two unknowns, [k] each."""

    factors: Array
    correlations: Array
    log_share: Array
    """Log of the range of log factors that a node stands for."""


@dataclass(frozen=True, eq=False)
class Noise:
    """The errors of the points and a log-normal prior on the factor by which the scatter differs from them."""

    variance: Array
    """[n], > 0."""
    log_sd: float
    """Prior standard deviation of the log of the factor; its mean is 0."""
    smallest: float
    """Lowest factor allowed."""
    independence: float = 0.0
    """Log prior against each unit of correlation where the errors explain all of the scatter."""

    def variances(self, factors: Array) -> Array:
        """Return the points' variances under each factor, [n, k].

        Below 1 the errors shrink together: completions of one prompt are more alike than the binomial says. Above 1
        the same amount is added to all: training itself moves the curve between evaluations.
        """
        shrunk = np.minimum(factors, 1.0) ** 2 * self.variance[:, None]
        variances: Array = shrunk + np.maximum(factors**2 - 1.0, 0.0) * self.variance.mean()
        return variances

    def precision(self, levels: Levels) -> Precision:
        """Return the inverse covariances at each level."""
        n, rho = len(self.variance), levels.correlations
        scale = self.variances(levels.factors) ** -0.5
        inner = np.ones((n, 1)) * (1.0 + rho**2)
        inner[0], inner[-1] = 1.0, 1.0
        beyond = 1.0 - rho**2
        return Precision(inner / beyond * scale**2, -rho / beyond * scale[1:] * scale[:-1])

    def log_density(self, levels: Levels) -> Array:
        """Return log prior plus what the likelihood has beside chi2, for each level, up to a constant; [k]."""
        prior = levels.log_share - 0.5 * (np.log(levels.factors) / self.log_sd) ** 2
        own = np.minimum(levels.factors**-2.0, 1.0)
        prior = prior - self.independence * own * levels.correlations
        log_det = np.log(self.variances(levels.factors)).sum(axis=0)
        log_det = log_det + (len(self.variance) - 1) * np.log1p(-(levels.correlations**2))
        density: Array = prior - 0.5 * log_det
        return density

    def unit(self) -> Levels:
        """Return each of CORRELATIONS at factor 1."""
        return Levels(np.ones_like(CORRELATIONS), CORRELATIONS, np.zeros_like(CORRELATIONS))

    def levels(self, chi2: Array, *, fine: bool) -> Levels:
        """Return factors at each of CORRELATIONS that span what the best fit allows, finely or at the edges only.

        Args:
            chi2: of the best fit at `unit()`'s levels.
            fine: for sums; otherwise for finding where the posterior is.
        """
        freedom = max(len(self.variance) - CURVE_PARAMETERS, 1)
        fitted = np.log(np.maximum(np.sqrt(chi2 / freedom), self.smallest))
        precision = 2.0 * freedom + self.log_sd**-2
        centre, spread = 2.0 * freedom * fitted / precision, precision**-0.5
        low = np.maximum(centre - 2.2 * spread, np.log(self.smallest))
        high = np.maximum(centre + 3.2 * spread, low + spread)  # longer upwards: variances are skewed
        count = FINE_FACTORS if fine else COARSE_FACTORS
        factors = np.exp(np.linspace(low, high, count + 2)[1:-1])  # [count, correlations]
        share = np.log((high - low) / (count + 1))
        return Levels(factors.ravel(), np.tile(CORRELATIONS, count), np.tile(share, count))


def noise_of(points: Points) -> Noise:
    """Return the noise model of the points (at least one)."""
    error = points.standard_error
    if error is None or not (error > 0.0).any():
        return Noise(np.full(len(points), GUESS**2), log_sd=1.5, smallest=SMALLEST_ERROR / GUESS)
    floor = max(SMALLEST_ERROR, SHARE_OF_MEDIAN * float(np.median(error[error > 0.0])))
    return Noise(np.maximum(error, floor) ** 2, log_sd=0.7, smallest=0.5, independence=INDEPENDENCE)


def scatter(y: Array) -> float:
    """Return the sd of noise about a smooth y [n >= 4], whatever its shape: from second differences, robustly."""
    bend = np.abs(y[2:] - 2.0 * y[1:-1] + y[:-2])
    return float(np.median(bend) / (0.6745 * np.sqrt(6.0)))  # 0.6745: a normal's median absolute deviation
