"""A run with evaluations on virtual time: the product's own Evaluator, Syncer and Pool; engines by a formula. I/O.

The engines, the lengths and the trainer are those of schedule_model.py. An engine is updated `sync_seconds` after its
push began. It can be lost, and starts again after `start_seconds`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from schedule_model import FOREVER, ONES, ZEROS, Scenario, SimulatedFleet, Simulation, grade
from virtual_clock import play

from scalerl_api import RLRun, parse_run
from scalerl_api.wire import EvalPoint
from scalerl_runtime.algorithm.results import SyncReport
from scalerl_runtime.algorithm.rollout_rows import RowSource
from scalerl_runtime.algorithm.staleness import build_staleness_bound
from scalerl_runtime.data.run_data import Data
from scalerl_runtime.loop.device_time import RoleClock
from scalerl_runtime.loop.eval_sets import EvalProgress
from scalerl_runtime.loop.evaluator import Evaluator
from scalerl_runtime.loop.interfaces import PipelineDeps
from scalerl_runtime.loop.pool import Pool
from scalerl_runtime.loop.rollout_recorder import RolloutRecorder
from scalerl_runtime.loop.run_state import Journals, TrainingState, initial_state
from scalerl_runtime.loop.slots import PoolOptions, Slot
from scalerl_runtime.loop.syncer import Syncer
from scalerl_runtime.storage.checkpoint import PendingEval
from scalerl_runtime.types import EngineOutput, GeneratorLost, Ints, Prompt, SamplingRequest
from scalerl_runtime.weights.buckets import StagedWeights

HELD_OUT_ID = 1_000_000  # of the first prompt that is evaluated; a prompt's only token is its id


@dataclass(frozen=True)
class EvalScenario:
    """A run with evaluations to simulate."""

    run: Scenario
    prompts: int  # held out
    samples: int
    every_steps: int
    share: float = 0.5
    eval_seconds: int = 7200
    start_seconds: float = 120.0  # of an engine
    losses: tuple[tuple[float, int], ...] = ()  # time and index of engines that die
    stop_at: float | None = None

    @property
    def spec(self) -> RLRun:
        """The run with these numbers."""
        recipe: dict[str, object] = {
            "preset": "scalerl",
            "length": {"control": "none"},
            "asynchrony": {"maxLag": self.run.max_lag},
        }
        recipe["optimizer"] = {"warmupSteps": 0}
        sizes = {"promptsPerStep": self.run.prompts_per_step, "completionsPerPrompt": self.run.completions}
        return parse_run(
            {
                "apiVersion": "scalerl.io/v1alpha1",
                "kind": "RLRun",
                "metadata": {"name": "simulated"},
                "spec": {
                    "model": {"source": "some/model"},
                    "data": {
                        "train": {"source": "none.jsonl"},
                        "heldOut": {"prompts": self.prompts, "samplesPerPrompt": self.samples},
                    },
                    "reward": {"verifier": "math"},
                    "recipe": {**recipe, **sizes},
                    "budget": {
                        "steps": self.run.steps,
                        "evalEverySteps": self.every_steps,
                        "evalShare": self.share,
                    },
                    "deadlines": {"evalSeconds": self.eval_seconds},
                },
            }
        )


@dataclass(frozen=True)
class EvalSchedule:
    """Numbers of a simulated run with evaluations."""

    step_seconds: float
    trainer_idle: float  # share of the time in which the trainer waits for a batch, or for an evaluation
    eval_seconds: float  # mean, from the end of the evaluated step to the point
    whole_share: float  # of the evaluations: every prompt is measured
    evaluating: float  # share of the time until the last step's end in which an evaluation runs
    seconds: float  # to the end of the last evaluation
    points: tuple[EvalPoint, ...]
    waits: tuple[float, ...]  # of each step for an evaluation
    restarts: int
    sampled: tuple[tuple[int, int, int, int], ...] = field(repr=False)  # evaluated: prompt, first, last version, tokens


class EvalFleet(SimulatedFleet):
    """Engines with versions, which can die."""

    def __init__(self, scenario: EvalScenario):
        super().__init__(scenario.run)
        self.scenario = scenario
        self.version = 0  # of the trainer
        self.versions = [-1] * scenario.run.engines
        self.starts = [0] * scenario.run.engines
        self.sampled: list[tuple[int, int, int, int]] = []
        self.evaluated_on: dict[int, set[int]] = {}  # engines by the version that they had

    async def start_generator(self, index: int) -> float:
        """Start at once at first; later after `start_seconds`."""
        if self.starts[index]:
            await asyncio.sleep(self.scenario.start_seconds)
        self.starts[index] += 1
        return 0.0

    def kill(self, index: int) -> None:
        """Fail every request in flight on an engine."""
        engine = self.engines[index]
        engine.advance()
        lost = [done for _, _, done in engine.running] + [done for _, done in engine.waiting]
        engine.running.clear()
        engine.waiting.clear()
        for done in lost:
            if not done.done():
                done.set_exception(GeneratorLost(index, "killed"))
        self.versions[index] = -1

    async def sample(self, index: int, prompt: Ints, requests: Sequence[SamplingRequest]) -> list[EngineOutput]:
        """Return completions of drawn lengths when the engine has made them."""
        begun, lengths = self.versions[index], [self.lengths.draw(self.rng) for _ in requests]
        await self.engines[index].generate(lengths)
        versions = (begun, self.versions[index])
        if prompt[0] >= HELD_OUT_ID:
            self.evaluated_on.setdefault(begun, set()).add(index)
            self.sampled += [(int(prompt[0]), *versions, n) for n in lengths]
        return [
            EngineOutput(ONES[:n], ZEROS[:n], np.array([versions[0], *[versions[1]] * (n - 1)], np.int32), "", "stop")
            for n in lengths
        ]

    async def stage(self) -> StagedWeights:
        """Name the trainer's version."""
        return StagedWeights(self.version, (), 0.0)

    async def push(self, members: frozenset[int], staged: StagedWeights) -> SyncReport:
        """Update engines after `sync_seconds`."""
        await asyncio.sleep(self.scenario.run.sync_seconds)
        for index in members:
            self.versions[index] = staged.version
        return SyncReport(staged.version, 0, 0.0, 0.0, 0.0)

    async def probe(self, index: int) -> None:
        """Answer."""

    async def load(self, step: int) -> None:
        """Load a checkpoint."""
        self.version = step

    async def settle(self, step: int) -> None:
        """Have every checkpoint written."""


