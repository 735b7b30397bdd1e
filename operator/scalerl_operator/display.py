"""Shows a run while it goes on: a live panel on a terminal, one line per event elsewhere. I/O."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scalerl_operator.history import compute_unit
from scalerl_operator.wording import (
    View,
    describe_forecast,
    describe_phase,
    describe_progress,
    progress_rows,
)

PROGRESS_LINES = 20  # over a whole run, without a terminal


class RunDisplay(AbstractContextManager["RunDisplay"], Protocol):
    """A display that is opened and closed."""

    def update(self, view: View) -> None:
        """Show the newest state."""

    def event(self, text: str) -> None:
        """Say one line that stays."""


def open_display(stream: TextIO, environment: Mapping[str, str], *, quiet: bool) -> RunDisplay:
    """Return the display that suits `stream`. `NO_COLOR` (any value) turns colours off, as no-color.org says."""
    if quiet:
        return Quiet()
    if stream.isatty() and environment.get("TERM") != "dumb":
        return Panelled(Console(file=stream, no_color="NO_COLOR" in environment, highlight=False))
    return Lines(stream)


class Quiet:
    """Says nothing."""

    def update(self, view: View) -> None:
        """Show nothing."""

    def event(self, text: str) -> None:
        """Say nothing."""

    def __enter__(self) -> "Quiet":
        """Open."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""


class Lines:
    """One line for every event, new phase, new forecast and twentieth of the run."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._shown: tuple[str, ...] = ("", "", "")

    def event(self, text: str) -> None:
        """Write one line."""
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def update(self, view: View) -> None:
        """Write what is new since the last look."""
        step = view.progress.step if view.progress is not None else 0
        twentieth = step * PROGRESS_LINES // view.run.spec.budget.steps
        forecast = view.run.status.forecast if view.run.status is not None else None
        lines = (
            describe_phase(view),
            describe_progress(view) if twentieth else "",
            f"forecast: {describe_forecast(forecast, compute_unit(view.run))}" if forecast is not None else "",
        )
        keys = (lines[0], str(twentieth), lines[2])
        for line, key, shown in zip(lines, keys, self._shown, strict=True):
            if line and key != shown:
                self.event(line)
        self._shown = keys

    def __enter__(self) -> "Lines":
        """Open."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""


class Panelled:
    """A panel that is drawn in place, with the events above it."""

    def __init__(self, console: Console):
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=False)

    def update(self, view: View) -> None:
        """Draw the panel anew."""
        self._live.update(build_panel(view))

    def event(self, text: str) -> None:
        """Write one line above the panel."""
        self._console.print(Text(text, style="dim"))

    def __enter__(self) -> "Panelled":
        """Take the terminal's last lines."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the terminal back."""
        del kind, error, trace
        self._live.stop()


def build_panel(view: View) -> Panel:
    """Return the picture of `view`: a bar, then one row for each thing known."""
    step = view.progress.step if view.progress is not None else 0
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", justify="right", no_wrap=True)
    table.add_column()
    table.add_row("", ProgressBar(total=view.run.spec.budget.steps, completed=step, width=48))
    for label, text in progress_rows(view):
        table.add_row(label, Text(text, style="cyan" if label in ("pass rate", "forecast") else ""))
    return Panel(table, title=f"{view.run.name} · {describe_phase(view)}", title_align="left", padding=(0, 1))
