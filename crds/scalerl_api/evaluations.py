"""A run's evaluations: merged over attempts, those of the surviving weights, the best of them. PURE."""

from collections.abc import Iterable

from scalerl_api.wire import HELD_OUT, EvalPoint, is_source_dataset


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
    """Return the surviving point with the highest pass rate, of equal ones the earliest: less training, same rate."""
    return max(surviving(merge_evals(evals)), key=lambda point: (point.pass_rate, -point.step), default=None)
