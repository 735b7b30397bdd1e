"""Quality of forecasts: coverage, bias and error by verdict, from forecasts and the true curves. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from simulated_curves import LAST, Array, Truth

from scalerl_operator.forecast import Forecast, Points, fit_forecast, point_band
from scalerl_operator.forecast.laws import CURVED_RIVALS, SIGMOID, Law, curves_of
from scalerl_operator.forecast.noise import noise_of
from scalerl_operator.forecast.posterior import fit_posteriors
from scalerl_operator.forecast.rivals import NUM_DRAWS

VERDICTS = ("Identified", "Weak", "NotIdentified")


@dataclass(frozen=True)
class Assessment:
    """One simulated run and its forecast."""

    truth: Truth
    forecast: Forecast

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return self.forecast.ceiling is not None

    @property
    def covered(self) -> bool:
        """Whether the ceiling lies in its interval."""
        found = self.forecast
        return found.ceiling_low is not None and found.ceiling_low <= self.truth.ceiling <= (found.ceiling_high or 0.0)

    @property
    def error(self) -> float:
        """Predicted less true ceiling."""
        return (self.forecast.ceiling or np.nan) - self.truth.ceiling

    @property
    def width(self) -> float:
        """Width of the ceiling's interval."""
        return (self.forecast.ceiling_high or np.nan) - (self.forecast.ceiling_low or 0.0)

    @property
    def covered_later(self) -> bool:
        """Whether the curve at twice the last compute lies in its band."""
        at = float(self.truth.curve(np.array([2.0 * LAST]))[0])
        return self.forecast.low is not None and self.forecast.low <= at <= (self.forecast.high or 0.0)


def share_inside(assessments: Sequence[Assessment]) -> str:
    """Return the share of runs (at least one) whose interval holds the ceiling, with its own standard error."""
    share = float(np.mean([each.covered for each in assessments]))
    return f"{share:.0%} ± {np.sqrt(share * (1.0 - share) / len(assessments)):.0%} of {len(assessments)}"


def judge_simulated(truths: Sequence[Truth]) -> list[Assessment]:
    """Return every run with its forecast for twice its compute."""
    return [Assessment(each, fit_forecast(each.points, budget=2.0 * LAST)) for each in truths]


@dataclass(frozen=True)
class HeldBack:
    """A real curve, fitted on the first half of its compute and assessed on the rest."""

    name: str
    points: Points
    forecast: Forecast
    num_later: int
    covered: float | None
    """Share of the later points in the 90 % band of a measurement; None without a curve."""
    error: float | None
    """Mean absolute error on them."""
    bias: float | None
    law_errors: dict[str, float]
    """Mean absolute error of each law alone, fitted in the same way."""


def hold_back(name: str, curve: Points, until: float) -> HeldBack:
    """Fit the points up to compute `until` and assess the forecast, and every single law, on the others."""
    fitted, later = curve.until(until), curve.compute > until
    found = fit_forecast(fitted)
    if not found.draws:
        return HeldBack(name, curve, found, int(later.sum()), None, None, None, {})
    x, y = curve.compute[later], curve.pass_rate[later]
    errors = curve.standard_error[later] if curve.standard_error is not None else None
    middle, low, high = point_band(found, x, errors)
    used = found.kept(fitted)
    laws = {law.name: float(np.abs(_alone(law, used, x) - y).mean()) for law in (SIGMOID, *CURVED_RIVALS)}
    laws["plateau"] = float(np.abs(used.pass_rate[-3:].mean() - y).mean())
    covered = float(((y >= low) & (y <= high)).mean())
    miss = middle - y
    return HeldBack(name, curve, found, len(x), covered, float(np.abs(miss).mean()), float(miss.mean()), laws)


def _alone(law: Law, fitted: Points, compute: Array) -> Array:
    """Return the median curve of one law's posterior."""
    last = float(fitted.compute[-1])
    x = fitted.compute / last
    found = fit_posteriors([law], x, fitted.pass_rate, noise_of(fitted), num_draws=[NUM_DRAWS])[0]
    shape = law.natural(found.first, found.second, last)
    curve: Array = np.median(curves_of(law, np.stack([found.ceiling, *shape, found.low], axis=1), compute), axis=0)
    return curve
