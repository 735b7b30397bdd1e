"""Evaluates one version on prompts that are never trained on. I/O in `Evaluation`; the arithmetic is pure."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scalerl_api.validation import Fault, InvalidRun
from scalerl_api.wire import EvalPoint, source_dataset
from scalerl_runtime.algorithm.interruption import draw_budget
from scalerl_runtime.algorithm.majority import maj_at_k
from scalerl_runtime.algorithm.pass_at_k import pass_at_k
from scalerl_runtime.deadlines import DeadlineExceeded
from scalerl_runtime.loop.eval_sets import SAMPLES, EvalProgress, EvalSet, EvalTask, EvalWork, derive_rng, draw_seeds
from scalerl_runtime.loop.pool import Pool
from scalerl_runtime.loop.rollout_recorder import EvalRecording, RolloutRecorder
from scalerl_runtime.loop.slots import Draw, Slot
from scalerl_runtime.loop.span_values import set_values
from scalerl_runtime.types import Completion, GeneratorLost, Prompt, PromptRefused

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Score:
    """Pass rate over prompts with several completions each."""

    pass_rate: float  # mean over prompts of the mean over their graded completions
    standard_error: float  # of that mean; prompts are the independent units
    excluded: int  # completions for which the verifier failed
    prompts: int  # prompts with at least one graded completion


def score(rewards: NDArray[np.float64]) -> Score:
    """Score rewards [P, K]: NaN where the verifier failed, a pass where > 0. Raises ValueError if all are NaN.

    Completions of one prompt are not independent, so the standard error is that of the mean of P prompt means.
    """
    graded = ~np.isnan(rewards)
    counted = graded.any(axis=1)
    if not counted.any():
        raise ValueError(f"none of {rewards.size} completions could be graded")
    passes = np.where(graded, rewards > 0, False).sum(axis=1)[counted]
    means = passes / graded.sum(axis=1)[counted]
    spread = float(means.std(ddof=1)) if len(means) > 1 else 0.5
    return Score(
        pass_rate=float(means.mean()),
        standard_error=spread / float(np.sqrt(len(means))),
        excluded=int((~graded).sum()),
        prompts=int(counted.sum()),
    )


@dataclass(frozen=True)
class EvalPlan:
    """One evaluation: the step, its compute, and the sampling."""

    step: int
    compute_gpu_hours: float
    seed: int
    attempt: int
    samples: int = 1  # completions per prompt; each set has its own
    whole: bool = False  # on all engines, as nothing is trained, until enough prompts are sampled


@dataclass(frozen=True)
class EvalSample:
    """The numbers kept of a completion; an evaluation has too many to keep their tokens."""

    reward: float  # NaN where the verifier failed
    tokens: int
    surprise: float  # sum of the negative log-probabilities (nats) of the tokens that the model chose
    chosen: int  # number of these tokens; forced ones are not among them
    cut: bool  # at the length limit
    vote: int | None = None  # number of its answer in a majority vote; None: its verifier has none
    versions: tuple[int, int] | None = None  # lowest and highest of the weights that sampled it; None: it has no token


def measure_completion(completion: Completion, vote: int | None = None) -> EvalSample:
    """Return the numbers of one completion."""
    return EvalSample(
        reward=np.nan if completion.reward is None else completion.reward,
        tokens=len(completion.tokens),
        surprise=-float(completion.logps[~completion.forced].sum(dtype=np.float64)),
        chosen=int(np.count_nonzero(~completion.forced)),
        cut=completion.finish == "length",
        vote=vote,
        versions=(int(completion.versions.min()), int(completion.versions.max())) if completion.versions.size else None,
    )


def mean_surprise(samples: Sequence[EvalSample]) -> float:
    """Return the mean over all tokens that the model chose (nats), an estimate of its entropy; 0 without tokens."""
    return sum(each.surprise for each in samples) / max(1, sum(each.chosen for each in samples))


Results = Sequence[Sequence[EvalSample]]
"""The completions of each prompt."""

REFUSED = EvalSample(reward=np.nan, tokens=0, surprise=0.0, chosen=0, cut=False)  # the engine refuses the prompt


def measure_set(dataset: str, results: Results, plan: EvalPlan, *, unsampled: int = 0) -> EvalPoint:
    """Return the point of one set from its prompts' completions, without an index.

    `unsampled`: prompts of the set that are not in `results`. Raises ValueError if no completion could be graded.
    """
    rewards = np.array([[each.reward for each in row] for row in results])
    found = score(rewards)
    sampled = [each for row in results for each in row if each is not REFUSED]
    versions = [each.versions for each in sampled if each.versions is not None] or [(plan.step, plan.step)]
    return EvalPoint(
        index=0,
        dataset=dataset,
        step=plan.step,
        version=min(lowest for lowest, _ in versions),
        version_end=max(highest for _, highest in versions),
        compute_gpu_hours=plan.compute_gpu_hours,
        pass_rate=found.pass_rate,
        prompts=found.prompts,
        unsampled=unsampled,
        samples=plan.samples,
        standard_error=found.standard_error,
        excluded=found.excluded,
        pass_at_k=pass_at_k(rewards) if plan.samples > 1 else None,
        maj_at_k=_count_votes(results, plan.samples) if plan.samples > 1 else None,
        mean_tokens=float(np.mean([each.tokens for each in sampled])),
        truncation_share=float(np.mean([each.cut for each in sampled])),
        entropy=mean_surprise(sampled),
        attempt=plan.attempt,
    )


def _count_votes(results: Results, samples: int) -> dict[str, float] | None:
    """Return maj@k of a set; None if the verifier of any prompt has no vote."""
    graded = [[each.vote for each in row if not np.isnan(each.reward)] for row in results]
    votes = [[vote for vote in row if vote is not None] for row in graded]
    return maj_at_k(votes, samples) if votes == graded and any(votes) else None


def measure_sets(
    sets: Sequence[EvalSet], rows: Sequence[Mapping[int, list[EvalSample]]], plan: EvalPlan
) -> list[EvalPoint]:
    """Return the points of all sets, in order, each before those of its parts.

    `rows`: of each set, the completions of the prompts that were sampled, by the prompt's place in the set.
    """
    points = []
    for each, found in zip(sets, rows, strict=True):
        plan = replace(plan, samples=each.samples)
        points.append(measure_set(each.dataset, _in_order(found), plan, unsampled=len(each.prompts) - len(found)))
        for part in each.parts:
            points += _measure_part(part, each.prompts, found, plan)
    return points


def _in_order(found: Mapping[int, list[EvalSample]]) -> list[list[EvalSample]]:
    return [found[row] for row in sorted(found)]


def _measure_part(
    source: str, prompts: Sequence[Prompt], found: Mapping[int, list[EvalSample]], plan: EvalPlan
) -> list[EvalPoint]:
    """Return the point of one source's prompts in a pooled set; none if none of its completions could be graded."""
    size = sum(prompt.source == source for prompt in prompts)
    own = _in_order({row: each for row, each in found.items() if prompts[row].source == source})
    if all(np.isnan(each.reward) for row in own for each in row):
        log.warning("step %d: no completion of source %s could be graded: it has no point", plan.step, source)
        return []
    return [measure_set(source_dataset(source), own, plan, unsampled=size - len(own))]


