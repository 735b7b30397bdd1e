"""The display of a run's progress: lines in a log, a panel on a terminal, colours unless NO_COLOR is set."""

import io
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from rich.console import Console

from scalerl_api import RLRun
from scalerl_api.wire import EvalPoint, Progress
from scalerl_operator.cli.progress_display import Lines, Panelled, Quiet, build_panel, open_display
from scalerl_operator.decide.status import build_status
from scalerl_operator.render.text import ProgressView
from scalerl_operator.run.observed import Assessment, ObservedState

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
VALUES = {
    "entropy": 0.512,
    "tokens_per_second": 2134.4,
    "lag_mean": 1.64,
    "lag_max": 4.0,
}


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def make_view(make_run: Callable[..., RLRun], point: Callable[..., EvalPoint]) -> Callable[..., ProgressView]:
    """`make_view(step=.., phase=.., detail=..)` of a run of 120 steps."""

    def make(*, step: int = 6, phase: str = "training", detail: str = "", missed: int = 0) -> ProgressView:
        latest = {"step": step, "time": 1.0, "attempt": 1, "compute_gpu_hours": 0.1, "reward": -0.25, "values": VALUES}
        progress = Progress.model_validate(
            {
                "run": "tiny",
                "attempt": 1,
                "phase": phase,
                "detail": detail,
                "step": step,
                "version": step,
                "compute_gpu_hours": 0.1,
                "idle_fraction": {"trainer": 0.125, "generator": 0.06},
                "latest": latest,
                "time": 1.0,
            }
        )
        evals = (point(0, pass_rate=0.31), point(1, pass_rate=0.42))
        observed = ObservedState(progress=progress, evals=evals, eta_seconds=252.0)
        run = make_run()
        status = build_status(run, observed, Assessment(), ("Running", ""), NOW)
        return ProgressView(run.model_copy(update={"status": status}), progress, evals, missed)

    return make


class Clock:
    """A clock that the test sets, in seconds."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_has_every_number_of_the_run(make_view: Callable[..., ProgressView]) -> None:
    stream = io.StringIO()
    Lines(stream, Clock()).update(make_view())
    # 0.1 device-h in 6 of 120 steps are 2 device-h in all; 6/120 is the first twentieth.
    assert stream.getvalue() == (
        "Training\n"
        "step 6/120  pass rate 0.420 ± 0.020, from 0.310  reward -0.250  entropy 0.512 nats  speed 2,134 tokens/s  "
        "lag 1.6 (max 4) steps  idle trainer 12%, generator 6%  compute 0.1 of 2 device-h  ETA 4m12s\n"
    )


def test_a_log_gets_one_line_for_each_twentieth_of_the_run(make_view: Callable[..., ProgressView]) -> None:
    stream = io.StringIO()
    lines = Lines(stream, Clock())
    for step in (6, 6, 7, 11, 12, 13, 17, 18):
        lines.update(make_view(step=step))
    assert [line.split()[1] for line in stream.getvalue().splitlines()[1:]] == ["6/120", "12/120", "18/120"]


def test_details_of_a_state_are_written_every_15_seconds(make_view: Callable[..., ProgressView]) -> None:
    stream, clock = io.StringIO(), Clock()
    lines = Lines(stream, clock)
    for seconds in range(31):
        clock.now = 100.0 + seconds
        lines.update(make_view(step=0, phase="warmStart", detail=f"step {seconds} of 300"))
    lines.update(make_view(step=0, phase="training"))
    expected = ["WarmStart: step 0 of 300", "WarmStart: step 15 of 300", "WarmStart: step 30 of 300", "Training"]
    assert stream.getvalue().splitlines() == expected


def test_missed_polls_are_reported(make_view: Callable[..., ProgressView]) -> None:
    stream, clock = io.StringIO(), Clock()
    lines = Lines(stream, clock)
    lines.update(make_view(step=0, missed=2))
    clock.now += 60.0
    lines.update(make_view(step=0, missed=3))
    assert stream.getvalue().splitlines() == ["Training", "Training (no answer to the last 3 polls)"]


def test_the_panel_shows_the_same_numbers_and_escapes_markup(make_view: Callable[..., ProgressView]) -> None:
    stream = io.StringIO()
    Console(file=stream, width=100, color_system=None).print(
        build_panel(make_view(detail="loading [bold]x[/nonsense]"))
    )
    text = stream.getvalue()
    assert "loading [bold]x[/nonsense]" in text
    for wanted in ("6/120", "0.420 ± 0.020", "-0.250", "0.512 nats", "2,134 tokens/s", "(max 4)", "12%", "4m12s"):
        assert wanted in text
    assert "forecast" in text


def test_events_stay_above_the_panel(make_view: Callable[..., ProgressView]) -> None:
    stream = Terminal()
    with open_display(stream, {"TERM": "xterm-256color"}, quiet=False) as display:
        assert isinstance(display, Panelled)
        display.event("eval held_out at step 5")
        display.update(make_view())
    text = stream.getvalue()
    assert "eval held_out at step 5" in text
    assert text.index("eval held_out") < text.rindex("0.420 ± 0.020")
    assert text.rstrip().endswith("\x1b[?25h"), "the cursor is shown again"


COLOURS = [
    ({"TERM": "xterm-256color"}, True, "colours on a terminal"),
    ({"TERM": "xterm-256color", "NO_COLOR": "1"}, False, "NO_COLOR"),
    ({"TERM": "xterm-256color", "NO_COLOR": ""}, True, "an empty NO_COLOR is none (no-color.org)"),
]


@pytest.mark.parametrize(("environment", "coloured"), [r[:2] for r in COLOURS], ids=[r[2] for r in COLOURS])
def test_no_color_turns_colours_off(
    make_view: Callable[..., ProgressView], environment: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    with open_display(stream, environment, quiet=False) as display:
        display.update(make_view())
    assert ("\x1b[36m" in stream.getvalue()) == coloured


def test_without_a_capable_terminal_lines_are_written() -> None:
    assert isinstance(open_display(io.StringIO(), {}, quiet=False), Lines)
    assert isinstance(open_display(Terminal(), {"TERM": "dumb"}, quiet=False), Lines)
    assert isinstance(open_display(Terminal(), {"TERM": "xterm"}, quiet=True), Quiet)
