"""A run's schedule on virtual time: the product's own Pool, GroupBuffer and select_batch; engines by a formula. I/O.

An engine gives each of its n running sequences one token every `base + slope * n` seconds; slope 0 is an engine of
fixed speed. Sequences beyond `max_sequences` wait, as vLLM's do. The trainer takes a constant time for a step.
"""

import asyncio
import collections
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from virtual_clock import play

from scalerl_api.recipe import Asynchrony, Length, Recipe
from scalerl_runtime.algorithm.staleness import build_staleness_bound
from scalerl_runtime.loop.device_time import RoleClock
from scalerl_runtime.loop.pool import Pool
from scalerl_runtime.loop.slots import PoolOptions, Slot
from scalerl_runtime.types import EngineOutput, Ints, Prompt, Reward, SamplingRequest

FOREVER = 1e9  # seconds; no deadline of the pool passes
ONES = np.ones(200_000, dtype=np.int32)  # the tokens of every completion are views of it
ZEROS = np.zeros(200_000, dtype=np.float32)

Shape = Literal["constant", "lognormal", "bimodal"]


@dataclass(frozen=True)
class Lengths:
    """A distribution of completion lengths, in tokens."""

    shape: Shape
    median: int
    sigma: float = 0.0  # of the logarithm, for `lognormal`
    limit: int = 14_336

    def draw(self, rng: np.random.Generator) -> int:
        """Return one length. `bimodal`: three in four have a third of the median, the fourth is cut at the limit."""
        if self.shape == "constant":
            return self.median
        if self.shape == "bimodal":
            return self.limit if rng.random() < 0.25 else self.median // 3
        return int(min(self.limit, max(1.0, self.median * math.exp(self.sigma * rng.standard_normal()))))


@dataclass(frozen=True)
class Scenario:
    """A run to simulate."""

    lengths: Lengths
    train_seconds: float
    base_seconds: float  # of one decoding step
    slope_seconds: float = 0.0  # more of it for every running sequence
    engines: int = 16
    max_sequences: int = 256
    prompts_per_step: int = 48
    completions: int = 16
    max_lag: int = 8
    sync_seconds: float = 1.0
    steps: int = 50
    warmup_steps: int = 14  # not counted
    seed: int = 0

    @property
    def recipe(self) -> Recipe:
        """The recipe with the scenario's numbers."""
        return Recipe(
            asynchrony=Asynchrony(max_lag=self.max_lag),
            prompts_per_step=self.prompts_per_step,
            completions_per_prompt=self.completions,
            length=Length(control="none"),
        )


@dataclass(frozen=True)
class Schedule:
    """Numbers of a simulated run after its warm-up."""

    step_seconds: float
    trainer_idle: float  # share of the time in which the trainer waits for a batch
    engine_load: float  # mean share of the engines' sequences that run
    lag_mean: float  # steps between a group's admission and its training: of its oldest token
    lag_max: int


@dataclass
class FluidEngine:
    """Sequences that share an engine. `progress` counts the tokens that a sequence got which has run from the start."""

    scenario: Scenario
    progress: float = 0.0
    updated: float = 0.0
    load_seconds: float = 0.0  # integral of the running sequences over time
    running: list[tuple[float, int, "asyncio.Future[None]"]] = field(default_factory=list)  # (progress at its end, ...)
    waiting: collections.deque[tuple[int, "asyncio.Future[None]"]] = field(default_factory=collections.deque)
    serial: int = 0
    timer: asyncio.TimerHandle | None = None

    @property
    def token_seconds(self) -> float:
        """Seconds of one decoding step at the present load."""
        return self.scenario.base_seconds + self.scenario.slope_seconds * len(self.running)

    def advance(self) -> None:
        """Count the progress up to now, end what is complete, start what waits, and set the next timer."""
        now = asyncio.get_running_loop().time()
        self.progress += (now - self.updated) / self.token_seconds
        self.load_seconds += (now - self.updated) * len(self.running)
        self.updated = now
        while self.running and self.running[0][0] <= self.progress + 1e-6:
            done = heapq.heappop(self.running)[2]
            if not done.done():  # cancelled: the engine samples it to its end all the same
                done.set_result(None)
        while self.waiting and len(self.running) < self.scenario.max_sequences:
            length, done = self.waiting.popleft()
            self.serial += 1
            heapq.heappush(self.running, (self.progress + length, self.serial, done))
        if self.timer is not None:
            self.timer.cancel()
        if self.running:
            wait = (self.running[0][0] - self.progress) * self.token_seconds
            self.timer = asyncio.get_running_loop().call_later(max(0.0, wait), self.advance)

    async def generate(self, lengths: Sequence[int]) -> None:
        """Return when all sequences are complete."""
        done = [asyncio.get_running_loop().create_future() for _ in lengths]
        self.waiting.extend(zip(lengths, done, strict=True))
        self.advance()
        await asyncio.gather(*done)


