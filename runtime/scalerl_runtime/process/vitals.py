"""What the watchdog is told of an attempt: its last steps, and for how long none has ended. PURE."""

from collections import deque
from collections.abc import Callable

from scalerl_api.policies import VITAL_STEPS
from scalerl_api.wire import StepRecord, StepVital


class Vitals:
    """Of one attempt."""

    def __init__(self, now: Callable[[], float]):
        self._now = now
        self._steps: deque[StepVital] = deque(maxlen=VITAL_STEPS)
        self._moved: float | None = None

    def move(self) -> None:
        """The next step may begin now: one has ended, or the training begins or goes on."""
        self._moved = self._now()

    def add(self, record: StepRecord) -> None:
        """Take in a step."""
        values = record.values
        finite = not values.get("non_finite", 0.0)
        self._steps.append(
            StepVital(step=record.step, finite=finite, entropy=values.get("entropy"), lag=values.get("lag_max"))
        )

    @property
    def steps(self) -> list[StepVital]:
        """Oldest first."""
        return list(self._steps)

    @property
    def still_seconds(self) -> float | None:
        """Since `move`; None before the first."""
        return None if self._moved is None else self._now() - self._moved
