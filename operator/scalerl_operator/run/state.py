"""The state of a run in a word, read from its conditions. PURE."""

from datetime import datetime

from scalerl_api import RLRunStatus
from scalerl_api.status import (
    ForecastStatus,
)


def state_word(status: RLRunStatus | None) -> str:
    """Return the STATE column: how it ended, else what it is doing. Derived from the conditions alone."""
    if status is None:
        return "Pending"
    found = {each.type: each for each in status.conditions}
    for name in ("Complete", "Failed"):
        if name in found and found[name].status == "True":
            return found[name].reason
    return found["Progressing"].reason if "Progressing" in found else "Pending"


def is_over(status: RLRunStatus | None) -> bool:
    """Whether the run is Complete or Failed."""
    found = status.conditions if status is not None else []
    return any(each.type in ("Complete", "Failed") and each.status == "True" for each in found)


def over_since(status: RLRunStatus | None) -> datetime | None:
    """Return when the run became Complete or Failed; None if it is neither."""
    found = status.conditions if status is not None else []
    times = [
        each.last_transition_time for each in found if each.type in ("Complete", "Failed") and each.status == "True"
    ]
    return max(times, default=None)


def format_ceiling(forecast: ForecastStatus | None) -> str:
    """Return `0.61 [0.59,0.63]`, or the verdict where there is no number to believe."""
    if forecast is None:
        return "-"
    return forecast.summary or forecast.verdict