def _check_refused(name: str, results: Results, max_bad_share: float) -> None:
    """Raise InvalidRun if the engine refuses more than `maxBadShare` of a set's prompts, or all of them."""
    refused = sum(row[0] is REFUSED for row in results)
    if refused > max_bad_share * len(results) or refused == len(results):
        found = f"{refused} of {len(results)} prompts of {name} are refused by the engine"
        raise InvalidRun([Fault("spec.data.maxBadShare", found, f"a share of at most {max_bad_share:g}")])


@dataclass
class _Member:
    """An engine that samples for an evaluation. Mutable, by its own methods."""

    slot: Slot
    restarts: int  # of the slot when it joined: a later engine has other weights
    load: int = 0  # completions in flight, whole prompts
    is_leased: bool = True

    @property
    def is_alive(self) -> bool:
        return self.slot.restarts == self.restarts and self.slot.state == "ready"

    def count(self, completions: int) -> None:
        """Count completions that begin, or end where negative."""
        self.load += completions

    def free(self, release: Callable[[Slot], None]) -> None:
        """End the lease, once."""
        if self.is_leased and self.is_alive:
            release(self.slot)
        self.is_leased = False


class TooFewPrompts(RuntimeError):
    """An evaluation ended before enough prompts had begun; it is repeated from its checkpoint."""


