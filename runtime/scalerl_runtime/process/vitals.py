"""The data of the watchdog: an attempt's last steps, and the time since the last one ended. PURE."""

from collections import deque
from collections.abc import Callable

from scalerl_api.policies import VITAL_STEPS
from scalerl_api.wire import StepRecord, StepVital


class Vitals:
    """Vitals of one attempt."""

    def __init__(self, now: Callable[[], float]):
        self._now = now
        self._steps: deque[StepVital] = deque(maxlen=VITAL_STEPS)
        self._moved_at: float | None = None

    def move(self) -> None:
        """Restart the time without a step: one has ended, or training begins or resumes."""
        self._moved_at = self._now()

    def add(self, record: StepRecord) -> None:
        """Record a step."""
        values = record.values
        finite = not values.get("non_finite", 0.0)
        self._steps.append(
            StepVital(
                step=record.step,
                finite=finite,
                entropy=values.get("entropy"),
                lag=values.get("lag_max"),
                mismatch=values.get("mismatch_lag0"),
                gradient=values.get("zero_variance_share", 0.0) < 1.0,
                reward=record.reward,
            )
        )

    @property
    def steps(self) -> list[StepVital]:
        """Oldest first."""
        return list(self._steps)

    @property
    def still_seconds(self) -> float | None:
        """Seconds since `move`; None before the first."""
        return None if self._moved_at is None else self._now() - self._moved_at
