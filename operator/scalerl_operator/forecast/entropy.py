"""Entropy's decay and when it reaches a floor: a warning of its own. PURE.

The paper finds that entropy falls in every run and does not equate a low one with saturation (A.12); nor does this. The
laws are those of the pass rate, turned over: 1 - H / (a little more than its largest value) rises.
"""

from dataclasses import dataclass

import numpy as np

from scalerl_operator.forecast.band import arrival
from scalerl_operator.forecast.fit import fit_forecast
from scalerl_operator.forecast.points import FitError, Numbers, points
from scalerl_operator.forecast.result import Forecast

ROOM = 1.25  # above the largest value, so that it does not lie at the laws' bound


@dataclass(frozen=True)
class EntropyForecast:
    """When entropy reaches a floor; computes in the unit that was given."""

    floor: float
    """Nats per token."""
    compute: float | None
    """At which the middle curve is there; None if never, or not known."""
    low: float | None
    high: float | None
    """90 % interval; None for no end."""
    asymptote: float | None
    """Where the middle curve ends, nats per token."""
    reason: str


def forecast_entropy(compute: Numbers, entropy: Numbers, *, floor: float, unit: str = "GPU-h") -> EntropyForecast:
    """Return when the entropy of a run will reach `floor`.

    Args:
        compute: [n], as for `points`.
        entropy: [n], nats per token, at least 0.
        floor: nats per token, >= 0.

    Raises FitError for values outside these ranges.
    """
    values = np.array(entropy, dtype=np.float64)
    if not (np.isfinite(values) & (values >= 0.0)).all() or not values.any():
        raise FitError("entropy must be finite, at least 0, and not 0 everywhere")
    if floor < 0.0:
        raise FitError(f"floor is {floor:g}; need at least 0")
    scale = ROOM * float(values.max())
    found = fit_forecast(points(compute, 1.0 - values / scale, unit=unit))
    target = 1.0 - floor / scale
    if not found.draws or found.ceiling is None:
        return EntropyForecast(floor, None, None, None, None, _refusal(found))
    if target <= 0.0:
        return EntropyForecast(floor, 0.0, 0.0, 0.0, scale * (1.0 - found.ceiling), "the run began below the floor")
    middle, low, high = (value if np.isfinite(value) else None for value in arrival(found, target))
    asymptote = scale * (1.0 - found.ceiling)
    ends = f"its decay ends near {asymptote:.3g} nats"
    where = "never in the most likely course" if middle is None else f"near {middle:.4g} {unit}"
    return EntropyForecast(floor, middle, low, high, asymptote, f"entropy reaches {floor:g} {where}; {ends}")


def _refusal(found: Forecast) -> str:
    if "declined" in found.reason or "collapsed" in found.reason:
        return "entropy rises again: no law of decay describes it"
    return f"entropy's decay is not known: {found.reason}"
