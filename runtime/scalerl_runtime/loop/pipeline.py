"""The asynchronous loop: prompts to generators, groups to trainers, weights back, evaluations in parallel. I/O.

    submit ──> Pool (generators) ──> completed groups ──> train ──> Syncer ──> Pool
                                                            └──> checkpoint ──> evaluate (on leased generators)

`submit` waits for capacity: a step, new weights, or a generator that restarts. `train` waits for a batch: completed
groups. Both wake on `pool.changed`. The syncer waits for new weights or a generator without weights. An evaluation
waits for its lease, and training for no evaluation. Each of these waits has a deadline, set in the call that starts it.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence

from scalerl_api.wire import StepRecord
from scalerl_runtime.algorithm.batch import Batch, build_batch, decide_groups
from scalerl_runtime.algorithm.prompts.curriculum import AllPromptsExcludedError
from scalerl_runtime.algorithm.results import StepResult, SyncReport
from scalerl_runtime.algorithm.schedules import learning_rate
from scalerl_runtime.algorithm.step import PackedStep, measure, pack, sync_values
from scalerl_runtime.deadlines import first_of, within
from scalerl_runtime.loop.evaluator import Evaluator
from scalerl_runtime.loop.interfaces import Observer, PipelineDeps
from scalerl_runtime.loop.prompt_supply import PromptSupply
from scalerl_runtime.loop.run_state import TrainingState, snapshot
from scalerl_runtime.loop.saver import Saver
from scalerl_runtime.loop.self_check import SelfChecker
from scalerl_runtime.loop.span_values import step_values
from scalerl_runtime.loop.syncer import Syncer
from scalerl_runtime.storage.checkpoint import PendingEval, RunState
from scalerl_runtime.trackers.tracing import TraceSpan
from scalerl_runtime.types import Group

log = logging.getLogger(__name__)


class Pipeline:
    """One attempt at a run, from a training state to the end of the budget."""

    def __init__(self, deps: PipelineDeps, state: TrainingState, observer: Observer, stopping: asyncio.Event):
        self.deps = deps
        self.tracer = deps.pool.tracer
        self.state = state
        self.observer = observer
        self.stopping = stopping
        self.last_sync: SyncReport | None = None
        self.is_solved = False  # no prompt is left to train on: the run ends early
        self.supply = PromptSupply(deps.data.train, deps.recipe, deps.run.spec)
        waits, flush = deps.run.spec.deadlines, deps.rollouts.flush
        self.saver = Saver(deps.store, deps.fleet, waits.checkpoint_seconds, observer.on_checkpoint, flush)
        self.syncer = Syncer(deps.fleet, deps.pool, waits.sync_seconds, self._on_sync)
        self.checker = SelfChecker(deps, observer, stopping)
        self.evaluator = Evaluator(deps, state, observer, self.syncer, self.saver, stopping)
        self._is_checked = asyncio.Event()  # no prompt is generated for before an engine has passed its self-check
        self._tokens_reported = 0
        self._dropped = 0  # groups of the current step that a refill replaces

    # -- the attempt -----------------------------------------------------------------------------------------------

    async def run(self, *, fresh: bool) -> None:
        """Train until the budget is spent or `stopping` is set; without a stop, finish every evaluation that is due.

        `fresh`: evaluate step 0, as nothing was evaluated yet. Raises the error that ended the run.
        """
        self.deps.pool.start_clocks()
        self.deps.trainer_clock.start(self.deps.now())
        self.deps.trainer_clock.switch("wait", self.deps.now())
        works = self.syncer.run(), self._submit_prompts(), self.saver.watch()
        background = [asyncio.create_task(work) for work in works]
        try:
            await self._guarded(self._main(fresh=fresh), background)
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await self.saver.close()
            await self.deps.pool.close()

    async def _guarded(self, work: Coroutine[None, None, None], background: list["asyncio.Task[None]"]) -> None:
        """Await `work`; fail as soon as a background task fails."""
        main = asyncio.create_task(work)
        try:
            done, _ = await asyncio.wait([main, *background], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not main.done():
                main.cancel()
                await asyncio.gather(main, return_exceptions=True)
        for task in done:
            await task

    async def _main(self, *, fresh: bool) -> None:
        await self._catch_up_evals()
        await self.syncer.publish(self.state.step)
        await self.checker.check_first(self.state.step)
        self._is_checked.set()
        if fresh:
            await self._begin_eval()
        while not self._is_done():
            with self.tracer.span("scalerl.step", {"scalerl.step": self.state.step + 1}) as span:
                if not await self._step(span):
                    span.fail("Stopped")
                    break
        if self.stopping.is_set():
            await self._save("stopping", wait=True)
            return
        if not self.evaluator.is_evaluated():  # all prompts are solved, or the GPU-hours are spent
            await self._begin_eval()
        await self.evaluator.finish()
        await self._catch_up_evals()
        await self._save("stopping" if self.stopping.is_set() else "the end", wait=True)

    def _is_done(self) -> bool:
        budget = self.deps.run.spec.budget
        spent = budget.gpu_hours is not None and self.compute_gpu_hours() >= budget.gpu_hours
        # A resumed run may have groups for another step, and would train on them before it draws.
        self.is_solved = self.is_solved or self.supply.is_exhausted(self.state, self.deps.pool.refused)
        return self.stopping.is_set() or self.is_solved or spent or self.state.step >= budget.steps

    def compute_gpu_hours(self) -> float:
        """GPU-hours of the history that survives: earlier attempts up to their checkpoint, and all of this one."""
        seconds = self.deps.trainer_clock.total(self.deps.now()) + self.deps.pool.device_seconds()
        return self.state.compute_before + seconds / 3600

    # -- feeding ---------------------------------------------------------------------------------------------------

    async def _submit_prompts(self) -> None:
        pool = self.deps.pool
        await self._is_checked.wait()
        while True:
            count = pool.changed.count
            slot = pool.next_slot()
            pool.check()
            self.supply.check_refused(pool.refused)
            while slot is not None and self._is_wanted():
                try:
                    prompt, epoch = self.supply.next(self.state, pool.groups, pool.refused)
                except AllPromptsExcludedError as error:
                    log.info("the run ends at step %d: %s", self.state.step, error)
                    self.is_solved = True
                    pool.changed.set()  # wakes the wait for a batch
                    break
                pool.submit(slot, prompt, epoch)
                slot = pool.next_slot()
            await pool.changed.wait_past(count)

    def _is_wanted(self) -> bool:
        """Whether another group could still be trained. A recipe with refills may need any number."""
        if self.stopping.is_set() or self.is_solved:
            return False
        left = self.deps.run.spec.budget.steps - self.state.step
        refills = self.deps.recipe.zero_variance == "refill"
        return refills or self.deps.pool.groups.num_outstanding < left * self.deps.recipe.prompts_per_step

    # -- training --------------------------------------------------------------------------------------------------

    async def _step(self, span: TraceSpan) -> bool:
        """Train one step; return False if the run is being stopped instead."""
        deps = self.deps
        began = deps.now()
        deps.trainer_clock.switch("wait", began)
        with self.tracer.span("scalerl.step.wait", {}):
            groups = await self._take_groups()
        if groups is None:
            return False
        batch = build_batch(groups, deps.recipe, version=self.state.step)
        waited = deps.now() - began
        deps.trainer_clock.switch("train", deps.now())
        span.set(step_values, batch.stats)
        with self.tracer.span("scalerl.step.train", {}):
            packed, results = await self._optimize(batch)
        await deps.rollouts.record_step(groups, batch.advantages, self.state.step + 1)
        action = deps.run.spec.watchdog.non_finite.action
        values, split = measure(batch, packed, results, what=f"step {self.state.step + 1}", action=action)
        self._count_step(groups)
        values |= self._loop_values(batch, began, waited)
        record = StepRecord(
            step=self.state.step,
            time=time.time(),
            attempt=deps.attempt,
            compute_gpu_hours=self.compute_gpu_hours(),
            reward=values.get("reward"),
            reward_by_judge=dict(batch.stats.reward_by_judge),
            values=values,
        )
        deps.journals.metrics.append(record.model_dump(by_alias=True))
        self.observer.on_step(record, batch.stats.lag_tokens, split)
        self.observer.on_groups(groups, record.step)
        deps.trainer_clock.switch("sync", deps.now())
        await self._after_step()
        return True

    async def _take_groups(self) -> list[Group] | None:
        """Return the groups of the next step, refilled if the recipe requires it; None when stopping."""
        pool, recipe, seconds = self.deps.pool, self.deps.recipe, self.deps.run.spec.deadlines.batch_seconds
        taken: list[Group] = []
        missing = recipe.prompts_per_step
        while missing:
            found = await within(seconds, "waiting for a batch", self._select(missing))
            if found is None:
                self._drop(0)
                pool.groups.put_back(taken)
                return None
            taken += found
            decision = decide_groups(taken, recipe)
            missing = decision.refill
            self._drop(len(decision.dropped) if missing else 0)
        return taken

    async def _select(self, num_groups: int) -> list[Group] | None:
        """Return `num_groups` groups as soon as the next step may take them; None when stopping."""
        pool = self.deps.pool
        while True:
            count = pool.changed.count
            if self.is_solved:  # only groups of solved prompts are under way
                return None
            found = pool.groups.select(self.state.step, num_groups)
            if found is not None or self.stopping.is_set():
                return found
            await first_of(pool.changed.wait_past(count), self.stopping.wait())
            pool.check()

    def _drop(self, count: int) -> None:
        """Set how many groups taken for the next step are replaced; as many others may be generated now."""
        self.deps.pool.groups.drop(count - self._dropped)
        self._dropped = count

    def _rate(self, version: int) -> float:
        """Return the learning rate of the step to `version`."""
        optimizer = self.deps.recipe.optimizer
        return learning_rate(version - 1, base=optimizer.learning_rate, warmup_steps=optimizer.warmup_steps)

    async def _optimize(self, batch: Batch) -> tuple[PackedStep | None, list[StepResult]]:
        deps, spec, version = self.deps, self.deps.run.spec, self.state.step + 1
        if not batch.sequences:
            await within(spec.deadlines.train_seconds, "naming a version", deps.fleet.set_version(version))
            return None, []
        budget, ranks = spec.trainer.micro_batch_tokens, spec.trainer.data_parallel_ranks
        packed = pack(batch.sequences, budget=budget, ranks=ranks, quadratic=deps.quadratic)
        results = await within(
            spec.deadlines.train_seconds,
            f"training step {version}",
            deps.fleet.train(
                packed.batches,
                learning_rate=self._rate(version),
                kl_coefficient=self.state.kl.coefficient,
                version=version,
            ),
        )
        self.state.follow_kl(results)
        return packed, results

    def _count_step(self, groups: Sequence[Group]) -> None:
        """Count the step: version, consumed groups, history, ledger."""
        state = self.state
        state.count_step(groups, keep_history=self.deps.recipe.no_positive_resampling)
        self.deps.pool.groups.consume(len(groups))
        self.deps.journals.ledger.append(
            {"step": state.step, "prompts": [[g.epoch, g.prompt.id] for g in groups], "attempt": self.deps.attempt}
        )

    def _loop_values(self, batch: Batch, began: float, waited: float) -> dict[str, float]:
        """Return the step's metrics that the loop itself measures."""
        deps, now = self.deps, self.deps.now()
        seconds = max(now - began, 1e-9)
        sampled = deps.pool.counters.tokens - self._tokens_reported
        self._tokens_reported = deps.pool.counters.tokens
        values = {
            "step_seconds": seconds,
            "wait_seconds": waited,
            "tokens_per_second": batch.stats.trained_tokens / seconds,
            "generator_tokens_per_second": sampled / seconds,
            "idle_fraction_trainer": deps.trainer_clock.idle_fraction(now),
            "idle_fraction_generator": deps.pool.idle_fraction(),
            "buffered_groups": float(deps.pool.groups.num_completed),
            "in_flight_groups": float(deps.pool.groups.num_in_flight),
            "kl_coefficient": self.state.kl.coefficient,
            "excluded_prompts": float(len(self.state.history.excluded)),
            "learning_rate": self._rate(self.state.step),
        }
        return values | (sync_values(self.last_sync) if self.last_sync else {})

    async def _after_step(self) -> None:
        budget, checkpoint, step = self.deps.run.spec.budget, self.deps.run.spec.checkpoint, self.state.step
        if step % budget.eval_every_steps == 0 or step == budget.steps:
            await self._begin_eval()
        elif step % checkpoint.every_steps == 0:
            await self._save(f"step {step}")
        if self.deps.staleness.is_push_due(step):
            await self.syncer.publish(step)
            await self.checker.check_due(step)

    def _on_sync(self, report: SyncReport) -> None:
        self.last_sync = report

    # -- evaluations -----------------------------------------------------------------------------------------------

    async def _begin_eval(self) -> None:
        """Save this step, then evaluate it while training continues; the evaluation before ends with its part."""
        whole = self._is_done()
        if not whole:
            self.evaluator.end()
        compute = self.compute_gpu_hours() if self.state.step else 0.0
        pending = PendingEval(self.state.step, compute)
        self.state.pending.append(pending)
        await self._save(f"step {self.state.step}, to be evaluated")
        await self.evaluator.begin(pending, whole=whole)

    async def _catch_up_evals(self) -> None:
        """Evaluate earlier steps from their checkpoints, then load the present weights again."""
        if not self.state.pending or self.stopping.is_set():
            return
        await self.saver.settle()
        if (here := self.state.step) not in self.deps.store.steps():
            await self._save("before late evaluations", wait=True)
        await self.evaluator.catch_up()
        await self.saver.load(here)
        await self.syncer.discard_staged()
        if not self.stopping.is_set():
            self.observer.on_phase("training", "")

    # -- durability ------------------------------------------------------------------------------------------------

    async def _save(self, why: str, *, wait: bool = False) -> None:
        """Copy the state for a checkpoint, which is written while training goes on, or with `wait` at once."""
        deps = self.deps
        before = deps.trainer_clock.switch("save", deps.now())
        with self.tracer.span("scalerl.checkpoint", {"scalerl.step": self.state.step}):
            await self.saver.begin(self.state.step, self._contents, protect=self._steps_to_evaluate, why=why)
            if wait:
                await self.saver.settle()
        deps.trainer_clock.switch(before, deps.now())

    def _steps_to_evaluate(self) -> frozenset[int]:
        return frozenset(each.step for each in self.state.pending)

    def _contents(self) -> tuple[RunState, list[Group]]:
        """Return the coordinator's part of a checkpoint, and the groups that wait for a step."""
        groups = self.deps.pool.groups
        return snapshot(self.state, groups, self.compute_gpu_hours()), list(groups.completed)