@dataclass
class MemoryJournal:
    """A journal that is kept in memory."""

    lines: list[Any] = field(default_factory=list)

    def append(self, *lines: Any) -> None:
        """Keep lines."""
        self.lines += lines

    def read(self) -> list[Any]:
        """Return every line."""
        return self.lines


class Store:
    """Checkpoints without files."""

    def path(self, step: int) -> Path:
        """Name a checkpoint."""
        return Path(f"step-{step}")


class QuietObserver:
    """Notes the time of every point, and progress."""

    def __init__(self) -> None:
        self.ends: dict[int, float] = {}
        self.progress: list[EvalProgress | None] = []
        self.late = 0

    def on_eval(self, points: Sequence[EvalPoint]) -> None:
        """Note when it is recorded."""
        self.ends[points[0].step] = asyncio.get_running_loop().time()

    def on_eval_progress(self, progress: EvalProgress | None) -> None:
        """Keep it."""
        self.progress.append(progress)

    def on_late_eval(self) -> None:
        """Count it."""
        self.late += 1

    def on_phase(self, phase: str, detail: str) -> None:
        """Ignore it."""


class EvalSimulation(Simulation):
    """Pool, engines, trainer and evaluations of a scenario."""

    def __init__(self, scenario: EvalScenario, pool_type: type[Pool] = Pool, state: TrainingState | None = None):
        self.scenario, self.evals, self.pool_type = scenario.run, scenario, pool_type
        spec, recipe = scenario.spec, scenario.run.recipe
        clock = asyncio.get_running_loop().time
        options = PoolOptions(
            recipe,
            build_staleness_bound(recipe),
            None,
            0,
            FOREVER,
            FOREVER,
            scenario.run.max_sequences,
            eval_share=scenario.share,
        )
        self.fleet = self.engines = EvalFleet(scenario)
        slots = [Slot(index, RoleClock(1)) for index in range(scenario.run.engines)]
        self.pool = pool_type(options, self.fleet, grade, slots, clock)
        self.observer, self.stopping = QuietObserver(), asyncio.Event()
        held_out = tuple(
            Prompt(HELD_OUT_ID + i, "", np.array([HELD_OUT_ID + i], np.int32), "") for i in range(scenario.prompts)
        )
        journals = Journals(MemoryJournal(), MemoryJournal(), MemoryJournal())  # type: ignore[arg-type] # in memory
        recorder = RolloutRecorder(None, RowSource(attempt=1, seed=0, phrase="", share=1.0), 1.0)
        self.deps = PipelineDeps(
            run=spec,
            recipe=recipe,
            staleness=options.staleness,
            data=Data((), held_out, {}, (), 0),
            fleet=self.fleet,  # type: ignore[arg-type] # only what the evaluations and the syncer call
            pool=self.pool,
            store=Store(),  # type: ignore[arg-type] # no file is written
            journals=journals,
            rollouts=recorder,
            trainer_clock=RoleClock(1),
            quadratic=0.0,
            attempt=1,
            now=clock,
        )
        self.state = state or initial_state(recipe)
        self.syncer = Syncer(self.fleet, self.pool, FOREVER, lambda _report: None)
        self.evaluator = Evaluator(self.deps, self.state, self.observer, self.syncer, self.fleet, self.stopping)  # type: ignore[arg-type] # quiet
        self.began_evals: dict[int, float] = {}
        self.waits: list[float] = []
        self.waited, self.lags, self.began = 0.0, [], 0.0

    async def train(self) -> EvalSchedule:
        """Train all steps with their evaluations; return the numbers."""
        for slot in self.pool.slots.values():
            self.pool.start_slot(slot)
        await self.pool.wait_running(1)
        background = [asyncio.create_task(each) for each in (self.syncer.run(), self._feed(), self._lose())]
        await self.syncer.publish(0)
        clock = asyncio.get_running_loop().time
        trained = 0.0
        await self._begin_eval(0)
        for step in range(self.scenario.steps):
            if self.stopping.is_set():
                break
            await self._train(step)
            self.state.step = self.engines.version = step + 1
            trained = began = clock()
            if (step + 1) % self.evals.every_steps == 0 or step + 1 == self.scenario.steps:
                await self._begin_eval(step + 1)
            self.waits.append(clock() - began if step + 1 < self.scenario.steps else 0.0)
            await self.syncer.publish(step + 1)
        if not self.stopping.is_set():
            await self.evaluator.finish()
            await self.evaluator.catch_up()
        for task in background:
            task.cancel()
        await self.pool.close()
        return self._result(trained)

    async def _begin_eval(self, step: int) -> None:
        self.began_evals[step] = asyncio.get_running_loop().time()
        pending = PendingEval(step, float(step))
        self.state.pending.append(pending)
        await self.evaluator.begin(pending, whole=step == self.scenario.steps)

    async def _lose(self) -> None:
        clock = asyncio.get_running_loop().time
        events = [*self.evals.losses, *([(self.evals.stop_at, -1)] if self.evals.stop_at is not None else [])]
        for time, index in sorted(events):
            await asyncio.sleep(time - clock())
            if index < 0:
                self.stopping.set()
                continue
            self.engines.kill(index)
            self.pool.mark_lost(index, "killed")
        await asyncio.Event().wait()

    def _update(self, version: int) -> None:
        """Leave updates to the syncer."""

    def _result(self, trained: float) -> EvalSchedule:
        ends = self.observer.ends
        points = tuple(EvalPoint.model_validate(line) for line in self.deps.journals.evals.read())
        spans = [(self.began_evals[step], min(end, trained)) for step, end in ends.items()]
        moments = np.linspace(0, trained, 2000)
        busy = np.mean([any(low <= each < high for low, high in spans) for each in moments])
        beside = [ends[step] - self.began_evals[step] for step in ends if step < self.scenario.steps]
        return EvalSchedule(
            step_seconds=trained / max(1, self.state.step),
            trainer_idle=(self.waited + sum(self.waits)) / max(trained, 1e-9),
            eval_seconds=float(np.mean(beside)) if beside else 0.0,
            whole_share=float(np.mean([not each.unsampled for each in points])) if points else 0.0,
            evaluating=float(busy),
            seconds=max([trained, *ends.values()]),
            points=points,
            waits=tuple(self.waits),
            restarts=self.pool.counters.restarts,
            sampled=tuple(self.engines.sampled),
        )


