"""The bounded curve of a run that the cluster stores for its report: evaluations, and the metrics of steps. PURE.

The coordinator has the full curve, but ends with the run. See docs/notes/053-kubectl-for-people.md.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from scalerl_api.base import ApiModel
from scalerl_api.evaluations import merge_evals
from scalerl_api.wire import HELD_OUT, EvalPoint, StepRecord
from scalerl_operator.run.evals import merge_steps
from scalerl_operator.run.step_panels import DRAWN

Item = TypeVar("Item")
Record = TypeVar("Record", bound=ApiModel)

# About 150 kB at most, of the 1 MB that a ConfigMap may hold. The paper's 7,400 steps have 74 evaluations of each set.
MAX_HELD_OUT = 200
MAX_DOWNSTREAM = 200  # of all downstream sets together
MAX_STEPS = 100
DIGITS = 5  # of a step's metric; a picture shows three

EVALS_KEY = "evals.jsonl"  # in the ConfigMap: an EvalPoint a line, as in a run's folder
STEPS_KEY = "steps.jsonl"  # a StepRecord a line, with the metrics that are drawn


@dataclass(frozen=True)
class StoredCurve:
    """A run's curve as stored."""

    evals: tuple[EvalPoint, ...] = ()
    """Measurements as they were made: some may be left out, none are averaged."""
    steps: tuple[StepRecord, ...] = ()

    @property
    def is_full(self) -> bool:
        """Whether evaluations may have been left out."""
        counts = Counter(point.dataset for point in self.evals)
        return any(count >= _limit(name, counts) for name, count in counts.items())


def extend_curve(curve: StoredCurve, evals: Iterable[EvalPoint], latest: StepRecord | None) -> StoredCurve:
    """Return `curve` with what is known now, thinned to what may be kept."""
    points = merge_evals(curve.evals, evals)
    records = merge_steps([*curve.steps, *([_slim(latest)] if latest is not None else [])])
    return StoredCurve(_thin_evals(points), thin(records, MAX_STEPS, lambda each: each.step))


def _slim(record: StepRecord) -> StepRecord:
    """The record with what is drawn, in few digits."""
    values = {name: float(f"{value:.{DIGITS}g}") for name, value in record.values.items() if name in DRAWN}
    return record.model_copy(update={"values": values})


def _thin_evals(points: Sequence[EvalPoint]) -> tuple[EvalPoint, ...]:
    names = dict.fromkeys(point.dataset for point in points)
    kept: list[EvalPoint] = []
    for name in names:
        own = [point for point in points if point.dataset == name]
        kept += thin(own, _limit(name, names), lambda each: each.step)
    return merge_evals(kept)


def _limit(name: str, names: Collection[str]) -> int:
    """How many evaluations of set `name` are kept; `names` are all sets."""
    return MAX_HELD_OUT if name == HELD_OUT else max(2, MAX_DOWNSTREAM // (len(names) - (HELD_OUT in names)))


def thin(items: Sequence[Item], limit: int, place: Callable[[Item], float]) -> tuple[Item, ...]:
    """Return at most `limit` (at least 2) of `items`, the first and the last among them, without large gaps.

    Items are in order of `place`. Each time the one whose neighbours are closest to each other goes, so that adding one
    and thinning again, a thousand times, leaves them as even as thinning once does.
    """
    kept = list(items[:: max(1, len(items) // (2 * limit))])  # what follows is quadratic
    if items and kept[-1] is not items[-1]:
        kept.append(items[-1])
    while len(kept) > limit:
        gaps = [place(kept[index + 1]) - place(kept[index - 1]) for index in range(1, len(kept) - 1)]
        del kept[1 + gaps.index(min(gaps))]
    return tuple(kept)


def format_curve(curve: StoredCurve) -> dict[str, str]:
    """Return the ConfigMap's `data`."""
    return {EVALS_KEY: _lines(curve.evals), STEPS_KEY: _lines(curve.steps)}


def _lines(records: Sequence[ApiModel]) -> str:
    """A record a line; a value that is its default is left out."""
    return "".join(each.model_dump_json(by_alias=True, exclude_defaults=True) + "\n" for each in records)


def parse_curve(data: Mapping[str, str]) -> StoredCurve:
    """Return the curve in a ConfigMap's `data`; a line that cannot be read is left out."""
    return StoredCurve(
        merge_evals(_parse_lines(EvalPoint, data.get(EVALS_KEY, ""))),
        merge_steps(_parse_lines(StepRecord, data.get(STEPS_KEY, ""))),
    )


def _parse_lines(kind: type[Record], text: str) -> Iterator[Record]:
    """A field that a newer operator has added is passed over."""
    for line in text.splitlines():
        with contextlib.suppress(ValidationError):
            yield kind.model_validate_json(line, extra="ignore")
