"""The observed state of a run (attempts, last poll, evaluations), and the assessment that follows from it. PURE."""

from dataclasses import dataclass
from datetime import datetime

from scalerl_api.policies import WatchAction
from scalerl_api.status import AttemptStatus, EarlierAttempts, ForecastStatus, SourceForecastStatus, StopStatus
from scalerl_api.wire import Checkpoint, EvalPoint, Progress
from scalerl_operator.run.conditions import WatchRule


@dataclass(frozen=True)
class ObservedState:
    """The inputs of a decision, as of one moment."""

    attempts: tuple[AttemptStatus, ...] = ()
    """Oldest first; the last one may be running."""
    first_attempt: int = 1
    """Attempts before this one belong to an earlier invocation of `scalerl run`; they spend no restart."""
    progress: Progress | None = None
    """The last answer of the running attempt."""
    answered: datetime | None = None
    """Time of that answer; None while the running attempt has not answered."""
    watched: datetime | None = None
    """Time of this operator's first poll; silence counts from here. None: from the attempt's start."""
    earlier: EarlierAttempts = EarlierAttempts()
    """Attempts before the listed ones."""
    evals: tuple[EvalPoint, ...] = ()
    """The run's evaluations, without duplicates."""
    last_checkpoint: Checkpoint | None = None
    """The newest checkpoint in a termination message that is newer than that answer."""
    eta_seconds: float | None = None
    """Predicted time to the end of the budget."""
    members_serve: bool = False
    """On a cluster: every other trainer still runs, so that the coordinator can save a checkpoint with them."""
    member_ended: bool = False
    """On a cluster: another trainer has ended, so that no further checkpoint can be made."""
    accepted_data: str = ""
    """On a cluster: digest of changed data that the run's annotation accepts; empty without one."""
    interrupts: int = 0
    """Interrupts by the user: one ends the run gracefully, two end it at once."""

    @property
    def running(self) -> AttemptStatus | None:
        """The attempt that is not over."""
        return self.attempts[-1] if self.attempts and not self.attempts[-1].over else None

    @property
    def is_data_accepted(self) -> bool:
        """Whether the last attempt has refused changed data that the user has accepted since."""
        last = self.attempts[-1] if self.attempts else None
        return last is not None and last.over and last.refused_data != "" and last.refused_data == self.accepted_data

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
    """The assessment of the observed state: the last forecast, the stop policy that holds, the watchdog's alarms."""

    forecast: ForecastStatus | None = None
    stop: StopStatus | None = None
    sources: tuple[SourceForecastStatus, ...] = ()
    """The last forecast of each training source; empty with a single one."""
    alarms: tuple[Alarm, ...] = ()
    """The one with the most severe action first."""
