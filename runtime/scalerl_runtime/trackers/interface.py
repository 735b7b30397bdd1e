"""The interface of an experiment tracker, and what every tracker gets of a run. PURE: declarations only."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Values = Mapping[str, str | int | float | bool]
Series = Literal["train", "eval"]


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker knows it; the same in every attempt but for `is_new`."""

    id: str
    """Chosen once for each tracker and run; a later attempt continues the tracker's run of this id."""
    name: str
    folder: Path
    """The tracker's own folder in the run's folder; it exists."""
    config: Values
    """The resolved spec, flat: `recipe.optimizer.learningRate`."""
    is_new: bool
    """Whether no attempt has sent anything yet."""


@dataclass(frozen=True)
class TrackedPoint:
    """The numbers of one step, or of one evaluation."""

    series: Series
    step: int
    values: Mapping[str, float]
    seconds: float
    """Unix time."""


class Tracker(Protocol):
    """One experiment tracker. Every call may block and may raise; one thread makes them, in order."""

    def open(self, run: TrackedRun) -> None:
        """Start the tracker's run, or continue it."""
        ...

    def log(self, point: TrackedPoint) -> None:
        """Add numbers, as `<series>/<name>`. An evaluation's step may be older than the last training step."""
        ...

    def close(self, summary: Values, *, is_final: bool) -> None:
        """Store the final values and end; `is_final`: no attempt follows."""
        ...
