"""A run's attempts as its status remembers them. PURE."""

from dataclasses import dataclass
from datetime import datetime

from scalerl_api import RLRunStatus
from scalerl_api.status import AttemptStatus, EarlierAttempts, StopCause
from scalerl_api.wire import Termination
from scalerl_operator.run.observed import Attempt, Earlier


@dataclass(frozen=True)
class History:
    """All attempts of a run."""

    listed: tuple[AttemptStatus, ...] = ()
    earlier: EarlierAttempts = EarlierAttempts()

    @property
    def last(self) -> AttemptStatus | None:
        """The newest; it may be running."""
        return self.listed[-1] if self.listed else None

    @property
    def running(self) -> AttemptStatus | None:
        """The one that is not over."""
        return self.last if self.last is not None and self.last.ended is None else None

    def replace_last(self, attempt: AttemptStatus) -> "History":
        """Return the history with `attempt` in the place of the newest."""
        return History((*self.listed[:-1], attempt), self.earlier)


def load_history(status: RLRunStatus | None) -> History:
    """Return what the status remembers."""
    if status is None:
        return History()
    return History(tuple(status.attempts), status.earlier or EarlierAttempts())


def to_observed(history: History, now: datetime) -> tuple[tuple[Attempt, ...], Earlier]:
    """Return the attempts as `plan` knows them.

    While pods wait for a node no time runs: an attempt begins with its coordinator's process.
    """
    found = tuple(
        Attempt(
            number=each.number,
            started=each.started or each.ended or now,
            stop_cause=each.stop_cause,
            stop_time=each.stop_time,
            stop_message=each.stop_message,
            ended=each.ended,
            infrastructure=each.infrastructure,
            rule=each.rule,
            ruled=each.ruled,
            exit_code=each.exit_code,
            error=each.error,
            termination=_termination(each),
            checkpoint_step=each.checkpoint_step,
        )
        for each in history.listed
    )
    before = history.earlier
    return found, Earlier(before.active_seconds, before.failures, before.retries, before.checkpoint_step or 0)


def _termination(attempt: AttemptStatus) -> Termination | None:
    if attempt.said is None:
        return None
    return Termination(reason=attempt.said, step=attempt.step, error=attempt.error)


def ask_to_end(history: History, cause: StopCause, message: str, now: datetime) -> History:
    """Return the history in which the running attempt was asked to end; the first cause stays."""
    running = history.running
    if running is None or running.stop_cause is not None:
        return history
    asked = {"stop_cause": cause, "stop_message": message[:1000], "stop_time": now}
    return history.replace_last(running.model_copy(update=asked))


_ASKED: dict[StopCause | None, str] = {
    "Stuck": "did not answer and was ended",
    "PendingDeadline": "did not begin in time and was ended",
    "WatchdogRestart": "was ended by the watchdog",
    "WatchdogStop": "was ended by the watchdog",
}


def describe_exit(attempt: Attempt) -> str:
    """Return one line for a person: how `attempt` ended."""
    if attempt.stop_cause in _ASKED:
        how = _ASKED[attempt.stop_cause]
    elif attempt.infrastructure:
        how = "was ended by its surroundings"
    elif attempt.exit_code is None:
        how = "ended unseen"
    elif attempt.exit_code > 128:
        how = f"was killed by signal {attempt.exit_code - 128}"
    else:
        how = f"ended with exit code {attempt.exit_code}"
    said = attempt.error or (attempt.termination.error if attempt.termination is not None else "")
    why = "; ".join(each for each in (attempt.stop_message, said) if each)
    rule = f" (rule {attempt.rule}: {attempt.ruled})" if attempt.rule is not None else ""
    return f"attempt {attempt.number} {how}" + (f": {why}" if why else "") + rule
