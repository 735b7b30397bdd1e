"""Attempts as lines of attempts.jsonl, and as sums of time."""

import json
from datetime import UTC, datetime, timedelta

from scalerl_api.status import AttemptStatus
from scalerl_api.wire import Checkpoint, Termination
from scalerl_operator.run.attempts import (
    active_seconds,
    describe_exit,
    format_attempt,
    parse_attempts,
    start_attempt,
    termination_fields,
)

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)

# Written by the version before attempts in a folder and in a status had one type.
OLD_LINES = [
    '{"number":1,"started":"2026-05-04T12:00:00Z","stopMessage":"","infrastructure":false,"error":""}',
    '{"number":1,"started":"2026-05-04T12:00:00Z","stopMessage":"","ended":"2026-05-04T12:06:40Z","infrastructure":false,'
    '"rule":"memory","ruled":"Ignore","exitCode":137,"error":"","checkpointStep":35}',
    '{"number":2,"started":"2026-05-04T12:07:00Z","stopCause":"Suspended","stopTime":"2026-05-04T12:08:00Z",'
    '"stopMessage":"by hand","ended":"2026-05-04T12:09:00Z","infrastructure":false,"exitCode":0,"error":"",'
    '"termination":{"reason":"Failed","step":47,"checkpoint":{"step":45,"time":1.5,"path":"checkpoints/45"},'
    '"error":"out of memory"},"checkpointStep":45}',
]
TERMINATION = Termination(
    reason="Failed", step=47, checkpoint=Checkpoint(step=45, time=1.5, path="checkpoints/45"), error="out of memory"
)


def test_lines_of_an_older_version_are_read() -> None:
    first, second = parse_attempts(['{"number": 3, "star', "7", '{"number": 4}', *OLD_LINES])
    assert (first.number, first.exit_code, first.rule, first.ruled, first.checkpoint_step) == (
        1, 137, "memory", "Ignore", 35,
    )  # fmt: skip
    assert (first.started, first.ended, first.said) == (NOW, NOW + timedelta(seconds=400), None)
    assert (second.said, second.step, second.error, second.checkpoint_step) == ("Failed", 47, "out of memory", 45)
    assert (second.stop_cause, second.stop_message) == ("Suspended", "by hand")
    assert describe_exit(second) == "attempt 2 ended with exit code 0: by hand; out of memory"


def test_lines_are_written_as_by_an_older_version() -> None:
    running = start_attempt(1, NOW)
    killed = {"ended": NOW + timedelta(seconds=400), "rule": "memory", "ruled": "Ignore", "exit_code": 137}
    asked = {"stop_cause": "Suspended", "stop_time": NOW + timedelta(seconds=480), "stop_message": "by hand"}
    ended = {"ended": NOW + timedelta(seconds=540), "exit_code": 0, "checkpoint_step": 45}
    last = start_attempt(2, NOW + timedelta(seconds=420)).model_copy(
        update={**asked, **ended, **termination_fields(TERMINATION)}
    )
    first = running.model_copy(update={**killed, "checkpoint_step": 35})
    lines = [format_attempt(running), format_attempt(first), format_attempt(last, TERMINATION)]
    assert [_read(line) for line in lines] == [_read(line) for line in OLD_LINES]
    assert parse_attempts(lines) == (first, last)


def _read(line: str) -> object:
    found: dict[str, object] = json.loads(line)
    termination = found.get("termination")
    if isinstance(termination, dict):
        found["termination"] = Termination.model_validate(termination)
    return found


def test_time_runs_from_the_coordinators_start() -> None:
    waits = AttemptStatus(number=3, replicas=2, created=NOW - timedelta(seconds=900))
    runs = start_attempt(2, NOW - timedelta(seconds=50))
    ended = start_attempt(1, NOW - timedelta(seconds=300)).model_copy(update={"ended": NOW - timedelta(seconds=280)})
    assert active_seconds([ended, runs, waits], NOW) == 70.0
    assert active_seconds([], NOW) == 0.0
