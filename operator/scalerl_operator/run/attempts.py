"""A run's attempts: as the status lists them, as lines of attempts.jsonl, and in one sentence. PURE."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from scalerl_api import RLRunStatus
from scalerl_api.status import AttemptStatus, EarlierAttempts, StopCause
from scalerl_api.wire import Termination

MAX_MESSAGE_LENGTH = 1000  # of a text in the status: ten attempts are listed


@dataclass(frozen=True)
class History:
    """All attempts of a run on a cluster."""

    listed: tuple[AttemptStatus, ...] = ()
    earlier: EarlierAttempts = EarlierAttempts()

    @property
    def last(self) -> AttemptStatus | None:
        """The newest; it may be running."""
        return self.listed[-1] if self.listed else None

    @property
    def running(self) -> AttemptStatus | None:
        """The one that is not over."""
        return self.last if self.last is not None and not self.last.over else None

    def replace_last(self, attempt: AttemptStatus) -> "History":
        """Return the history with `attempt` in the place of the newest."""
        return History((*self.listed[:-1], attempt), self.earlier)


def load_history(status: RLRunStatus | None) -> History:
    """Return the attempts that `status` lists or sums."""
    if status is None:
        return History()
    return History(tuple(status.attempts), status.earlier or EarlierAttempts())


def ask_to_end(history: History, cause: StopCause, message: str, now: datetime) -> History:
    """Return the history in which the running attempt was asked to end; the first cause stays."""
    running = history.running
    if running is None or running.stop_cause is not None:
        return history
    asked = {"stop_cause": cause, "stop_message": message[:MAX_MESSAGE_LENGTH], "stop_time": now}
    return history.replace_last(running.model_copy(update=asked))


def active_seconds(attempts: Iterable[AttemptStatus], now: datetime) -> float:
    """Return how long `attempts` have run, in seconds.

    The wait for a node does not count: an attempt runs from the start of its coordinator's process.
    """
    return sum(((each.ended or now) - each.started).total_seconds() for each in attempts if each.started is not None)


def termination_fields(termination: Termination | None) -> dict[str, object]:
    """Return the fields of an attempt that its coordinator's termination message sets; none without a message."""
    if termination is None:
        return {}
    return {
        "said": termination.reason,
        "step": termination.step,
        "error": termination.error,
        "refused_data": termination.refused_data,
    }


def start_attempt(number: int, now: datetime) -> AttemptStatus:
    """Return an attempt on one machine, where it has processes and no pods."""
    return AttemptStatus(number=number, replicas=0, created=now, started=now)


_NOT_IN_LINES = {
    "replicas",
    "created",
    "seen",
    "said",
    "step",
    "refused_data",
    "accepted_data",
}  # of pods, or in the termination message


def format_attempt(attempt: AttemptStatus, termination: Termination | None = None) -> str:
    """Return a line of attempts.jsonl: an attempt on one machine, and the termination message that it ended with."""
    fields = attempt.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=_NOT_IN_LINES)
    if termination is not None:
        fields |= {"error": "", "termination": termination.model_dump(mode="json", by_alias=True, exclude_none=True)}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def parse_attempts(lines: Iterable[str]) -> tuple[AttemptStatus, ...]:
    """Return the attempts in lines of attempts.jsonl, by number; of each attempt the last readable line counts."""
    found: dict[int, AttemptStatus] = {}
    for line in lines:
        try:
            attempt = _parse_attempt(json.loads(line))
        except (ValueError, TypeError, KeyError):  # cut by a crash
            continue
        found[attempt.number] = attempt
    return tuple(found[number] for number in sorted(found))


def _parse_attempt(document: Mapping[str, object]) -> AttemptStatus:
    fields = dict(document)
    message = fields.pop("termination", None)
    fields |= {"replicas": 0, "created": fields["started"]}
    if message is not None:
        fields |= termination_fields(Termination.model_validate(message))
    return AttemptStatus.model_validate(fields)


_ASKED: dict[StopCause | None, str] = {
    "Stuck": "did not answer and was ended",
    "PendingDeadline": "did not begin in time and was ended",
    "GangIncomplete": "had no room for all its pods and was ended",
    "WatchdogRestart": "was ended by the watchdog",
    "WatchdogStop": "was ended by the watchdog",
}


def describe_exit(attempt: AttemptStatus) -> str:
    """Return one line for a person: how `attempt` ended."""
    if attempt.stop_cause in _ASKED:
        how = _ASKED[attempt.stop_cause]
    elif attempt.infrastructure:
        how = "was ended by the infrastructure"
    elif attempt.exit_code is None:
        how = "ended without an exit code"
    elif attempt.exit_code > 128:
        how = f"was killed by signal {attempt.exit_code - 128}"
    else:
        how = f"ended with exit code {attempt.exit_code}"
    why = "; ".join(each for each in (attempt.stop_message, attempt.error) if each)
    rule = f" (rule {attempt.rule}: {attempt.ruled})" if attempt.rule is not None else ""
    return f"attempt {attempt.number} {how}" + (f": {why}" if why else "") + rule
