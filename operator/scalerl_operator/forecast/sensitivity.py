"""The ceiling under other burn-ins: what hangs on points that a rule, or a user, left out or kept. PURE."""

from dataclasses import dataclass

from scalerl_operator.forecast.fit import fit_forecast
from scalerl_operator.forecast.points import Points
from scalerl_operator.forecast.result import Forecast, Verdict

SHARES = (0.0, 0.03, 0.1)  # of the last compute: the paper's 0, 1,500 and 5,000 of 50,000 GPU-hours (A.7)


@dataclass(frozen=True)
class Start:
    """A fit of the points from one compute on."""

    burn_in: float
    """Compute before which points are left out."""
    used: bool
    """Whether it is the forecast's own."""
    points: int
    verdict: Verdict
    ceiling: float | None
    """None, as its interval, where too few points are left or the run declined."""
    low: float | None
    high: float | None
    """90 % interval."""


def try_burn_ins(points: Points, forecast: Forecast, *, r0: float | None = None) -> tuple[Start, ...]:
    """Return fits of the points from the forecast's own burn-in and from SHARES of the last compute, in order.

    Starts that leave the same points are tried once. None at all where there was nothing to fit. `r0`: the start that
    the forecast was given, if it was.
    """
    if forecast.last_compute is None:
        return ()
    tried: dict[int, Start] = {}
    for start in (forecast.burn_in, *(share * forecast.last_compute for share in SHARES)):
        left = points.starting_at(start)
        if len(left) in tried or not len(left):
            continue
        used = not tried
        found = forecast if used else fit_forecast(points, burn_in=start, r0=r0)
        tried[len(left)] = Start(
            start, used, found.points, found.verdict, found.ceiling, found.ceiling_low, found.ceiling_high
        )
    return tuple(sorted(tried.values(), key=lambda each: each.burn_in))
