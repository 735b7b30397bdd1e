"""A run's records as values: reading lines, dropping doubles, rates, the half-way forecast. PURE."""

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

    A line that was cut by a crash is such a line; the records after it are good.
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
    """Return every step once, in order; the latest attempt wins, for it is the one whose weights went on."""
    kept: dict[int, StepRecord] = {}
    for record in records:
        if record.step not in kept or record.attempt >= kept[record.step].attempt:
            kept[record.step] = record
    return tuple(kept[step] for step in sorted(kept))


def held_out(evals: Iterable[EvalPoint]) -> tuple[EvalPoint, ...]:
    """Return the points that are fitted."""
    return tuple(point for point in evals if point.dataset == HELD_OUT)


def eval_key(point: EvalPoint) -> EvalKey:
    """Return what tells a held-out point from the run's others: a step that was lost is measured by two attempts."""
    return point.step, point.attempt


def surviving(evals: Iterable[EvalPoint]) -> list[EvalPoint]:
    """Return the held-out points of the weights that went on: those whose compute only grows.

    After a restart the new line of weights has cost more at every step than the lost one, so a lost point of a later
    step is left out until the new line has measured that step too.
    """
    kept: list[EvalPoint] = []
    for point in held_out(evals):
        if not kept or (point.compute_gpu_hours > kept[-1].compute_gpu_hours and point.attempt >= kept[-1].attempt):
            kept.append(point)
    return kept


def next_index(evals: Sequence[EvalPoint]) -> int:
    """Return N for `/v1/progress?since=N`."""
    return max((point.index for point in evals), default=-1) + 1