class HalfEnginePool(Pool):
    """Leases as before note 083: one slot, half of whose sequences go on for the trainer, whatever its version."""

    def lease(self, version: int, *, whole: bool = False) -> list[Slot]:  # noqa: ARG002 # the pool's own
        """Lease one slot."""
        if any(slot.leased for slot in self.slots.values()):
            return []
        chosen = [slot for slot in self.ready() if slot.version == version][:1]
        for slot in chosen:
            slot.leased = True
        return chosen

    def eval_room(self, slot: Slot, *, whole: bool) -> int:  # noqa: ARG002 # the pool's own
        """Return half of the sequences."""
        return self.options.max_sequences // 2

    def outdated(self, version: int) -> frozenset[int]:
        """Return all that are not leased."""
        running = [s for s in self.slots.values() if s.state in ("stale", "ready") and s.version != version]
        return frozenset(slot.index for slot in running if not slot.leased)

    def next_slot(self) -> Slot | None:
        """Return any slot with room."""
        if self.groups.startable() == 0:
            return None
        group = self.options.recipe.completions_per_prompt
        room = self.running_share.sequences(self.options.max_sequences)
        for slot in self.ready():
            fits = slot.num_rollouts == 0 or slot.num_rollouts + group <= room
            if fits and self.groups.capacity(slot.version) > 0:
                return slot
        return None


class FormerEvalSimulation(EvalSimulation):
    """Evaluations before note 083: on half of one engine, and each waits for the one before."""

    async def _begin_eval(self, step: int) -> None:
        await self.evaluator.finish()
        await super()._begin_eval(step)


def simulate_evals(scenario: EvalScenario) -> EvalSchedule:
    """Return the schedule of a scenario with the product's evaluations."""

    async def run() -> EvalSchedule:
        return await EvalSimulation(scenario).train()

    return play(run())


def simulate_former_evals(scenario: EvalScenario) -> EvalSchedule:
    """Return the schedule with the evaluations before note 083; their deadline is left out, or none would end."""

    async def run() -> EvalSchedule:
        return await FormerEvalSimulation(replace(scenario, eval_seconds=604_800), HalfEnginePool).train()

    return play(run())
