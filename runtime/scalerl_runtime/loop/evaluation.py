"""Evaluates one version on prompts that are never trained on. I/O in `evaluate`; the arithmetic is pure."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scalerl_api.validation import Fault, InvalidRun
from scalerl_api.wire import EvalPoint, source_dataset
from scalerl_runtime.algorithm.interruption import draw_budget
from scalerl_runtime.algorithm.majority import maj_at_k
from scalerl_runtime.algorithm.pass_at_k import pass_at_k
from scalerl_runtime.deadlines import all_or_none
from scalerl_runtime.loop.eval_sets import EvalSet
from scalerl_runtime.loop.pool import Pool
from scalerl_runtime.loop.rollout_recorder import EvalRecording, RolloutRecorder
from scalerl_runtime.loop.slots import Slot
from scalerl_runtime.loop.span_values import set_values
from scalerl_runtime.types import Completion, Prompt, PromptRefused

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
    first_index: int = 0  # of its points
    samples: int = 1  # completions per prompt; `evaluate` sets it, and the temperature, from each set
    temperature: float | None = None  # None: the recipe's; 0: the likeliest token
    restarts: int = 0  # of the leased slot before the first sample: a later engine has other weights


@dataclass(frozen=True)
class EvalSample:
    """The numbers kept of a completion; an evaluation has too many to keep their tokens."""

    reward: float  # NaN where the verifier failed
    tokens: int
    surprise: float  # sum of the negative log-probabilities (nats) of the tokens that the model chose
    chosen: int  # number of these tokens; forced ones are not among them
    cut: bool  # at the length limit
    vote: int | None = None  # number of its answer in a majority vote; None: its verifier has none


def measure_completion(completion: Completion, vote: int | None = None) -> EvalSample:
    """Return the numbers of one completion."""
    return EvalSample(
        reward=np.nan if completion.reward is None else completion.reward,
        tokens=len(completion.tokens),
        surprise=-float(completion.logps[~completion.forced].sum(dtype=np.float64)),
        chosen=int(np.count_nonzero(~completion.forced)),
        cut=completion.finish == "length",
        vote=vote,
    )


def mean_surprise(samples: Sequence[EvalSample]) -> float:
    """Return the mean over all tokens that the model chose (nats), an estimate of its entropy; 0 without tokens."""
    return sum(each.surprise for each in samples) / max(1, sum(each.chosen for each in samples))


REFUSED = EvalSample(reward=np.nan, tokens=0, surprise=0.0, chosen=0, cut=False)  # the engine refuses the prompt


async def evaluate(
    pool: Pool,
    slot: Slot,
    plan: EvalPlan,
    sets: Sequence[EvalSet],
    rollouts: RolloutRecorder,
) -> list[EvalPoint]:
    """Sample every prompt on the leased `slot`; return one point per set, in order, each before those of its parts.

    Refused prompts are left out; InvalidRun: too many. GeneratorLost, DeadlineExceeded: nothing is measured, repeat it.
    """
    points: list[EvalPoint] = []
    plan = replace(plan, restarts=slot.restarts)
    for each in sets:
        name, prompts = each.dataset, each.prompts
        own = replace(plan, samples=each.samples, temperature=each.temperature)
        with pool.tracer.span("scalerl.evaluation.set", {"scalerl.evaluation.dataset": name}) as span:
            async with rollouts.evaluation(plan.step, name, len(sets)) as recording:
                results = await _sample_set(pool, slot, own, prompts, recording)
            _check_refused(name, results, pool.options.max_bad_share)
            found = measure_set(name, results, own)
            span.set(set_values, found.pass_rate, found.prompts)
        points += [found, *(point for part in each.parts for point in _measure_part(part, prompts, results, own))]
    return [point.model_copy(update={"index": plan.first_index + i}) for i, point in enumerate(points)]


def measure_set(dataset: str, results: Sequence[Sequence[EvalSample]], plan: EvalPlan) -> EvalPoint:
    """Return the point of one set from its prompts' completions. Raises ValueError if none could be graded."""
    rewards = np.array([[each.reward for each in row] for row in results])
    found = score(rewards)
    sampled = [each for row in results for each in row if each is not REFUSED]
    return EvalPoint(
        index=plan.first_index,
        dataset=dataset,
        step=plan.step,
        version=plan.step,
        compute_gpu_hours=plan.compute_gpu_hours,
        pass_rate=found.pass_rate,
        prompts=found.prompts,
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


def _count_votes(results: Sequence[Sequence[EvalSample]], samples: int) -> dict[str, float] | None:
    """Return maj@k of a set; None if the verifier of any prompt has no vote."""
    graded = [[each.vote for each in row if not np.isnan(each.reward)] for row in results]
    votes = [[vote for vote in row if vote is not None] for row in graded]
    return maj_at_k(votes, samples) if votes == graded and any(votes) else None


def _measure_part(
    source: str, prompts: Sequence[Prompt], results: Sequence[Sequence[EvalSample]], plan: EvalPlan
) -> list[EvalPoint]:
    """Return the point of one source's prompts in a pooled set; none if none of its completions could be graded."""
    own = [row for prompt, row in zip(prompts, results, strict=True) if prompt.source == source]
    if all(np.isnan(each.reward) for row in own for each in row):
        log.warning("step %d: no completion of source %s could be graded: it has no point", plan.step, source)
        return []
    return [measure_set(source_dataset(source), own, plan)]


def _check_refused(name: str, results: Sequence[Sequence[EvalSample]], max_bad_share: float) -> None:
    """Raise InvalidRun if the engine refuses more than `maxBadShare` of a set's prompts, or all of them."""
    refused = sum(row[0] is REFUSED for row in results)
    if refused > max_bad_share * len(results) or refused == len(results):
        found = f"{refused} of {len(results)} prompts of {name} are refused by the engine"
        raise InvalidRun([Fault("spec.data.maxBadShare", found, f"a share of at most {max_bad_share:g}")])


async def _sample_set(
    pool: Pool, slot: Slot, plan: EvalPlan, prompts: Sequence[Prompt], recording: EvalRecording
) -> list[list[EvalSample]]:
    # Half of the engine's sequences: the other half keeps generating for the trainer.
    turns = asyncio.Semaphore(max(1, pool.options.max_sequences // (2 * plan.samples)))
    return await all_or_none([_sample(pool, slot, plan, prompt, turns, recording) for prompt in prompts])


async def _sample(
    pool: Pool, slot: Slot, plan: EvalPlan, prompt: Prompt, turns: asyncio.Semaphore, recording: EvalRecording
) -> list[EvalSample]:
    """Sample, grade and record one prompt's completions."""
    length = pool.options.recipe.length
    rng = np.random.default_rng([plan.seed, 2, plan.step, prompt.id])
    interrupted = length.control == "interruption"
    budgets = [
        draw_budget(rng, length.interrupt_min, length.interrupt_max) if interrupted else None
        for _ in range(plan.samples)
    ]
    async with turns:
        try:
            slot.check_engine(plan.restarts)
            what = f"evaluating step {plan.step}"
            samples = await pool.sample(slot, prompt, budgets, what, temperature=plan.temperature)
        except PromptRefused as error:
            pool.count_refusal(prompt, error)
            return [REFUSED] * plan.samples
    graded = await asyncio.gather(
        *(pool.grader.finish(prompt, sample, budget) for sample, budget in zip(samples, budgets, strict=True))
    )
    completions = [each.completion for each in graded]
    await recording.add(prompt, completions)
    votes = await pool.voting.vote(prompt, completions) if pool.voting is not None and plan.samples > 1 else None
    return [measure_completion(each, None if votes is None else votes[place]) for place, each in enumerate(completions)]
