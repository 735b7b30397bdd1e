"""What an actuator has seen of a run: its attempts, its coordinator's last word, its measured points. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from scalerl_api.policies import WatchAction
from scalerl_api.status import AttemptStatus, EarlierAttempts, ForecastStatus, StopStatus
from scalerl_api.wire import Checkpoint, EvalPoint, Progress
from scalerl_operator.run.conditions import WatchRule


@dataclass(frozen=True)
class ObservedState:
    """Everything a decision may look at, as of one moment."""

    attempts: tuple[AttemptStatus, ...] = ()
    """Oldest first; the last one may be running."""
    first_attempt: int = 1
    """Earlier ones belong to an invocation that is over: a person has asked again, so they spend no restart."""
    progress: Progress | None = None
    """The last answer of the running attempt."""
    heard: datetime | None = None
    """When that answer came; None while the running attempt has not answered."""
    watched: datetime | None = None
    """Since when this operator asks the coordinator.

    Silence before that says nothing; None: since the attempt's start.
    """
    earlier: EarlierAttempts = EarlierAttempts()
    """Attempts before the listed ones."""
    evals: tuple[EvalPoint, ...] = ()
    """The run's points, without doubles."""
    left: Checkpoint | None = None
    """The newest checkpoint in last words that are newer than that answer."""
    eta_seconds: float | None = None
    """Predicted time to the end of the budget."""
    members_serve: bool = False
    """On a cluster: every other trainer runs, if it was told to end too: the coordinator can still save with them."""
    interrupts: int = 0
    """How often a person asked to end it: once is gracefully, twice is now."""

    @property
    def running(self) -> AttemptStatus | None:
        """The attempt that is alive."""
        return self.attempts[-1] if self.attempts and not self.attempts[-1].over else None

    @property
    def current(self) -> tuple[AttemptStatus, ...]:
        """The attempts of this invocation."""
        return tuple(each for each in self.attempts if each.number >= self.first_attempt)


@dataclass(frozen=True)
class Alarm:
    """A rule of the watchdog that is broken now."""

    rule: WatchRule
    action: WatchAction
    message: str
    """The numbers, in one sentence that does not change while nothing happens."""


@dataclass(frozen=True)
class Assessment:
    """What follows from the observed state: the last forecast, the stop policy that holds, the watchdog's alarms."""

    forecast: ForecastStatus | None = None
    stop: StopStatus | None = None
    alarms: tuple[Alarm, ...] = ()
    """The one with the gravest action first."""


def last_checkpoint_step(attempts: Sequence[AttemptStatus]) -> int | None:
    """Return the newest checkpoint that any of `attempts` is known to have left."""
    return max((each.checkpoint_step for each in attempts if each.checkpoint_step is not None), default=None)
