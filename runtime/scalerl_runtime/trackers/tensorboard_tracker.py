"""TensorBoard: event files in the run's folder. I/O."""

from typing import Any

from scalerl_runtime.trackers.interface import TrackedPoint, TrackedRun, Values


class TensorboardTracker:
    """The tracker `tensorboard`."""

    def __init__(self) -> None:
        self._writer: Any = None
        self._step = 0

    def open(self, run: TrackedRun) -> None:
        """See `Tracker`. Each attempt adds an event file; TensorBoard shows a folder's files as one run."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.folder), flush_secs=30)
        if run.is_new:
            self._writer.add_text("spec", _format_table(run.config), 0)

    def log(self, point: TrackedPoint) -> None:
        """See `Tracker`."""
        self._step = max(self._step, point.step)
        for name, value in point.values.items():
            self._writer.add_scalar(f"{point.series}/{name}", value, point.step, walltime=point.seconds)

    def close(self, summary: Values, *, is_final: bool) -> None:
        """See `Tracker`."""
        if is_final:
            self._writer.add_text("summary", _format_table(summary), self._step)
        self._writer.close()


def _format_table(values: Values) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in sorted(values.items()))
    return f"| field | value |\n|---|---|\n{rows}"
