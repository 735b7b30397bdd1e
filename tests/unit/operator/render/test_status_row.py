"""One run as a row of `scalerl status`."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from scalerl_api import RLRun, RLRunStatus
from scalerl_operator.render.status_row import HEADER, status_row
from scalerl_operator.render.text import format_table

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def make_status(reason: str, *, complete: str = "False") -> RLRunStatus:
    def condition(kind: str, status: str) -> dict[str, object]:
        return {"type": kind, "status": status, "reason": reason, "message": "", "last_transition_time": NOW}

    return RLRunStatus.model_validate(
        {
            "conditions": [condition("Progressing", "True"), condition("Complete", complete)],
            "progress": {"phase": "x", "step": 30, "version": 29, "pass_rate": 0.4128, "compute_gpu_hours": 0.123456},
            "forecast": {"verdict": "Weak", "reason": "", "points": 9, "summary": "0.61 [0.55,0.70]"},
        }
    )


ROWS = [
    (make_status("Training"), True, "Training", "a process drives it"),
    (make_status("Training"), False, "Interrupted", "no process drives it, though its last state is Training"),
    (make_status("StoppedByPolicy", complete="True"), False, "StoppedByPolicy", "a run that is over needs no process"),
]


@pytest.mark.parametrize(("status", "driven", "state"), [r[:3] for r in ROWS], ids=[r[3] for r in ROWS])
def test_a_row_shows_state_progress_forecast_and_age(
    make_run: Callable[..., RLRun], status: RLRunStatus, driven: bool, state: str
) -> None:
    run = make_run().model_copy(update={"status": status})
    started = NOW - timedelta(hours=3, minutes=5)
    row = status_row(run, driven, started, NOW)
    assert row == ("tiny", state, "30/120", "0.413", "0.61 [0.55,0.70]", "0.1235", "3h05m")


def test_an_unknown_value_is_a_dash(make_run: Callable[..., RLRun]) -> None:
    assert status_row(make_run(), False, None, NOW) == ("tiny", "Pending", "-", "-", "-", "-", "-")


def test_columns_are_aligned_and_lines_end_without_spaces() -> None:
    rows = [("a", *("-" for _ in HEADER[1:])), ("longer-name", *("-" for _ in HEADER[1:]))]
    text = format_table(HEADER, rows)
    lines = text.splitlines()
    assert lines[0].index("STATE") == lines[1].index("-") == len("longer-name") + 3
    assert all(line == line.rstrip() for line in lines)
