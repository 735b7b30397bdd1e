"""Entropy's decay and when it reaches a floor: a warning of its own. PURE.

The paper finds that entropy falls in every run and does not equate a low one with saturation (A.12); nor does this. The
laws are those of the pass rate, turned over: 1 - H / (a little more than its largest value) rises.
"""

from dataclasses import dataclass

import numpy as np

from scalerl_operator.forecast.band import arrival
from scalerl_operator.forecast.fit import fit_forecast
from scalerl_operator.forecast.points import FitError, Numbers, parse_column, points, reject
from scalerl_operator.forecast.result import Forecast

ROOM = 1.25  # above the largest value, so that it does not lie at the laws' bound
LATEST = 3  # values whose median decides that a floor is reached: one alone may be chance


@dataclass(frozen=True)
class EntropyForecast:
    """When entropy reaches a floor; computes in the unit that was given."""

    floor: float
    """Nats per token."""
    compute: float | None
    """At which the middle curve is there, or the first value was; None if never, or not known."""
    low: float | None
    high: float | None
    """90 % interval; None for no end, and both None where there is no curve."""
    asymptote: float | None
    """Where the middle curve ends, nats per token; None if not known."""
    reason: str


def forecast_entropy(compute: Numbers, entropy: Numbers, *, floor: float, unit: str = "GPU-h") -> EntropyForecast:
    """Return when the entropy of a run will reach `floor`.

    Args:
        compute: [n], as for `points`.
        entropy: [n], nats per token, at least 0.
        floor: nats per token, >= 0.

    A decay that is not identified has no compute, unless the last values are at the floor already: then that of the
    first one there. Raises FitError for values outside these ranges.
    """
    x = parse_column("compute", compute)
    values = parse_column("entropy", entropy, size=len(x))
    reject("entropy", values, values < 0.0, "a number of at least 0")
    if not 0.0 <= floor < np.inf:
        raise FitError(f"floor is {floor:g}; need a finite number of at least 0")
    scale = ROOM * float(values.max(initial=0.0)) or 1.0
    found = fit_forecast(points(x, 1.0 - values / scale, unit=unit))
    asymptote = None if found.verdict == "NotIdentified" or found.ceiling is None else scale * (1.0 - found.ceiling)
    decay = (
        f"decay ends near {asymptote:.3g} nats"
        if asymptote is not None
        else f"decay is not known: {_why(found, scale)}"
    )
    if asymptote is not None and floor < scale:
        middle, low, high = (value if np.isfinite(value) else None for value in arrival(found, 1.0 - floor / scale))
        reason = f"entropy {_arrives(floor, (middle, low, high), unit)}; its {decay}"
        return EntropyForecast(floor, middle, low, high, asymptote, reason)
    if len(values) and np.median(values[-LATEST:]) <= floor:
        first = float(x[np.argmax(values <= floor)])
        reason = f"entropy was measured at or below {floor:g} first at {first:.4g} {unit}; its {decay}"
        return EntropyForecast(floor, first, None, None, asymptote, reason)
    return EntropyForecast(floor, None, None, None, None, f"entropy's {decay}")


def _arrives(floor: float, arrivals: tuple[float | None, float | None, float | None], unit: str) -> str:
    middle, low, high = ("?" if value is None else f"{value:.4g}" for value in arrivals)
    if arrivals[0] is not None:
        return f"reaches {floor:g} near {middle} {unit}, 90 % interval [{low}, {high}]"
    earliest = "" if arrivals[1] is None else f", at the earliest it does near {low} {unit}"
    return f"never reaches {floor:g} in the most likely course{earliest}"


def _why(found: Forecast, scale: float) -> str:
    """Rewrite the verdict about 1 - H / scale in nats."""
    last, half, sigma = found.last_compute, found.c_mid, found.sigma
    if "declined" in found.reason or "collapsed" in found.reason:
        return "it rises again, and no law of decay describes that"
    if last is None or half is None or sigma is None:
        return found.reason
    if "no rise" in found.reason:
        return f"no fall beyond the noise (sd {scale * sigma:.3g} nats) in {found.points} values"
    if last < half:
        where = f"half of it would be near {half:.4g} {found.unit}, the last value is at {last:.4g}"
        return f"it has not reached its bend; {where}"
    low, high = (scale * (1.0 - (end or 0.0)) for end in (found.ceiling_high, found.ceiling_low))
    return f"it could end anywhere in [{low:.3g}, {high:.3g}] nats"