class SimulatedFleet:
    """The engines, as the pool calls them."""

    def __init__(self, scenario: Scenario):
        self.rng = np.random.default_rng(scenario.seed)
        self.lengths = scenario.lengths
        self.engines = [FluidEngine(scenario) for _ in range(scenario.engines)]

    async def start_generator(self, index: int) -> float:  # noqa: ARG002 # the pool's protocol
        """Start at once."""
        return 0.0

    async def sample(
        self,
        index: int,
        prompt: Ints,  # noqa: ARG002 # the pool's protocol
        requests: Sequence[SamplingRequest],
    ) -> list[EngineOutput]:
        """Return completions of drawn lengths when the engine has made them."""
        lengths = [self.lengths.draw(self.rng) for _ in requests]
        await self.engines[index].generate(lengths)
        return [EngineOutput(ONES[:n], ZEROS[:n], ONES[:n], "", "stop") for n in lengths]


async def grade(prompt: Prompt, text: str) -> Reward:  # noqa: ARG001 # the pool's protocol names them
    """Reward every completion."""
    return Reward(1.0)


class FormerPool(Pool):
    """The pool before note 082, for comparison.

    No group starts while a whole batch is complete; an engine's room counts whole groups; and of the groups that are
    submitted at once, all go to one engine.
    """

    def next_slot(self) -> Slot | None:
        """Return the slot that may get one more prompt now; None if none may."""
        options = self.options
        if self.groups.num_completed >= options.staleness.prompts_per_step:
            return None
        group = options.recipe.completions_per_prompt
        for slot in sorted(self.ready(), key=lambda s: (s.load, s.index)):
            fits = slot.num_rollouts == 0 or slot.num_rollouts + group <= options.max_sequences
            if fits and self.groups.capacity(slot.version) > 0:
                return slot
        return None


@dataclass
class Simulation:
    """Pool, engines and trainer of a scenario."""

    scenario: Scenario
    pool_type: type[Pool]

    def __post_init__(self) -> None:
        recipe, clock = self.scenario.recipe, asyncio.get_running_loop().time
        bound = build_staleness_bound(recipe)
        sequences = self.scenario.max_sequences
        options = PoolOptions(recipe, bound, None, 0, FOREVER, FOREVER, sequences)
        slots = [Slot(index, RoleClock(1)) for index in range(self.scenario.engines)]
        self.fleet = SimulatedFleet(self.scenario)
        self.pool = self.pool_type(options, self.fleet, grade, slots, clock)
        self.waited, self.lags = 0.0, list[int]()
        self.began = 0.0

    async def run(self) -> Schedule:
        """Train all steps; return the numbers after the warm-up."""
        for slot in self.pool.slots.values():
            self.pool.start_slot(slot)
        await self.pool.wait_running(self.scenario.engines)
        self.pool.record_update(self.pool.outdated(0), 0)
        feeder = asyncio.create_task(self._feed())
        for step in range(self.scenario.steps):
            if step == self.scenario.warmup_steps:
                self._begin_count()
            await self._train(step)
        for engine in self.fleet.engines:
            engine.advance()
        feeder.cancel()
        await self.pool.close()
        return self._schedule()

    def _begin_count(self) -> None:
        self.waited, self.lags, self.began = 0.0, [], asyncio.get_running_loop().time()
        for engine in self.fleet.engines:
            engine.advance()
            engine.load_seconds = 0.0

    def _schedule(self) -> Schedule:
        seconds = asyncio.get_running_loop().time() - self.began
        load = sum(engine.load_seconds for engine in self.fleet.engines) / len(self.fleet.engines)
        return Schedule(
            step_seconds=seconds / (self.scenario.steps - self.scenario.warmup_steps),
            trainer_idle=self.waited / seconds,
            engine_load=load / seconds / self.scenario.max_sequences,
            lag_mean=float(np.mean(self.lags)),
            lag_max=max(self.lags),
        )

    async def _feed(self) -> None:
        pool, serial = self.pool, 0
        while True:
            count = pool.changed.count
            while (slot := pool.next_slot()) is not None:
                pool.submit(slot, Prompt(serial, "", ONES[:1], ""), 0)
                serial += 1
            pool.check()
            await pool.changed.wait_past(count)

    async def _train(self, step: int) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            count = self.pool.changed.count
            groups = self.pool.groups.select(step)
            if groups is not None:
                break
            await self.pool.changed.wait_past(count)
            self.pool.check()
        self.waited += clock() - began
        self.lags += [step - group.admitted_version for group in groups]
        await asyncio.sleep(self.scenario.train_seconds)
        self.pool.groups.consume(len(groups))
        asyncio.get_running_loop().call_later(self.scenario.sync_seconds, self._update, step + 1)

    def _update(self, version: int) -> None:
        self.pool.record_update(self.pool.outdated(version), version)


def simulate(scenario: Scenario, pool_type: type[Pool] = Pool) -> Schedule:
    """Return the schedule of a scenario with the product's pool, or with another."""

    async def run() -> Schedule:
        return await Simulation(scenario, pool_type).run()

    return play(run())
