"""What a pipeline is put together from, and whom it tells. PURE: declarations only."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from scalerl_api import RLRun
from scalerl_api.recipe import Recipe
from scalerl_api.wire import EvalPoint, StepRecord
from scalerl_runtime.algorithm.microbatch import MicroBatch
from scalerl_runtime.algorithm.results import StepResult
from scalerl_runtime.algorithm.staleness import StalenessBound
from scalerl_runtime.data.datasets import Data
from scalerl_runtime.loop.device_time import RoleClock
from scalerl_runtime.loop.pool import Pool
from scalerl_runtime.loop.run_state import Journals
from scalerl_runtime.loop.syncer import WeightPublisher
from scalerl_runtime.storage.checkpoint import CheckpointStore


class TrainerFleet(WeightPublisher, Protocol):
    """What the pipeline needs of the fleet, beside what pool and syncer need."""

    async def train(
        self, batches: Sequence[Sequence[MicroBatch]], *, learning_rate: float, kl_coefficient: float, version: int
    ) -> list[StepResult]:
        """One optimizer step."""
        ...

    async def set_version(self, version: int) -> None:
        """Name the present weights."""
        ...

    async def save(self, folder: Path) -> None:
        """Write a checkpoint's share."""
        ...

    async def load(self, folder: Path, version: int) -> None:
        """Read it back."""
        ...


@dataclass(frozen=True)
class PipelineDeps:
    """What the pipeline is put together from."""

    run: RLRun
    recipe: Recipe
    staleness: StalenessBound
    data: Data
    fleet: TrainerFleet
    pool: Pool
    store: CheckpointStore
    journals: Journals
    trainer_clock: RoleClock
    quadratic: float  # work of attention against the rest; see packing
    attempt: int
    now: Callable[[], float] = time.monotonic


class Observer(Protocol):
    """Who is told what happened; the coordinator publishes it."""

    def on_step(self, record: StepRecord, lags: Sequence[int], split: Sequence[tuple[str, str, float]]) -> None:
        """A step is done."""
        ...

    def on_eval(self, points: Sequence[EvalPoint]) -> None:
        """An evaluation is durable."""
        ...

    def on_checkpoint(self, step: int, path: Path) -> None:
        """A checkpoint is durable."""
        ...

    def on_phase(self, phase: str, detail: str) -> None:
        """What the run does now, for a person."""
        ...
