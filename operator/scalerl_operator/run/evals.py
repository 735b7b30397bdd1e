"""A run's records: parsing lines, merging the records of attempts. PURE."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from pydantic import ValidationError

from scalerl_api.base import ApiModel
from scalerl_api.wire import EvalPoint, StepRecord

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


def merge_steps(records: Iterable[StepRecord]) -> tuple[StepRecord, ...]:
    """Return every step once, in order; the latest attempt wins, because later weights follow from its."""
    kept: dict[int, StepRecord] = {}
    for record in records:
        if record.step not in kept or record.attempt >= kept[record.step].attempt:
            kept[record.step] = record
    return tuple(kept[step] for step in sorted(kept))


def eval_key(point: EvalPoint) -> EvalKey:
    """Return the identity of a held-out point: two attempts measure a step that was lost."""
    return point.step, point.attempt


def next_index(evals: Sequence[EvalPoint]) -> int:
    """Return N for `/v1/progress?since=N`."""
    return max((point.index for point in evals), default=-1) + 1
