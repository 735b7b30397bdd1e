"""A run's evaluations: merged over attempts, those of the surviving weights, the best of them; their load. PURE."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scalerl_api.rlrun import RLRunSpec
from scalerl_api.status import SourceStatus
from scalerl_api.wire import HELD_OUT, EvalPoint, is_source_dataset

MIN_PROMPTS = 30  # of a late evaluation's set: with fewer the rate's own error is too uncertain to weigh the point by


def merge_evals(*histories: Iterable[EvalPoint]) -> tuple[EvalPoint, ...]:
    """Return every point once, by (dataset, step); the latest attempt wins, then the later in order.

    Sorted by step, then compute, then dataset name.
    """
    kept: dict[tuple[str, int], EvalPoint] = {}
    for history in histories:
        for point in history:
            key = (point.dataset, point.step)
            if key not in kept or point.attempt >= kept[key].attempt:
                kept[key] = point
    return tuple(sorted(kept.values(), key=lambda point: (point.step, point.compute_gpu_hours, point.dataset)))


def held_out(evals: Iterable[EvalPoint]) -> tuple[EvalPoint, ...]:
    """Return the points that are fitted."""
    return tuple(point for point in evals if point.dataset == HELD_OUT)


def list_datasets(evals: Iterable[EvalPoint]) -> list[str]:
    """Return the measured test sets: the held-out prompts, those of each source, the downstream sets."""
    names = {point.dataset for point in evals}
    return sorted(names, key=lambda name: (name != HELD_OUT, not is_source_dataset(name), name))


def list_source_sets(evals: Iterable[EvalPoint]) -> list[str]:
    """Return the measured test sets of single training sources."""
    return [name for name in list_datasets(evals) if is_source_dataset(name)]


def list_downstream_sets(evals: Iterable[EvalPoint]) -> list[str]:
    """Return the measured downstream sets."""
    return [name for name in list_datasets(evals) if name != HELD_OUT and not is_source_dataset(name)]


def surviving(evals: Iterable[EvalPoint], dataset: str = HELD_OUT) -> list[EvalPoint]:
    """Return a test set's points of the surviving weights: those whose compute only grows.

    After a restart the new weights have cost more at every step than the lost ones. A lost point of a later step is
    left out until the new weights are measured at that step too.
    """
    kept: list[EvalPoint] = []
    for point in evals:
        if point.dataset != dataset:
            continue
        if not kept or (point.compute_gpu_hours > kept[-1].compute_gpu_hours and point.attempt >= kept[-1].attempt):
            kept.append(point)
    return kept


def find_best(evals: Iterable[EvalPoint]) -> EvalPoint | None:
    """Return the surviving point with the highest pass rate, of equal ones the earliest: less training, same rate.

    A part of the prompts is compared only if no evaluation is whole: its rate is of other prompts, and less certain.
    """
    found = surviving(merge_evals(evals))
    whole = [point for point in found if not point.unsampled]
    return max(whole or found, key=lambda point: (point.pass_rate, -point.step), default=None)


def count_leases(num_engines: int, share: float) -> int:
    """Return how many of `num_engines` keep the weights of an evaluation: the share, rounded up, but not the last."""
    return min(math.ceil(share * num_engines - 1e-9), max(1, num_engines - 1)) if num_engines else 0


@dataclass(frozen=True)
class EvalLoad:
    """Completions of an evaluation and of the steps up to the next one."""

    eval_prompts: int
    """Prompts of an evaluation of all test sets; a rarer set counts in proportion."""
    eval_samples: int
    """Their completions."""
    train_samples: int
    """Completions that are trained until the next one is due."""
    engine_share: float
    """Share of the engines that evaluations get."""

    @property
    def needed_share(self) -> float:
        """Share of the engines' work that evaluations are, if completions are as long as the trained ones."""
        return self.eval_samples / (self.eval_samples + self.train_samples)

    @property
    def is_on_time(self) -> bool:
        """Whether an evaluation is complete before the next one is due, where the engines are the slower side."""
        return self.needed_share <= self.engine_share

    @property
    def warning(self) -> str:
        """Words on an evaluation that is late; empty if it is on time."""
        if self.is_on_time:
            return ""
        part = self.engine_share * self.train_samples / ((1.0 - self.engine_share) * self.eval_samples)
        return (
            f"an evaluation has {self.eval_samples:,} completions, the steps to the next one {self.train_samples:,}: "
            f"evaluations are {self.needed_share:.0%} of the engines' work, and get {self.engine_share:.0%}. Where "
            f"engines are slower than the trainer, each measures {part:.0%} of the prompts, with a larger error; raise "
            "budget.evalShare or budget.evalEverySteps, or lower data.heldOut"
        )


def count_eval_prompts(sources: Sequence[SourceStatus]) -> dict[str, int]:
    """Return the number of prompts of each test set of the data that was read; empty if none was."""
    train = [each for each in sources if each.path.startswith("spec.data.train")]
    own = {each.name: each.held_out for each in sources if each.path.startswith("spec.data.downstream")}
    return {HELD_OUT: sum(each.held_out for each in train), **own} if train else {}


def measure_eval_load(spec: RLRunSpec, prompts: Mapping[str, int]) -> EvalLoad:
    """Return the load of a spec's evaluations.

    `prompts`: number of prompts of a test set by its name, where its data was read; else the spec's own numbers count,
    and a downstream set without one is left out.
    """
    recipe, data = spec.resolved_recipe(), spec.data
    samples = data.held_out.samples_per_prompt
    num_prompts = prompts.get(HELD_OUT, data.held_out.prompts)
    total = num_prompts * samples
    for each in data.downstream:
        interval = each.every_steps or spec.budget.eval_every_steps
        own = prompts.get(each.name, each.size or 0)
        num_prompts += own * spec.budget.eval_every_steps // interval
        total += own * each.count_samples(samples) * spec.budget.eval_every_steps // interval
    engines = spec.generator.min_replicas
    share = spec.budget.eval_share if engines == 1 else count_leases(engines, spec.budget.eval_share) / engines
    step = recipe.prompts_per_step * recipe.completions_per_prompt
    return EvalLoad(num_prompts, total, step * min(spec.budget.eval_every_steps, spec.budget.steps), share)
