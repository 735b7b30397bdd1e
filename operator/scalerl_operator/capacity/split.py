"""The best split of a number of GPUs between trainer and generators. PURE."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from scalerl_api import RLRun
from scalerl_operator.capacity.fit import is_valid
from scalerl_operator.capacity.run_time import count_generator_gpus


@dataclass(frozen=True)
class GpuSplit:
    """GPUs of each side, and the step that they give."""

    trainer_gpus: int
    generator_gpus: int
    seconds: float
    run: RLRun


def list_splits(run: RLRun) -> Iterator[RLRun]:
    """Yield the run with every valid division of its GPUs into whole replicas of both sides, with as many as there are.

    The sizes of a replica stay: an engine's are its tensor parallelism, a trainer's are those of a node.
    """
    spec = run.spec
    each, own = max(1, spec.generator.gpus_per_replica), max(1, spec.trainer.gpus_per_replica)
    total = spec.trainer.ranks + spec.generator.max_replicas * each
    for replicas in range(1, total // own + 1):
        engines = (total - replicas * own) // each
        if engines >= 1:
            trainer = spec.trainer.model_copy(update={"replicas": replicas})
            generator = spec.generator.model_copy(update={"min_replicas": engines, "max_replicas": engines})
            changed = spec.model_copy(update={"trainer": trainer, "generator": generator})
            divided = run.model_copy(update={"spec": changed})
            if is_valid(divided):  # a batch has the same number of prompts for every rank
                yield divided


def best_split(run: RLRun, seconds_of: Callable[[RLRun], float | None]) -> GpuSplit | None:
    """Return the split with the shortest step; of equal ones that with the fewest trainer GPUs.

    `seconds_of`: the step of a run, None where a side does not fit. None: colocated, or no split fits.
    """
    if run.spec.generator.colocated:
        return None
    found = [(seconds, each) for each in list_splits(run) if (seconds := seconds_of(each)) is not None]
    if not found:
        return None
    seconds, best = min(found, key=lambda pair: pair[0])
    return GpuSplit(best.spec.trainer.ranks, count_generator_gpus(best), seconds, best)
