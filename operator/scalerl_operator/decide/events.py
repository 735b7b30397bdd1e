"""The Kubernetes events that a change of a run's status emits. PURE."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from scalerl_api import RLRunStatus
from scalerl_api.status import Condition
from scalerl_operator.decide.status import describe_stop
from scalerl_operator.run.attempts import describe_exit
from scalerl_operator.run.conditions import EVENTS, EventReason
from scalerl_operator.run.state import state_word

MESSAGE_LENGTH = 1000  # of an event; the API server takes 1024


@dataclass(frozen=True)
class Event:
    """One Kubernetes Event of a run."""

    reason: EventReason
    message: str
    kind: Literal["Normal", "Warning"] = "Normal"

    def event_name(self, run: str, uid: str) -> str:
        """Return the Event's name: the same message about the same run is one Event with a count."""
        text = "\0".join((uid, self.reason, self.message))
        return f"{run}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def list_events(old: RLRunStatus | None, new: RLRunStatus) -> Iterator[Event]:
    """Yield an event for everything in `new` that is not in `old`; both are stored statuses."""
    yield from _attempts(old, new)
    before, after = state_word(old), state_word(new)
    if before != after:
        yield from _state(after, new)
    if new.stop is not None and not _holding(new) <= _holding(old):
        yield Event("StopRecommended", describe_stop(new.stop)[:MESSAGE_LENGTH])
    yield from _health(old, new)
    before_excluded = {each.name for each in old.excluded_nodes} if old is not None else set()
    for each in new.excluded_nodes:
        if each.name not in before_excluded:
            yield Event("NodeExcluded", f"node {each.name}: {each.reason}"[:MESSAGE_LENGTH], "Warning")
    verdict = old.forecast.verdict if old is not None and old.forecast is not None else None
    if new.forecast is not None and new.forecast.verdict != verdict:
        ceiling = f", ceiling {new.forecast.summary}" if new.forecast.summary is not None else ""
        yield Event("ForecastChanged", f"{new.forecast.verdict}{ceiling}: {new.forecast.reason}"[:MESSAGE_LENGTH])


def _holding(status: RLRunStatus | None) -> set[str]:
    """The stop policies that hold."""
    stop = status.stop if status is not None else None
    return {stop.policy, *stop.others} if stop is not None else set()


def _health(old: RLRunStatus | None, new: RLRunStatus) -> Iterator[Event]:
    """A rule of the watchdog that is violated now and was not before."""
    before, after = _unhealthy(old), _unhealthy(new)
    if after is not None and (before is None or before.reason != after.reason):
        yield Event("Unhealthy", f"{after.reason}: {after.message}"[:MESSAGE_LENGTH], "Warning")


def _unhealthy(status: RLRunStatus | None) -> Condition | None:
    found = status.conditions if status is not None else []
    return next((each for each in found if each.type == "Healthy" and each.status == "False"), None)


def _attempts(old: RLRunStatus | None, new: RLRunStatus) -> Iterator[Event]:
    before = {each.number: each for each in old.attempts} if old is not None else {}
    for attempt in new.attempts:
        known = before.get(attempt.number)
        if known is None:
            accepted = f", with the changed data {attempt.accepted_data}" if attempt.accepted_data else ""
            message = f"attempt {attempt.number}: {attempt.replicas} trainer pods{accepted}"
            yield Event("AttemptCreated", message[:MESSAGE_LENGTH])
        if attempt.stop_cause is not None and (known is None or known.stop_cause is None):
            why = f" ({attempt.stop_message})" if attempt.stop_message else ""
            message = f"attempt {attempt.number} is asked to save and end: {attempt.stop_cause}{why}"
            yield Event("AskedToEnd", message[:MESSAGE_LENGTH])
        if attempt.ended is not None and (known is None or known.ended is None):
            good = attempt.exit_code == 0 or attempt.stop_cause is not None
            yield Event("AttemptEnded", describe_exit(attempt)[:MESSAGE_LENGTH], "Normal" if good else "Warning")


def _state(word: str, status: RLRunStatus) -> Iterator[Event]:
    """A state with an event of its own; the events of attempts cover the others."""
    for reason, (kind, _) in EVENTS.items():
        if reason == word:
            message = next((each.message for each in status.conditions if each.type == "Progressing"), "")
            if word == "Training" and status.progress is not None:
                message = f"attempt {status.attempt}, from step {status.progress.step}"
            yield Event(reason, (message or word)[:MESSAGE_LENGTH], kind)
