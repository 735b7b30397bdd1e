"""How far a measured pass rate scatters about its curve, and how alike neighbouring evaluations are. PURE.

An error has two parts. Sampling is drawn anew at every evaluation. Training wanders about its trend more slowly than
it is measured, and a law is only near the truth: that part is AR(1), alike from one evaluation to the next. Unknown
are the whole scatter, as a factor on the evaluations' own errors, how much of it wanders and how slowly; all are
integrated over.

Divided by the evaluations' own errors and cosine-transformed, the errors of such a process (reflected at both ends of
the run) are independent: a kind of error is one column of variances over frequency, and no matrix is ever inverted.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.fft import dct

from scalerl_operator.forecast.linear import Target
from scalerl_operator.forecast.points import Array, Points

SMALLEST_ERROR = 1e-3  # a pass rate is rarely written more exactly; keeps noise-free input finite
SHARE_OF_MEDIAN = 0.25  # an error far below the others is an estimate from too few successes, not a better measurement
GUESS = 0.01  # without standard errors: 1,000 prompts of 16 samples scatter by .004, 200 of 4 by .018
FACTORS = 3  # quadrature nodes for the factor, for each kind
WANDERING = tuple((share, rho) for rho in (0.3, 0.6, 0.85) for share in (0.25, 0.55, 0.85))
STEADY = 0.4  # prior that nothing wanders
CURVE_PARAMETERS = 4


@dataclass(frozen=True, eq=False)
class Kinds:
    """Kinds of error, [k] each."""

    share: Array
    """Of the variance that wanders, in [0, 1)."""
    correlation: Array
    """Of the wandering part of neighbours, in [0, 1)."""
    log_prior: Array

    def rough(self) -> "Kinds":
        """Return every third kind, for finding where a posterior is."""
        return Kinds(self.share[::3], self.correlation[::3], self.log_prior[::3])


def _kinds() -> Kinds:
    share, rho = (np.array([0.0, *column]) for column in zip(*WANDERING, strict=True))
    prior = np.append(STEADY, np.full(len(WANDERING), (1.0 - STEADY) / len(WANDERING)))
    return Kinds(share, rho, np.log(prior))


KINDS = _kinds()


@dataclass(frozen=True, eq=False)
class Noise:
    """The errors of the points and a log-normal prior on the factor by which sampling differs from them."""

    variance: Array
    """[n], > 0."""
    log_sd: float
    """Prior standard deviation of the log of sampling's factor; its mean is 0."""
    smallest: float
    """Lowest factor of sampling allowed."""
    kinds: Kinds = KINDS

    def turned(self, rows: Array) -> Array:
        """Return rows [..., n] over frequency: where the errors are independent, with variances of factor^2 spectra."""
        turned: Array = dct(rows / np.sqrt(self.variance), axis=-1, norm="ortho")
        return turned

    @cached_property
    def spectra(self) -> Array:
        """The variance at each frequency under each kind and factor 1, [n, k]; the mean over an AR(1) is 1."""
        n, rho = len(self.variance), self.kinds.correlation
        slow = (1.0 - rho**2) / (1.0 + rho**2 - 2.0 * rho * np.cos(np.pi * np.arange(n)[:, None] / n))
        spectra: Array = 1.0 - self.kinds.share + self.kinds.share * slow
        return spectra

    @cached_property
    def log_det(self) -> Array:
        """Log of the determinant of the errors' covariance under each kind at factor 1, [k], without stated errors."""
        log_det: Array = np.log(self.spectra).sum(axis=0)
        return log_det

    def target(self, y: Array, low: float | None = None) -> Target:
        """Return the points' rates y [n] over frequency, weighted for each kind at factor 1; `low` as in `Target`."""
        return Target(self.turned(np.ones_like(y)), self.turned(y), 1.0 / self.spectra, low)

    def log_density(self, factors: Array) -> Array:
        """Return log prior plus what the likelihood has beside chi2, up to a constant, [f, k] for factors [f, k]."""
        sampling = np.log(factors) + 0.5 * np.log1p(-self.kinds.share)
        prior = self.kinds.log_prior - 0.5 * (sampling / self.log_sd) ** 2
        prior = np.where(sampling < np.log(self.smallest) - 1e-9, -np.inf, prior)
        density: Array = prior - len(self.variance) * np.log(factors) - 0.5 * self.log_det
        return density

    def factors(self, chi2: Array) -> tuple[Array, Array]:
        """Return factors that span what the best fit allows, [FACTORS, k], and the log of the range each stands for.

        Args:
            chi2: [k], of the best fit under each kind at factor 1.
        """
        freedom = max(len(self.variance) - CURVE_PARAMETERS, 1)
        least = np.log(self.smallest) - 0.5 * np.log1p(-self.kinds.share)
        fitted = np.log(np.maximum(np.sqrt(chi2 / freedom), np.exp(least)))
        precision = 2.0 * freedom + self.log_sd**-2
        prior = -0.5 * np.log1p(-self.kinds.share)
        centre, spread = (2.0 * freedom * fitted + self.log_sd**-2 * prior) / precision, precision**-0.5
        low = np.maximum(centre - 2.2 * spread, least)
        high = np.maximum(centre + 3.2 * spread, low + spread)  # longer upwards: variances are skewed
        step = (high - low) / FACTORS
        return np.exp(low + step * (np.arange(FACTORS)[:, None] + 0.5)), np.log(step)


def noise_of(points: Points) -> Noise:
    """Return the noise model of the points (at least one)."""
    error = points.standard_error
    if error is None or not (error > 0.0).any():
        return Noise(np.full(len(points), GUESS**2), log_sd=1.5, smallest=SMALLEST_ERROR / GUESS)
    floor = max(SMALLEST_ERROR, SHARE_OF_MEDIAN * float(np.median(error[error > 0.0])))
    return Noise(np.maximum(error, floor) ** 2, log_sd=0.3, smallest=0.5)


def scatter(y: Array) -> float:
    """Return the sd of noise about a smooth y [n >= 4], whatever its shape: from second differences, robustly."""
    bend = np.abs(y[2:] - 2.0 * y[1:-1] + y[:-2])
    return float(np.median(bend) / (0.6745 * np.sqrt(6.0)))  # 0.6745: a normal's median absolute deviation
