"""The pipeline's dependencies and its observer. PURE: declarations only."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from scalerl_api import RLRun
from scalerl_api.recipe import Recipe
from scalerl_api.wire import EvalPoint, SelfCheck, StepRecord
from scalerl_runtime.algorithm.microbatch import MicroBatch
from scalerl_runtime.algorithm.results import StepResult
from scalerl_runtime.algorithm.staleness import StalenessBound
from scalerl_runtime.data.run_data import Data
from scalerl_runtime.loop.device_time import RoleClock
from scalerl_runtime.loop.eval_sets import EvalProgress
from scalerl_runtime.loop.pool import Pool
from scalerl_runtime.loop.rollout_recorder import RolloutRecorder
from scalerl_runtime.loop.run_state import Journals
from scalerl_runtime.loop.saver import SavingFleet
from scalerl_runtime.loop.syncer import WeightPublisher
from scalerl_runtime.storage.checkpoint import CheckpointStore
from scalerl_runtime.types import Floats, Group


class TrainerFleet(WeightPublisher, SavingFleet, Protocol):
    """The fleet's calls that the pipeline uses, beside those of pool, saver and syncer."""

    async def train(
        self, batches: Sequence[Sequence[MicroBatch]], *, learning_rate: float, kl_coefficient: float, version: int
    ) -> list[StepResult]:
        """Run one optimizer step."""
        ...

    async def logprobs(self, batches: Sequence[MicroBatch], version: int) -> list[Floats]:
        """Return the log-probabilities of all targets on each rank, under the weights of `version`."""
        ...

    async def set_version(self, version: int) -> None:
        """Set the version of the present weights."""
        ...


@dataclass(frozen=True)
class PipelineDeps:
    """The parts of a pipeline."""

    run: RLRun
    recipe: Recipe
    staleness: StalenessBound
    data: Data
    fleet: TrainerFleet
    pool: Pool
    store: CheckpointStore
    journals: Journals
    rollouts: RolloutRecorder
    trainer_clock: RoleClock
    quadratic: float  # relative cost of attention; see packing
    attempt: int
    now: Callable[[], float] = time.monotonic


class Observer(Protocol):
    """Receives the run's events; the coordinator publishes them."""

    def on_step(self, record: StepRecord, lags: Sequence[int], split: Sequence[tuple[str, str, float]]) -> None:
        """A step is complete."""
        ...

    def on_groups(self, groups: Sequence[Group], step: int) -> None:
        """The groups of the step that is complete, for what people are shown of them."""
        ...

    def on_self_check(self, found: SelfCheck) -> None:
        """An engine was compared with the trainer."""
        ...

    def on_eval_progress(self, progress: EvalProgress | None) -> None:
        """An evaluation began or went on; None: none runs any more."""
        ...

    def on_late_eval(self) -> None:
        """An evaluation ended before it had sampled every prompt."""
        ...

    def on_eval(self, points: Sequence[EvalPoint]) -> None:
        """An evaluation is stored."""
        ...

    def on_checkpoint(self, step: int, path: Path) -> None:
        """A checkpoint is stored."""
        ...

    def on_phase(self, phase: str, detail: str) -> None:
        """The run's phase, with a text for people."""
        ...
