"""When a status is written, and which events are emitted."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from scalerl_api import RLRunStatus
from scalerl_operator.decide.events import Event, list_events
from scalerl_operator.reconcile.status_write import is_due, wanted_annotations

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def condition(reason: str, message: str = "", kind: str = "Progressing", status: str = "True") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": NOW}


def status(**values: Any) -> RLRunStatus:
    given: dict[str, Any] = {
        "conditions": [condition("Training", "step 7")],
        "progress": {"phase": "Training", "step": 7, "version": 6, "passRate": 0.3, "computeGpuHours": 1.25},
        "cost": {"gpuSeconds": {"trainer": 90.0}, "idleFraction": {}},
    }
    return RLRunStatus.model_validate({**given, **values})


BEFORE = status()
MOVED = {"phase": "Training", "step": 8, "version": 7, "passRate": 0.3, "computeGpuHours": 1.5, "etaSeconds": 9}
EVALUATED = {**MOVED, "passRate": 0.4}

ROWS = [
    (BEFORE, BEFORE, 9999, False, "nothing has changed: nothing is written, however long ago"),
    (None, BEFORE, None, True, "the first"),
    (BEFORE, status(progress=MOVED), 29, False, "it counts on"),
    (BEFORE, status(progress=MOVED), 30, True, "it has counted for half a minute"),
    (BEFORE, status(progress=MOVED), None, True, "an operator's first"),
    (BEFORE, status(progress=EVALUATED), 1, True, "an evaluation"),
    (BEFORE, status(conditions=[condition("Training", "step 8")]), 1, False, "a sentence"),
    (BEFORE, status(conditions=[condition("Stopping", "step 7")]), 1, True, "a reason"),
    (BEFORE, status(cost={"gpuSeconds": {"trainer": 91.0}, "idleFraction": {}}), 1, False, "a cost"),
    (BEFORE, status(observedGeneration=2), 1, True, "a spec that was observed"),
]


@pytest.mark.parametrize(("old", "new", "ago", "due"), [row[:4] for row in ROWS], ids=[row[4] for row in ROWS])
def test_when_a_status_is_written(old: RLRunStatus | None, new: RLRunStatus, ago: int | None, due: bool) -> None:
    written = NOW - timedelta(seconds=ago) if ago is not None else None
    assert is_due(old, new, written, NOW) == due


def attempt(number: int, **values: Any) -> dict[str, Any]:
    return {"number": number, "replicas": 3, "created": NOW - timedelta(seconds=60), **values}


FORECAST = {
    "verdict": "Identified",
    "reason": "past its bend",
    "points": 9,
    "ceiling": 0.61,
    "ceilingLow": 0.59,
    "ceilingHigh": 0.634,
    "summary": "0.61 [0.59,0.63]",
}
EMITTED = [
    (None, status(conditions=[condition("Pending")], attempts=[attempt(1)]),
     [Event("AttemptCreated", "attempt 1: 3 trainer pods")], "the first attempt"),
    (status(attempts=[attempt(1)]), status(attempts=[attempt(1)]), [], "nothing"),
    (status(attempts=[attempt(1)]), status(attempts=[attempt(1, ended=NOW, exitCode=139, error="bad access")]),
     [Event("AttemptEnded", "attempt 1 was killed by signal 11: bad access", "Warning")], "a crash"),
    (status(attempts=[attempt(2)]), status(attempts=[attempt(2, stopCause="Suspended", stopTime=NOW)]),
     [Event("AskedToEnd", "attempt 2 is asked to save and end: Suspended")], "it is asked to end"),
    (status(conditions=[condition("Starting")]), status(attempt=4),
     [Event("Training", "attempt 4, from step 7")], "it trains"),
    (BEFORE, status(conditions=[condition("StoppedByPolicy", "policy flat", "Complete")]),
     [Event("StoppedByPolicy", "StoppedByPolicy")], "a policy's stop is no warning"),
    (BEFORE, status(stop={"policy": "flat", "mode": "Observe", "reason": "0.004 left"}),
     [Event("StopRecommended", "policy flat (Observe): 0.004 left")], "a policy speaks"),
    (status(stop={"policy": "flat", "mode": "Observe", "reason": "0.004 left"}),
     status(stop={"policy": "flat", "mode": "Observe", "reason": "0.003 left"}), [], "it speaks on: no news"),
    (status(stop={"policy": "flat", "mode": "Observe", "reason": "0.004 left"}),
     status(stop={"policy": "low", "mode": "Enforce", "reason": "0.3 at most", "savedGpuHours": 81.25,
                  "others": ["flat"]}),
     [Event("StopRecommended",
                "policy low (Enforce): 0.3 at most; 81.25 GPU-h of the budget are left; so do flat")],
     "another one speaks, and what it saves"),
    (status(stop={"policy": "low", "mode": "Enforce", "reason": "0.3 at most", "others": ["flat"]}),
     status(stop={"policy": "flat", "mode": "Observe", "reason": "0.004 left"}), [], "one has fallen silent"),
    (BEFORE, status(conditions=[condition("NoStep", "no step for 900 s (Warn)", "Healthy", "False")]),
     [Event("Unhealthy", "NoStep: no step for 900 s (Warn)", "Warning")], "the watchdog warns"),
    (status(conditions=[condition("Stale", "step 7", "Healthy", "False")]),
     status(conditions=[condition("Stale", "step 8", "Healthy", "False")]), [], "it warns on: no news"),
    (status(conditions=[condition("Stale", "step 7", "Healthy", "False")]),
     status(conditions=[condition("EntropyLow", "step 8", "Healthy", "False")]),
     [Event("Unhealthy", "EntropyLow: step 8", "Warning")], "it warns of something else"),
    (status(attempts=[attempt(2)]),
     status(attempts=[attempt(2, stopCause="WatchdogRestart", stopTime=NOW, stopMessage="NoStep: 7 are done")]),
     [Event("AskedToEnd", "attempt 2 is asked to save and end: WatchdogRestart (NoStep: 7 are done)")],
     "the watchdog ends an attempt"),
    (status(attempts=[attempt(2)]),
     status(attempts=[attempt(2, ended=NOW, exitCode=42, rule="data", ruled="FailRun")]),
     [Event("AttemptEnded", "attempt 2 ended with exit code 42 (rule data: FailRun)", "Warning")],
     "a rule fits"),
    (BEFORE, status(conditions=[condition("FailedByRule", "rule data", "Failed")]),
     [Event("FailedByRule", "FailedByRule", "Warning")], "a rule fails the run"),
    (BEFORE, status(forecast=FORECAST),
     [Event("ForecastChanged", "Identified, ceiling 0.61 [0.59,0.63]: past its bend")], "a verdict"),
    (status(forecast=FORECAST), status(forecast={**FORECAST, "ceiling": 0.6}), [], "another number is no event"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "events"), [row[:3] for row in EMITTED], ids=[row[3] for row in EMITTED])
def test_events_that_are_emitted(old: RLRunStatus | None, new: RLRunStatus, events: list[Event]) -> None:
    assert list(list_events(old, new)) == events


def test_the_same_words_about_the_same_run_are_one_event() -> None:
    first, again, other = Event("A", "b"), Event("A", "b"), Event("A", "c")
    assert first.event_name("tiny", "u1") == again.event_name("tiny", "u1")
    assert len({first.event_name("tiny", "u1"), other.event_name("tiny", "u1"), first.event_name("tiny", "u2")}) == 3


def test_annotations() -> None:
    assert wanted_annotations(BEFORE) == {}
    assert wanted_annotations(status(forecast={"verdict": "NotIdentified", "reason": "early", "points": 2})) == {}
    assert wanted_annotations(status(forecast=FORECAST)) == {
        "scalerl.io/predicted-ceiling": "0.6100",
        "scalerl.io/predicted-ceiling-interval": "[0.5900,0.6340]",
    }
