"""The pool of generators: prompts in, graded groups out. I/O.

Each generator has a slot. Its states:

    starting -> stale (runs, without this run's weights) -> ready -> lost -> starting -> ...

Only `ready` slots get prompts. A lease keeps a slot's weights for an evaluation, and no group starts there. While no
other slot is ready, the leased ones are shared: groups start on them, and they are updated. Where the capacity follows
pods, a lost slot is `vacant`, and not charged, until a pod has room for it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence

import numpy as np

from scalerl_api.validation import InvalidRun
from scalerl_runtime.algorithm.batch import leave_out_unsound
from scalerl_runtime.algorithm.interruption import draw_budget
from scalerl_runtime.algorithm.pace import RunningShare
from scalerl_runtime.deadlines import ChangeNotifier, DeadlineExceeded, within
from scalerl_runtime.loop import slots as slot_rules
from scalerl_runtime.loop.device_time import RoleClock
from scalerl_runtime.loop.episode import Engine, EpisodePlayer
from scalerl_runtime.loop.grading import Grader, SampleGrader, Voting
from scalerl_runtime.loop.group_buffer import GroupBuffer
from scalerl_runtime.loop.slots import (
    TRAINING_DRAW,
    Draw,
    GeneratorFleet,
    InFlightGroup,
    PoolCounters,
    PoolOptions,
    Slot,
)
from scalerl_runtime.loop.span_values import group_values, request_values, submitted_values
from scalerl_runtime.trackers.tracing import NO_TRACING, Tracer, TraceSpan
from scalerl_runtime.types import (
    Completion,
    EngineOutput,
    GeneratorLost,
    GeneratorRestarted,
    Group,
    Prompt,
    PromptRefused,
    SamplingRequest,
)

log = logging.getLogger(__name__)

MAX_START_FAILURES = 3  # consecutive, of one generator, before the run fails
CAPACITY_POLL_SECONDS = 2.0  # between two queries of the cluster's capacity
CAPACITY_DEADLINE_SECONDS = 60.0  # of one query


class Pool:
    """Submits prompts to generators within the staleness bound, and collects groups."""

    def __init__(
        self,
        options: PoolOptions,
        fleet: GeneratorFleet,
        grade: Grader,
        slots: Sequence[Slot],
        now: Callable[[], float],
        tracer: Tracer = NO_TRACING,
        episodes: EpisodePlayer | None = None,
        voting: Voting | None = None,
    ):
        """`episodes`: plays the prompts whose source has an environment; None: there is none. `voting`: for maj@k."""
        self.options = options
        self.fleet = fleet
        self.grader = SampleGrader(grade, options.interruption)
        self.tracer = tracer
        self.episodes = episodes
        self.voting = voting
        self.slots = {slot.index: slot for slot in slots}
        self.counters = PoolCounters()
        self.changed = ChangeNotifier()
        self.running_share = RunningShare()
        self.groups = GroupBuffer(options.staleness, self.changed.set)
        self.refused: dict[int, str] = {}  # training prompts that an engine refused, by id, and its words
        self.fault: BaseException | None = None  # what ended a background task; `check` raises it
        self._now = now
        self._tasks: set[asyncio.Task[None]] = set()
        self._starts: dict[int, asyncio.Task[None]] = {}
        self._counting = False
        self._elastic = False
        self._has_started = False  # a generator of this attempt has
        self._on_stale: Callable[[], None] = lambda: None

    # -- slots -----------------------------------------------------------------------------------------------------

    def ready(self) -> list[Slot]:
        """Slots that may get prompts, the least loaded first."""
        return slot_rules.sort_ready(self.slots.values())

    async def wait_running(self, wanted: int) -> None:
        """Return when `wanted` generators run, with any weights. Raises the error that ended the pool."""
        while sum(s.state in ("stale", "ready") for s in self.slots.values()) < wanted:
            await self.changed.wait_past(self.changed.count)
            self.check()

    def notify_stale(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever a generator may need weights: it has started, or another one is lost."""
        self._on_stale = callback

    def lease(self, version: int, *, whole: bool = False) -> list[Slot]:
        """Keep more ready slots on `version` until `release`, up to an evaluation's share; return the new ones."""
        chosen = slot_rules.choose_leases(self.ready(), version, self.options.eval_share, whole=whole)
        for slot in chosen:
            slot.leased = True
        return chosen

    def release(self, slot: Slot) -> None:
        """End the lease: the slot may be updated again."""
        slot.leased = False
        self.changed.set()

    def eval_room(self, slot: Slot, *, whole: bool) -> int:
        """Return how many completions an evaluation may have in flight on `slot`; `whole`: nothing is trained."""
        room = self.running_share.sequences(self.options.max_sequences)
        is_shared = not whole and slot_rules.is_shared_by_training(self.ready())
        return int(room * self.options.eval_share) if is_shared else room - slot.num_rollouts

    def outdated(self, version: int) -> frozenset[int]:
        """Slots whose generators run and should receive `version`."""
        return slot_rules.find_outdated(self.slots.values(), version, self.options.held_steps)

    def record_update(self, members: frozenset[int], version: int) -> None:
        """Record that `members` run `version` now."""
        for index in members:
            slot = self.slots[index]
            if slot.state in ("stale", "ready"):
                slot.state, slot.version = "ready", version
        self.changed.set()

    def record_check(self, slot: Slot, restarts: int) -> None:
        """Record that the engine of `slot` passed a self-check that began after `restarts` of its restarts."""
        if slot.restarts == restarts:
            slot.num_checks += 1

    def start_clocks(self) -> None:
        """Count device-seconds from now on."""
        self._counting = True
        for slot in self.slots.values():
            if slot.state != "vacant":
                slot.clock.start(self._now())

    def device_seconds(self) -> float:
        """Device-seconds of all generators since `start_clocks`."""
        return sum(slot.clock.total(self._now()) for slot in self.slots.values())

    def idle_fraction(self) -> float:
        """Mean over the generators of their idle share of the time."""
        now = self._now()
        return sum(slot.clock.idle_fraction(now) for slot in self.slots.values()) / max(1, len(self.slots))

    def start_slot(self, slot: Slot) -> None:
        """Start the slot's generator in the background; it is stale until it receives weights."""
        slot.state, slot.version, slot.num_checks = "starting", -1, 0
        self._starts[slot.index] = self.spawn(self._start(slot))

    def follow_capacity(self, generator_capacity: Callable[[], Awaitable[int]]) -> None:
        """Resize the pool to the cluster's capacity until the pool is closed."""
        self._elastic = True
        self.spawn(self._follow_capacity(generator_capacity))

    async def _follow_capacity(self, generator_capacity: Callable[[], Awaitable[int]]) -> None:
        while True:
            capacity = await within(
                CAPACITY_DEADLINE_SECONDS, "querying Ray for the generators' capacity", generator_capacity()
            )
            self.resize(capacity)
            await asyncio.sleep(CAPACITY_POLL_SECONDS)

    def resize(self, capacity: int) -> None:
        """Start generators where there is room; give up starting slots beyond the capacity."""
        start, give_up = slot_rules.plan_slots({index: slot.state for index, slot in self.slots.items()}, capacity)
        for index in give_up:
            self._starts[index].cancel()
            self._vacate(self.slots[index])
        for index in start:
            slot = self.slots.setdefault(index, Slot(index, RoleClock(self.options.devices)))
            if self._counting:
                slot.clock.start(self._now())
            log.info("the cluster has room for generator %d: starting it", index)
            self.start_slot(slot)
        if start or give_up:
            self.changed.set()

    def _vacate(self, slot: Slot) -> None:
        slot.state, slot.version = "vacant", -1
        slot.clock.stop(self._now())

    async def _start(self, slot: Slot) -> None:
        for attempt in range(1, MAX_START_FAILURES + 1):
            try:
                await within(
                    self.options.start_seconds,
                    f"starting generator {slot.index}",
                    self.fleet.start_generator(slot.index),
                )
            except InvalidRun as error:
                # With an engine of the same options running, the fault is that node's, not the spec's.
                if not self._has_started:
                    raise
                self._count_failed_start(slot, attempt, GeneratorLost(slot.index, error))
            except (GeneratorLost, DeadlineExceeded) as error:
                self._count_failed_start(slot, attempt, error)
            else:
                self._has_started = True
                slot.state = "stale"
                self._on_stale()
                self.changed.set()
                return

    def _count_failed_start(self, slot: Slot, attempt: int, error: Exception) -> None:
        log.warning("generator %d did not start (%d of %d): %s", slot.index, attempt, MAX_START_FAILURES, error)
        if attempt == MAX_START_FAILURES:
            raise error

    def mark_lost(self, index: int, cause: object) -> None:
        """Record that a generator died: its prompts are queued again, and it restarts as soon as there is room."""
        slot = self.slots[index]
        if slot.state in ("lost", "starting", "vacant") or isinstance(cause, GeneratorRestarted):
            return
        log.warning("generator %d is lost (%s); restarting it", index, cause)
        slot.state, slot.leased = "lost", False
        slot.restarts += 1
        self.counters.restarts += 1
        if self._elastic:
            self._vacate(slot)
        else:
            self.start_slot(slot)
        self._on_stale()  # the slots that are left may all be leased, and too old to train with
        self.changed.set()

    # -- groups ----------------------------------------------------------------------------------------------------

    def next_slot(self) -> Slot | None:
        """Return the slot that may get one more prompt now; None if none may.

        Beyond the staleness bound two rules limit lag: the pace, and the room of an engine. It gets the groups of which
        it can run all unfinished completions at once, so hardly any of them waits there.
        """
        if self.groups.startable() == 0:
            return None
        group = self.options.recipe.completions_per_prompt
        room = self.running_share.sequences(self.options.max_sequences)
        slots = self.ready()
        is_shared = slot_rules.is_shared_by_training(slots)
        room = int(room * (1.0 - self.options.eval_share)) if is_shared else room
        for slot in slots if is_shared else [slot for slot in slots if not slot.leased]:
            fits = slot.num_rollouts == 0 or slot.num_rollouts + group <= room
            if fits and self.groups.capacity(slot.version) > 0:
                return slot
        return None

    def submit(self, slot: Slot, prompt: Prompt, epoch: int) -> None:
        """Send `prompt` to `slot`; its group appears in `groups` when it is complete."""
        length, count = self.options.recipe.length, self.options.recipe.completions_per_prompt
        budgets: tuple[int | None, ...] = (None,) * count
        if length.control == "interruption":
            rng = np.random.default_rng([self.options.seed, 1, epoch, prompt.id])
            budgets = tuple(draw_budget(rng, length.interrupt_min, length.interrupt_max) for _ in range(count))
        work = InFlightGroup(prompt, epoch, slot.version, slot.index, budgets)
        self.groups.admit(work)
        slot.num_rollouts += count
        self.spawn(self._run(work))

    async def _run(self, work: InFlightGroup) -> None:
        with self.tracer.span("scalerl.rollout", submitted_values(work)) as span:
            await self._generate_and_grade(work, span)

    async def _generate_and_grade(self, work: InFlightGroup, span: TraceSpan) -> None:
        slot = self.slots[work.slot]
        try:
            with self.tracer.span("scalerl.rollout.generate", request_values(work, self.options.recipe)):
                samples = await self.sample(slot, work.prompt, work.budgets, f"generating prompt {work.prompt.id}")
        except PromptRefused as error:
            span.fail(type(error).__name__)
            self.refuse(work.prompt, error)
            self.groups.discard(work)
            return
        except (GeneratorLost, DeadlineExceeded) as error:
            span.fail(type(error).__name__)
            self.mark_lost(slot.index, error)
            self.groups.withdraw(work)
            return
        finally:
            slot.num_rollouts -= len(work.budgets)
        with self.tracer.span("scalerl.rollout.grade", {}):
            completions = await asyncio.gather(
                *(self._grade_completion(work.prompt, s, b) for s, b in zip(samples, work.budgets, strict=True))
            )
        kept = leave_out_unsound(completions)
        group = Group(work.prompt, work.epoch, work.version, kept)
        if any(now is not before for now, before in zip(kept, completions, strict=True)):
            log.warning("prompt %d: a completion with a log-probability that is not finite is left out", work.prompt.id)
        self.running_share = self.running_share.add([len(each.tokens) for each in completions])
        span.set(group_values, group)
        self.groups.complete(work, group)

    def refuse(self, prompt: Prompt, error: PromptRefused) -> None:
        """Leave out a training prompt that an engine refuses; it is not handed out again."""
        if prompt.id not in self.refused:
            self.count_refusal(prompt, error)
            self.refused[prompt.id] = str(error)
            self.changed.set()

    def count_refusal(self, prompt: Prompt, error: PromptRefused) -> None:
        """Count and log a prompt that an engine refuses; the engine goes on."""
        self.counters.refused += 1
        log.warning("prompt %d is left out, the engine refuses it: %s; it reads %.80r", prompt.id, error, prompt.text)

    async def sample(
        self, slot: Slot, prompt: Prompt, budgets: Sequence[int | None], phase: str, draw: Draw = TRAINING_DRAW
    ) -> Sequence[EngineOutput | Completion]:
        """Sample completions of `prompt` on `slot`, one per thinking budget.

        Episodes come graded. Raises PromptRefused, GeneratorLost or DeadlineExceeded.
        """
        requests = slot_rules.build_requests(self.options.recipe, prompt, budgets, draw)
        if self.episodes is not None and self.episodes.has(prompt):
            engine = self._bind_engine(slot, phase, requests[0].temperature)
            return await self.episodes.play(engine, prompt, [each.seed for each in requests], phase)
        samples = await self.request(slot, prompt, requests, phase)
        self.counters.tokens += sum(len(s.tokens) for s in samples)
        return samples

    def _bind_engine(self, slot: Slot, phase: str, temperature: float) -> Engine:
        """Return the engine that `slot` has now, for the turns of episodes: no later one takes its place."""
        restarts = slot.restarts

        async def sample_turn(prompt: Prompt, max_tokens: int, seed: int | None) -> EngineOutput:
            slot.check_engine(restarts)
            request = SamplingRequest(max_tokens, temperature, seed=seed)
            (output,) = await self.request(slot, prompt, [request], phase)
            self.counters.tokens += len(output.tokens)
            return output

        return sample_turn

    async def request(
        self, slot: Slot, prompt: Prompt, requests: Sequence[SamplingRequest], phase: str
    ) -> list[EngineOutput]:
        """Send `requests` to the engine of `slot`. Raises GeneratorLost or DeadlineExceeded."""
        restarts = slot.restarts
        slot.load += len(requests)
        slot.clock.switch("generate", self._now())
        try:
            return await within(
                self.options.generate_seconds, phase, self.fleet.sample(slot.index, prompt.tokens, requests)
            )
        except (GeneratorLost, DeadlineExceeded) as error:
            if slot.restarts == restarts or slot.state not in ("stale", "ready"):
                raise
            raise GeneratorRestarted(slot.index, error) from error
        finally:
            slot.load -= len(requests)
            if slot.load == 0:
                slot.clock.switch("idle", self._now())

    async def _grade_completion(
        self, prompt: Prompt, sample: EngineOutput | Completion, budget: int | None
    ) -> Completion:
        found = await self.grader.finish(prompt, sample, budget)
        self.counters.graded += 1
        self.counters.excluded += found.completion.reward is None
        self.counters.timed_out += found.timed_out
        self.counters.forced_mismatches += found.mismatches
        return found.completion

    # -- tasks -----------------------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        """Run a background task until the pool is closed; its error is what `check` raises."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def check(self) -> None:
        """Raise the error that ended a background task, if one did."""
        if self.fault is not None:
            raise self.fault

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and self.fault is None:
            self.fault = task.exception()
            self.changed.set()

    async def close(self) -> None:
        """Cancel the groups in flight and every background task."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
