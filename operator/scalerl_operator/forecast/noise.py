"""How far a measured pass rate scatters about its curve: one unknown factor on the evaluations' own error. PURE."""

from dataclasses import dataclass

import numpy as np

from scalerl_operator.forecast.points import Array, Points

SMALLEST_ERROR = 1e-3  # a pass rate is rarely written more exactly; keeps noise-free input finite
SHARE_OF_MEDIAN = 0.25  # an error far below the others is an estimate from too few successes, not a better measurement
GUESS = 0.01  # without standard errors: 1,000 prompts of 16 samples scatter by .004, 200 of 4 by .018
LEVELS = 8  # quadrature nodes for the factor
CURVE_PARAMETERS = 4


@dataclass(frozen=True, eq=False)
class Noise:
    """The errors of the points and a log-normal prior on the factor by which the scatter differs from them."""

    variance: Array
    """[n], > 0."""
    log_sd: float
    """Prior standard deviation of the log of the factor; its mean is 0."""
    smallest: float
    """Lowest factor allowed."""

    def variances(self, factors: Array) -> Array:
        """Return the points' variances under each factor, [n, k].

        Below 1 the errors shrink together: completions of one prompt are more alike than the binomial says. Above 1
        the same amount is added to all: training itself moves the curve between evaluations.
        """
        shrunk = np.minimum(factors, 1.0) ** 2 * self.variance[:, None]
        variances: Array = shrunk + np.maximum(factors**2 - 1.0, 0.0) * self.variance.mean()
        return variances

    def log_prior(self, factors: Array) -> Array:
        """Return the log density of each factor's log, up to a constant."""
        return -0.5 * (np.log(factors) / self.log_sd) ** 2

    def factors(self, chi2: float) -> Array:
        """Return LEVELS factors, evenly spaced in log, that span what the best fit's chi2 (at factor 1) allows."""
        freedom = max(len(self.variance) - CURVE_PARAMETERS, 1)
        fitted = np.log(max(np.sqrt(chi2 / freedom), self.smallest))
        precision = 2.0 * freedom + self.log_sd**-2
        centre, spread = 2.0 * freedom * fitted / precision, precision**-0.5
        low = max(centre - 2.2 * spread, float(np.log(self.smallest)))
        high = max(centre + 3.2 * spread, low + spread)  # longer upwards: variances are skewed
        factors: Array = np.exp(np.linspace(low, high, LEVELS))
        return factors


def noise_of(points: Points) -> Noise:
    """Return the noise model of the points (at least one)."""
    error = points.standard_error
    if error is None or not (error > 0.0).any():
        return Noise(np.full(len(points), GUESS**2), log_sd=1.5, smallest=SMALLEST_ERROR / GUESS)
    floor = max(SMALLEST_ERROR, SHARE_OF_MEDIAN * float(np.median(error[error > 0.0])))
    return Noise(np.maximum(error, floor) ** 2, log_sd=0.7, smallest=0.5)


def scatter(y: Array) -> float:
    """Return the sd of noise about a smooth y [n >= 4], whatever its shape: from second differences, robustly."""
    bend = np.abs(y[2:] - 2.0 * y[1:-1] + y[:-2])
    return float(np.median(bend) / (0.6745 * np.sqrt(6.0)))  # 0.6745: a normal's median absolute deviation
