"""Engine against trainer on the same few tokens at lag 0: the prompts, the packed rows, and the verdict. PURE."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scalerl_api import Fault, InvalidRun, RLRun
from scalerl_api.wire import SelfCheck
from scalerl_runtime.algorithm.microbatch import MicroBatch, TrainSequence, build_micro_batch
from scalerl_runtime.algorithm.packing import plan_packs
from scalerl_runtime.types import EngineOutput, Floats, Prompt, SamplingRequest

CHECK_PROMPTS = 4
CHECK_TOKENS = 32  # of a prompt: with four prompts the mean over 128 tokens is steady, and costs a second
CHECK_SEED = 3  # marks the self-check's random numbers; training and evaluation have marks of their own


@dataclass(frozen=True)
class CheckResult:
    """Engine against trainer: |difference| of the log-probabilities of some tokens, in nats; NaN where one is none."""

    version: int
    generator: int
    tokens: int
    mean: float
    largest: float
    worst_prompt: int
    worst_mean: float  # over the worst prompt's tokens

    def to_report(self) -> SelfCheck | None:
        """Return the numbers for the operator; None if they are not finite, since JSON has no NaN."""
        return SelfCheck.model_validate(vars(self)) if math.isfinite(self.largest) else None


def choose_prompts(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return up to CHECK_PROMPTS prompts from the shortest to the longest.

    Of unequal length, since wrong windows and positions show at long prompts only.
    """
    by_length = sorted(prompts, key=lambda prompt: (len(prompt.tokens), prompt.id))
    places = np.linspace(0, len(by_length) - 1, min(CHECK_PROMPTS, len(by_length))).round().astype(int)
    return [by_length[place] for place in places]


def build_requests(run: RLRun, version: int, prompt: Prompt) -> list[SamplingRequest]:
    """Return the requests for CHECK_TOKENS tokens at the run's temperature, without a thinking budget.

    A completion goes on after a token that ends it: the mean over the few tokens of short answers would be unsteady.
    Where completions are limited to fewer tokens, several are sampled. Each has a seed, so that the engine's own
    random numbers stay those of a run without the check.
    """
    recipe = run.spec.resolved_recipe()
    max_tokens = min(CHECK_TOKENS, recipe.length.completion_tokens)
    rng = np.random.default_rng([run.spec.seed, CHECK_SEED, version, prompt.id])
    return [
        SamplingRequest(max_tokens, recipe.temperature, seed=int(seed), ignore_ends=True)
        for seed in rng.integers(2**31, size=math.ceil(CHECK_TOKENS / max_tokens))
    ]


def build_rows(
    prompts: Sequence[Prompt], outputs: Sequence[EngineOutput], *, budget: int
) -> tuple[list[MicroBatch], NDArray[np.int64]]:
    """Return packed rows of at most `budget` tokens, as training has them, and the prompt's id of every target."""
    sequences = [_build_sequence(prompt, output) for prompt, output in zip(prompts, outputs, strict=True)]
    (rows,) = plan_packs([len(each.tokens) for each in sequences], budget=budget, ranks=1, quadratic=0.0).packs
    owners = [np.full(int(sequences[i].trained.sum()), prompts[i].id, dtype=np.int64) for row in rows for i in row]
    return [build_micro_batch([sequences[i] for i in row]) for row in rows], np.concatenate(owners)


def _build_sequence(prompt: Prompt, output: EngineOutput) -> TrainSequence:
    before, size = len(prompt.tokens), len(prompt.tokens) + len(output.tokens)
    return TrainSequence(
        tokens=np.concatenate([prompt.tokens, output.tokens]),
        trained=np.arange(size) >= before,
        logp_gen=np.concatenate([np.zeros(before, np.float32), output.logps]),
        advantage=0.0,
        weight=0.0,
        lag=np.zeros(size, dtype=np.int32),
        experts=output.experts,
    )


def compare(
    rows: Sequence[MicroBatch], owners: NDArray[np.int64], by_rank: Sequence[Floats], *, version: int, generator: int
) -> CheckResult:
    """Return the difference between engine and trainer; where the trainer's ranks differ, the worst rank counts.

    Args:
        rows, owners: from `build_rows`, N targets in all, at least one.
        by_rank: the trainer's log-probabilities [N] (nats) of each rank.
    """
    engine = np.concatenate([row.logp_gen for row in rows]).astype(np.float64)
    trainer = np.stack([np.asarray(each, dtype=np.float64) for each in by_rank])
    with np.errstate(invalid="ignore"):  # infinity less infinity: NaN, as it should be
        size = np.abs(trainer - engine).max(axis=0)
    means = {int(prompt): float(size[owners == prompt].mean()) for prompt in np.unique(owners)}
    worst = max(means, key=lambda prompt: math.inf if math.isnan(means[prompt]) else means[prompt])
    return CheckResult(
        version=version,
        generator=generator,
        tokens=len(size),
        mean=float(size.mean()),
        largest=float(size.max()),
        worst_prompt=worst,
        worst_mean=means[worst],
    )


def describe_check(found: CheckResult) -> str:
    """Return the numbers in one line."""
    return (
        f"self-check of version {found.version} on generator {found.generator}: the log-probabilities of "
        f"{found.tokens} tokens differ from the trainer's by {found.mean:.2g} nats on average, at most by "
        f"{found.largest:.2g}; worst prompt {found.worst_prompt}, {found.worst_mean:.2g} on average"
    )


def find_mismatch(run: RLRun, found: CheckResult) -> InvalidRun | None:
    """Return the error of a run whose engine and trainer do not compute the same model; None if they do."""
    bound = run.self_check_bound
    if math.isfinite(found.largest) and found.mean <= bound:
        return None
    spec, head = run.spec.model, run.spec.resolved_recipe().head
    allowed = (
        f"a model that engine and trainer compute alike is needed, but {describe_check(found)}; allowed are "
        f"{bound:g} nats on average with model.dtype {spec.dtype} and recipe.head {head}"
    )
    return InvalidRun([Fault("spec.model.source", repr(spec.source), allowed)])
