"""A run's records: parsing lines, merging the records of attempts, the surviving evaluations. PURE."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from pydantic import ValidationError

from scalerl_api.base import ApiModel
from scalerl_api.wire import HELD_OUT, EvalPoint, StepRecord

Record = TypeVar("Record", bound=ApiModel)

EvalKey = tuple[int, int]
"""(step, attempt)."""


def parse_lines(kind: type[Record], lines: Iterable[str]) -> tuple[list[Record], int]:
    """Return the records of JSON `lines` and how many lines could not be read.

    A crash can cut a line; the records after it are valid.
    """
    records, bad = [], 0
    for line in lines:
        if not line.strip():
            continue
        try:
            records.append(kind.model_validate_json(line))
        except ValidationError:
            bad += 1
    return records, bad


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


def merge_steps(records: Iterable[StepRecord]) -> tuple[StepRecord, ...]:
    """Return every step once, in order; the latest attempt wins, because later weights follow from its."""
    kept: dict[int, StepRecord] = {}
    for record in records:
        if record.step not in kept or record.attempt >= kept[record.step].attempt:
            kept[record.step] = record
    return tuple(kept[step] for step in sorted(kept))


def held_out(evals: Iterable[EvalPoint]) -> tuple[EvalPoint, ...]:
    """Return the points that are fitted."""
    return tuple(point for point in evals if point.dataset == HELD_OUT)


def eval_key(point: EvalPoint) -> EvalKey:
    """Return the identity of a held-out point: two attempts measure a step that was lost."""
    return point.step, point.attempt


def surviving(evals: Iterable[EvalPoint]) -> list[EvalPoint]:
    """Return the held-out points of the surviving weights: those whose compute only grows.

    After a restart the new weights have cost more at every step than the lost ones. A lost point of a later step is
    left out until the new weights are measured at that step too.
    """
    kept: list[EvalPoint] = []
    for point in held_out(evals):
        if not kept or (point.compute_gpu_hours > kept[-1].compute_gpu_hours and point.attempt >= kept[-1].attempt):
            kept.append(point)
    return kept


def next_index(evals: Sequence[EvalPoint]) -> int:
    """Return N for `/v1/progress?since=N`."""
    return max((point.index for point in evals), default=-1) + 1