class Evaluation:
    """One evaluation while it runs. The engines that it leases sample its prompts; `end` makes a part of them count."""

    def __init__(
        self,
        pool: Pool,
        plan: EvalPlan,
        sets: Sequence[EvalSet],
        release: Callable[[Slot], None],
        report: Callable[[EvalProgress], None],
    ):
        """`release`: ends a slot's lease. `report`: called at the start, and a REPORTS-th part of the prompts later."""
        self.plan = plan
        self._pool = pool
        self._sets = sets
        self._release = release
        self._report = report
        self._work = EvalWork(sets, seed=plan.seed, step=plan.step)
        self._rows: list[dict[int, list[EvalSample]]] = [{} for _ in sets]
        self._members: list[_Member] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_ending = False

    def end(self) -> None:
        """Begin no further prompt, once enough of each set have begun or unless the plan is `whole`."""
        self._is_ending = True
        self._pool.changed.set()

    def use_all(self) -> None:
        """Use every engine from now on: nothing is trained any more."""
        self.plan = replace(self.plan, whole=True)
        self._pool.changed.set()

    async def run(self, slots: Sequence[Slot], rollouts: RolloutRecorder) -> list[EvalPoint]:
        """Sample on the leased `slots`, and on others that have the same weights; return the points of all sets.

        Raises GeneratorLost when the last engine is lost, TooFewPrompts when it ended too early, InvalidRun when an
        engine refuses too many prompts. Then nothing is measured.
        """
        self._members = [_Member(slot, slot.restarts) for slot in slots]
        self._report(self._progress())
        try:
            async with AsyncExitStack() as stack:
                files = [
                    await stack.enter_async_context(rollouts.evaluation(self.plan.step, each.dataset, len(self._sets)))
                    for each in self._sets
                ]
                await self._sample_all(files)
            return self._measure()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for member in self._members:
                member.free(self._release)

    def _measure(self) -> list[EvalPoint]:
        for each, found in zip(self._sets, self._rows, strict=True):
            _check_refused(each.dataset, _in_order(found), self._pool.options.max_bad_share)
        points = measure_sets(self._sets, self._rows, self.plan)
        for each in self._sets:
            name = each.dataset
            (point,) = (point for point in points if point.dataset == name)
            with self._pool.tracer.span("scalerl.evaluation.set", {"scalerl.evaluation.dataset": name}) as span:
                span.set(set_values, point.pass_rate, point.prompts)
        return points

    async def _sample_all(self, files: Sequence[EvalRecording]) -> None:
        while True:
            count = self._pool.changed.count
            self._pool.check()
            for task in [task for task in self._tasks if task.done()]:
                self._tasks.discard(task)
                task.result()
            self._apply_end()
            if self._work.is_done:
                return
            self._join_more()
            self._submit(files)
            if not any(member.is_alive for member in self._members):
                raise GeneratorLost(self._members[-1].slot.index, "no engine of the evaluation is left")
            await self._pool.changed.wait_past(count)

    def _apply_end(self) -> None:
        if not self._is_ending or self._work.is_ending:
            return
        if self._work.is_enough():
            self._work.end()
            if not self.plan.whole:
                for member in self._members:
                    member.free(self._release)
        elif not self.plan.whole:
            raise TooFewPrompts(f"only {self._work.num_done} prompts are sampled")

    def _join_more(self) -> None:
        """Lease engines that have the evaluated weights, up to the evaluation's share: some start late."""
        if not self._is_ending and self._work.has_next:
            joined = self._pool.lease(self.plan.step, whole=self.plan.whole)
            self._members += [_Member(slot, slot.restarts) for slot in joined]

    def _submit(self, files: Sequence[EvalRecording]) -> None:
        while self._work.has_next:
            found = self._choose_member()
            if found is None:
                return
            task = self._work.begin()
            found.count(self._sets[task.set_index].samples)
            self._tasks.add(asyncio.create_task(self._sample(found, task, files[task.set_index])))
        for member in self._members:
            if not member.load:
                member.free(self._release)

    def _choose_member(self) -> _Member | None:
        """Return the engine with the most room for another prompt; one without any of this evaluation has room."""
        rooms = [
            (self._pool.eval_room(member.slot, whole=self.plan.whole) - member.load, member)
            for member in self._members
            if member.is_alive
        ]
        samples = max(each.samples for each in self._sets)
        free = [(room, member) for room, member in rooms if room >= samples or not member.load]
        return max(free, key=lambda each: (each[0], -each[1].slot.index))[1] if free else None

    async def _sample(self, member: _Member, task: EvalTask, file: EvalRecording) -> None:
        """Sample, grade and record one prompt's completions; a lost engine's prompt is sampled on another one."""
        own, prompt = self._sets[task.set_index], self._work.prompt(task)
        try:
            rows = await self._sample_prompt(member, own, prompt, file)
        except (GeneratorLost, DeadlineExceeded) as error:
            if member.is_alive:
                self._pool.mark_lost(member.slot.index, error)
            self._work.give_back(task)
        else:
            self._rows[task.set_index][task.row] = rows
            self._work.finish()
            if self._work.is_report_due:
                self._report(self._progress())
        finally:
            member.count(-own.samples)
            self._pool.changed.set()

    async def _sample_prompt(
        self, member: _Member, own: EvalSet, prompt: Prompt, file: EvalRecording
    ) -> list[EvalSample]:
        pool, length, plan = self._pool, self._pool.options.recipe.length, self.plan
        rng = derive_rng(plan.seed, plan.step, own.dataset, SAMPLES, prompt.id)
        draw = Draw(own.temperature, draw_seeds(rng, own.samples))
        interrupted = length.control == "interruption"
        budgets = [
            draw_budget(rng, length.interrupt_min, length.interrupt_max) if interrupted else None
            for _ in range(own.samples)
        ]
        try:
            member.slot.check_engine(member.restarts)
            samples = await pool.sample(member.slot, prompt, budgets, f"evaluating step {plan.step}", draw)
        except PromptRefused as error:
            pool.count_refusal(prompt, error)
            return [REFUSED] * own.samples
        graded = await asyncio.gather(
            *(pool.grader.finish(prompt, sample, budget) for sample, budget in zip(samples, budgets, strict=True))
        )
        completions = [each.completion for each in graded]
        await file.add(prompt, completions)
        votes = await pool.voting.vote(prompt, completions) if pool.voting is not None and own.samples > 1 else None
        return [
            measure_completion(each, None if votes is None else votes[place]) for place, each in enumerate(completions)
        ]

    def _progress(self) -> EvalProgress:
        rewards = np.array([[each.reward for each in row] for row in self._rows[0].values()])
        found = EvalProgress(self.plan.step, self._work.num_done, self._work.num_prompts)
        if not rewards.size or np.isnan(rewards).all():
            return found
        rate = score(rewards)
        return replace(found, pass_rate=rate.pass_rate, standard_error=rate.standard_error)
