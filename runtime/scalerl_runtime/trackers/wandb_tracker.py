"""Weights & Biases: one run there for all attempts of a run. I/O.

Its own variables apply: WANDB_API_KEY, WANDB_BASE_URL, WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE=offline.
"""

import os
from typing import Any

from scalerl_runtime.trackers.interface import TrackedPoint, TrackedRun, Values

PROJECT = "scalerl"


class WandbTracker:
    """The tracker `wandb`."""

    def __init__(self) -> None:
        self._run: Any = None

    def open(self, run: TrackedRun) -> None:
        """See `Tracker`. Offline, each attempt is a folder of its own with the same id; `wandb sync` joins them."""
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=run.id,
            resume="allow",
            dir=str(run.folder),
            config=dict(run.config),
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )
        for series in ("train", "eval"):  # each has its own axis: an evaluation ends after later steps
            self._run.define_metric(f"{series}/step")
            self._run.define_metric(f"{series}/*", step_metric=f"{series}/step")

    def log(self, point: TrackedPoint) -> None:
        """See `Tracker`."""
        values = {f"{point.series}/{name}": value for name, value in point.values.items()}
        self._run.log({**values, f"{point.series}/step": point.step})

    def close(self, summary: Values, *, is_final: bool) -> None:
        """See `Tracker`."""
        del is_final  # a finished run there can be continued
        self._run.summary.update(dict(summary))
        self._run.finish()
