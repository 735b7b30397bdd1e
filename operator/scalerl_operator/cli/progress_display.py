"""Shows the progress of a run: a live panel on a terminal, one line per event elsewhere. I/O."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scalerl_operator.render.text import (
    ProgressView,
    describe_forecast,
    describe_phase,
    describe_progress,
    progress_rows,
)
from scalerl_operator.run.progress import compute_unit
from scalerl_operator.run.state import state_word

PROGRESS_LINES = 20  # over a whole run, without a terminal
DETAIL_SECONDS = 15.0  # the detail of a warm start changes at every step, which is too much for a log


class RunDisplay(AbstractContextManager["RunDisplay"], Protocol):
    """A display, used as a context manager."""

    def update(self, view: ProgressView) -> None:
        """Show the present state."""

    def event(self, text: str) -> None:
        """Show one line permanently."""


def open_display(stream: TextIO, environment: Mapping[str, str], *, quiet: bool) -> RunDisplay:
    """Return the display for `stream`. A non-empty `NO_COLOR` turns colours off (no-color.org)."""
    if quiet:
        return Quiet()
    if stream.isatty() and environment.get("TERM") != "dumb":
        return Panelled(Console(file=stream, no_color=bool(environment.get("NO_COLOR")), highlight=False))
    return Lines(stream)


class Quiet:
    """Shows nothing."""

    def update(self, view: ProgressView) -> None:
        """Show nothing."""

    def event(self, text: str) -> None:
        """Show nothing."""

    def __enter__(self) -> "Quiet":
        """Open."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""


class Lines:
    """Writes one line for each event, state, forecast and twentieth of the run; details of a state at intervals."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic):
        """Write to `stream`; `clock` gives seconds of any origin."""
        self._stream = stream
        self._clock = clock
        self._state = self._phase = self._forecast = ""
        self._twentieth = 0
        self._phase_written = 0.0

    def event(self, text: str) -> None:
        """Write one line."""
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def update(self, view: ProgressView) -> None:
        """Write the changes since the last update."""
        self._write_phase(view)
        step = view.progress.step if view.progress is not None else 0
        twentieth = step * PROGRESS_LINES // view.run.spec.budget.steps
        if twentieth != self._twentieth:
            self.event(describe_progress(view))
        forecast = view.run.status.forecast if view.run.status is not None else None
        text = f"forecast: {describe_forecast(forecast, compute_unit(view.run))}" if forecast is not None else ""
        if text and text != self._forecast:
            self.event(text)
        self._twentieth, self._forecast = twentieth, text

    def _write_phase(self, view: ProgressView) -> None:
        state, phase, now = state_word(view.run.status), describe_phase(view), self._clock()
        if state != self._state or (phase != self._phase and now - self._phase_written >= DETAIL_SECONDS):
            self.event(phase)
            self._state, self._phase, self._phase_written = state, phase, now

    def __enter__(self) -> "Lines":
        """Open."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""


class Panelled:
    """Draws a panel in place, with the events above it."""

    def __init__(self, console: Console):
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=False)

    def update(self, view: ProgressView) -> None:
        """Redraw the panel."""
        self._live.update(build_panel(view))

    def event(self, text: str) -> None:
        """Write one line above the panel."""
        self._console.print(Text(text, style="dim"))

    def __enter__(self) -> "Panelled":
        """Start the live display."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the live display and restore the terminal."""
        del kind, error, trace
        self._live.stop()


def build_panel(view: ProgressView) -> Panel:
    """Return the panel of `view`: a progress bar, then one row for each known value."""
    step = view.progress.step if view.progress is not None else 0
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", justify="right", no_wrap=True)
    table.add_column()
    table.add_row("", ProgressBar(total=view.run.spec.budget.steps, completed=step, width=48))
    for label, text in progress_rows(view):
        table.add_row(label, Text(text, style="cyan" if label == "pass rate" or label.startswith("forecast") else ""))
    title = Text(f"{view.run.name} · {describe_phase(view)}")  # not a str: brackets in it would be read as markup
    return Panel(table, title=title, title_align="left", padding=(0, 1))
