"""What an actuator has seen of a run: its attempts, its coordinator's last word, its measured points. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from scalerl_api.base import ApiModel
from scalerl_api.status import FailureAction, ForecastStatus, StopCause, StopStatus
from scalerl_api.wire import Checkpoint, EvalPoint, Progress, Termination


class Attempt(ApiModel):
    """One life of the coordinator: a line of attempts.jsonl when it starts, one more when it has ended."""

    number: int
    """1 for the run's first."""
    started: datetime
    stop_cause: StopCause | None = None
    """Why it was asked to end; None while nobody has asked."""
    stop_time: datetime | None = None
    """When it was asked."""
    stop_message: str = ""
    """What was seen then."""
    ended: datetime | None = None
    infrastructure: bool = False
    """A node, an eviction or a deletion by others ended it: it says nothing against the run."""
    rule: str | None = None
    """The user's rule about failures that fits its end."""
    ruled: FailureAction | None = None
    """What that rule says; None: what it costs follows from how it ended."""
    exit_code: int | None = None
    """128 + N for signal N; None while it runs, and when nobody was there to see the end."""
    error: str = ""
    """One line of what its surroundings say of its end: OOMKilled."""
    termination: Termination | None = None
    """The coordinator's last words; a killed one leaves none."""
    checkpoint_step: int | None = None
    """Newest durable checkpoint known when it ended."""

    @property
    def over(self) -> bool:
        """True when the coordinator is gone."""
        return self.ended is not None


@dataclass(frozen=True)
class Earlier:
    """What remains of attempts that are no longer listed one by one."""

    active_seconds: float = 0.0
    failures: int = 0
    """Those that cost a restart, since the last new checkpoint."""
    retries: int = 0
    """Those that cost none, since the last new checkpoint."""
    checkpoint_step: int = 0
    """Newest checkpoint that one of them left; 0 for none."""


@dataclass(frozen=True)
class ObservedState:
    """Everything a decision may look at, as of one moment."""

    attempts: tuple[Attempt, ...] = ()
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
    earlier: Earlier = Earlier()
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
    def running(self) -> Attempt | None:
        """The attempt that is alive."""
        return self.attempts[-1] if self.attempts and not self.attempts[-1].over else None

    @property
    def current(self) -> tuple[Attempt, ...]:
        """The attempts of this invocation."""
        return tuple(each for each in self.attempts if each.number >= self.first_attempt)


@dataclass(frozen=True)
class Assessment:
    """What the run's points say: the last forecast, and the stop policy that holds."""

    forecast: ForecastStatus | None = None
    stop: StopStatus | None = None


def last_checkpoint_step(attempts: Sequence[Attempt]) -> int | None:
    """Return the newest checkpoint that any of `attempts` is known to have left."""
    return max((each.checkpoint_step for each in attempts if each.checkpoint_step is not None), default=None)
