"""A run's evaluations: begun beside training, ended when they are late, repeated from their checkpoints. I/O.

Training waits for none of them. An evaluation that is late counts with the part that it has measured; one with too
small a part stays in the checkpoints' state, and is repeated when training is over or the run resumes.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from scalerl_api.wire import HELD_OUT, EvalPoint
from scalerl_runtime.deadlines import DeadlineExceeded, first_of, within
from scalerl_runtime.loop.eval_sets import list_eval_sets
from scalerl_runtime.loop.evaluation import EvalPlan, Evaluation, TooFewPrompts
from scalerl_runtime.loop.interfaces import Observer, PipelineDeps
from scalerl_runtime.loop.run_state import TrainingState
from scalerl_runtime.loop.slots import Slot
from scalerl_runtime.loop.syncer import LeaseWithdrawn, Syncer
from scalerl_runtime.storage.checkpoint import PendingEval
from scalerl_runtime.types import GeneratorLost

log = logging.getLogger(__name__)

MAX_TRIES = 3  # of one evaluation while nothing else runs, before the attempt ends


class Checkpoints(Protocol):
    """The saver's calls that evaluations use."""

    async def settle(self, step: int) -> None:
        """Wait until the checkpoint of `step` is not being written any more. Raises its fault."""
        ...

    async def load(self, step: int) -> None:
        """Load the trainer's part of a checkpoint."""
        ...


class Evaluator:
    """The evaluations of one attempt."""

    def __init__(
        self,
        deps: PipelineDeps,
        state: TrainingState,
        observer: Observer,
        syncer: Syncer,
        saver: Checkpoints,
        stopping: asyncio.Event,
    ):
        self._deps = deps
        self._state = state
        self._observer = observer
        self._syncer = syncer
        self._saver = saver
        self._stopping = stopping
        self._running: Evaluation | None = None  # the newest one
        self._tasks: set[asyncio.Task[None]] = set()  # it, and earlier ones whose last completions are in flight

    # -- beside training -------------------------------------------------------------------------------------------

    async def begin(self, pending: PendingEval, *, whole: bool) -> None:
        """Evaluate the trainer's present weights, those of `pending`; the evaluation before ends with its part.

        `whole`: on all engines, as nothing is trained any more; the evaluation before is awaited. The caller has begun
        to save a checkpoint.
        """
        if whole:
            await self.finish()
        else:
            self.end()
        if self._stopping.is_set():
            return
        deps, spec = self._deps, self._deps.run.spec
        plan = EvalPlan(pending.step, pending.compute_gpu_hours, spec.seed, deps.attempt, whole=whole)
        sets = list_eval_sets(spec, deps.data, pending.step)
        running = Evaluation(deps.pool, plan, sets, self._syncer.release, self._observer.on_eval_progress)
        lease = await self._syncer.lease(pending.step, whole=whole)
        self._running = running
        self._tasks.add(deps.pool.spawn(self._evaluate(pending, running, lease)))

    def end(self) -> None:
        """Have the running evaluation begin no further prompt; one that has no engine yet is repeated later."""
        if self._running is not None:
            self._running.end()
            self._syncer.withdraw_lease()
            self._running = None

    def is_evaluated(self) -> bool:
        """Whether the present step is measured, or will be by `finish`."""
        pending, evals = self._state.pending, self._deps.journals.evals
        return self._state.step in ({each.step for each in pending} | {int(line["step"]) for line in evals.read()})

    # -- alone -----------------------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Await the running evaluation, which gets every engine; return early when the run is being stopped."""
        self._tasks = {task for task in self._tasks if not task.done()}
        if self._running is not None:
            self._running.use_all()
        if self._tasks:
            self._observer.on_phase("evaluating", "no step is trained any more")
            await first_of(asyncio.wait(self._tasks), self._stopping.wait())
        self._deps.pool.check()

    async def catch_up(self) -> None:
        """Evaluate earlier steps from their checkpoints; the caller then loads the present weights again.

        Raises RuntimeError if a step cannot be evaluated. Returns early when the run is being stopped.
        """
        for pending in list(self._state.pending):
            self._observer.on_phase("evaluating", f"late evaluation of step {pending.step}")
            await self._saver.load(pending.step)
            await self._syncer.discard_staged()
            for _ in range(MAX_TRIES):
                await self.begin(pending, whole=True)
                await self.finish()
                if pending not in self._state.pending or self._stopping.is_set():
                    break
            if self._stopping.is_set():
                self.end()
                return
            if pending in self._state.pending:
                raise RuntimeError(f"step {pending.step} could not be evaluated, {MAX_TRIES} times in a row")

    # -- one evaluation --------------------------------------------------------------------------------------------

    async def _evaluate(self, pending: PendingEval, running: Evaluation, lease: "asyncio.Future[list[Slot]]") -> None:
        with self._deps.pool.tracer.span("scalerl.evaluation", {"scalerl.step": pending.step}) as span:
            try:
                points = await self._measure(running, lease)
            except (GeneratorLost, TooFewPrompts, LeaseWithdrawn, DeadlineExceeded) as error:
                span.fail(type(error).__name__)
                log.warning("the evaluation of step %d is postponed: %s", pending.step, error)
                self._observer.on_late_eval()
                return
            finally:
                if self._running in (running, None):
                    self._observer.on_eval_progress(None)
            await self._saver.settle(pending.step)  # what is recorded has a checkpoint to go on from
            self._record(pending, points)

    async def _measure(self, running: Evaluation, lease: "asyncio.Future[list[Slot]]") -> list[EvalPoint]:
        seconds = self._deps.run.spec.deadlines
        patience = seconds.start_seconds + seconds.sync_seconds  # a lost generator may have to restart
        try:
            slots = await within(patience, f"leasing a generator for step {running.plan.step}", lease)
        except DeadlineExceeded:
            self._syncer.withdraw_lease()
            raise
        timer = asyncio.get_running_loop().call_later(seconds.eval_seconds, running.end)
        try:
            return await running.run(slots, self._deps.rollouts)
        finally:
            timer.cancel()

    def _record(self, pending: PendingEval, points: Sequence[EvalPoint]) -> None:
        first = self._state.num_evals
        points = [point.model_copy(update={"index": first + place}) for place, point in enumerate(points)]
        self._deps.journals.evals.append(*(point.model_dump(by_alias=True) for point in points))
        for point in points:
            if point.dataset == HELD_OUT:
                self._deps.rollouts.note_rate(point.step, point.pass_rate)
        self._state.count_eval(pending, len(points))
        if any(point.unsampled for point in points):
            log.warning("the evaluation of step %d is late: %s", pending.step, _describe_part(points[0]))
            self._observer.on_late_eval()
        self._observer.on_eval(points)


def _describe_part(point: EvalPoint) -> str:
    return f"{point.prompts} of {point.prompts + point.unsampled} prompts count, with a larger error"
