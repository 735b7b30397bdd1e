"""Builds PromQL for a run, and parses the server's JSON into evaluations and a Progress. PURE.

Every newest evaluation has series of its own, whose labels are the whole numbers of an EvalPoint and whose values the
others; nothing is derived from rates or from when a sample was taken, so that missed scrapes, resets and clocks that
differ cannot change a point.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, get_args

from pydantic import ValidationError

from scalerl_api.wire import (
    EVAL_LABELS,
    EVAL_SERIES,
    SERIES_EARLIER,
    SERIES_PHASE,
    SERIES_PREFIX,
    SERIES_SPENT,
    EvalPoint,
    Phase,
    Progress,
)

# Labels that the chart's PodMonitor gives to what it scrapes.
TARGET_UID = "run_uid"
TARGET_ATTEMPT = "attempt"

SKEW = timedelta(hours=1)  # a server's clock may differ so far from ours; the uid alone says whose the points are
WINDOW = timedelta(days=1)  # of one evaluation of a range: a longer span is asked for in such parts
_STATE = (
    "step",
    "version",
    "compute_gpu_hours",
    "idle_fraction_trainer",
    "idle_fraction_generator",
    "generators_ready",
    "generator_restarts_total",
    SERIES_PHASE,
    SERIES_EARLIER,
    SERIES_SPENT,
)
ROLES = ("trainer", "generator")


class SeriesError(ValueError):
    """The response is an error, or not one of a Prometheus server."""


@dataclass(frozen=True)
class Series:
    """One series' labels and newest value."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Question:
    """The run and the time span of a query."""

    run: str
    uid: str
    attempt: int
    """Of the coordinator that does not answer."""
    since: datetime
    now: datetime


@dataclass(frozen=True)
class Reading:
    """The data of a run on the server."""

    evals: tuple[EvalPoint, ...] = ()
    """Of all attempts, without doubles, in order of their index."""
    progress: Progress | None = None
    """As it was scraped last; None if the coordinator is not being scraped. It has no evals and no checkpoint."""
    age_seconds: float = math.inf
    """Age of that scrape, by the server's clock."""


@dataclass(frozen=True)
class Span:
    """The times at which a range query is evaluated, in Unix seconds."""

    start: float
    end: float
    step: float


def evals_span(question: Question) -> Span:
    """Return when to evaluate `evals_query` so that no moment from `since` on is left out, clocks considered."""
    begin, end = (question.since - SKEW).timestamp(), (question.now + SKEW).timestamp()
    window = min(WINDOW.total_seconds(), end - begin)
    return Span(end - (math.ceil((end - begin) / window) - 1) * window, end, window)


def evals_query(question: Question) -> str:
    """Return the PromQL for every series of every evaluation, whether it is still exported or not."""
    names = f"{SERIES_PREFIX}eval_({'|'.join(EVAL_SERIES)})"
    seconds = math.ceil(evals_span(question).step)
    return f'last_over_time({{__name__=~"{names}",{_whose(question)}}}[{seconds}s])'


def state_query(question: Question) -> str:
    """Return the PromQL for how far the attempt is. Two servers that scrape the same coordinator count once."""
    names = f"{SERIES_PREFIX}({'|'.join(_STATE)})"
    return f'max by (__name__, role, phase) ({{__name__=~"{names}",{_whose(question)},{_attempt(question)}}})'


def age_query(question: Question) -> str:
    """Return the PromQL for the age of that, to be evaluated at the server's own time."""
    return f"min(time() - timestamp({SERIES_PREFIX}{SERIES_PHASE}{{{_whose(question)},{_attempt(question)}}}))"


def _whose(question: Question) -> str:
    return f"{TARGET_UID}={json.dumps(question.uid)}"


def _attempt(question: Question) -> str:
    return f'{TARGET_ATTEMPT}="{question.attempt}"'


def parse_answer(body: bytes) -> list[Series]:
    """Return the series of a vector or a matrix. Raises SeriesError."""
    try:
        document = json.loads(body)
        if document["status"] != "success":
            raise SeriesError(f"{document.get('errorType', '')}: {document.get('error', '')}"[:500])
        return [_parse_series(each) for each in document["data"]["result"]]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        if isinstance(error, SeriesError):
            raise
        raise SeriesError(f"not a Prometheus answer: {body[:80]!r}") from error


def _parse_series(each: Mapping[str, Any]) -> Series:
    newest = each["values"][-1] if "values" in each else each["value"]
    return Series({str(name): str(text) for name, text in each["metric"].items()}, float(newest[1]))


def read_evals(found: Iterable[Series]) -> tuple[EvalPoint, ...]:
    """Return the points of `evals_query`'s series; one of which a number is missing or is none is left out."""
    points: dict[tuple[str, ...], dict[str, float]] = {}
    for each in found:
        key = tuple(each.labels.get(label, "") for label in EVAL_LABELS)
        field = each.labels.get("__name__", "").removeprefix(f"{SERIES_PREFIX}eval_")
        points.setdefault(key, {})[field] = each.value
    built = [_build_point(key, numbers) for key, numbers in points.items()]
    return tuple(sorted((each for each in built if each is not None), key=lambda point: point.index))


def _build_point(key: Sequence[str], numbers: Mapping[str, float]) -> EvalPoint | None:
    named = zip(EVAL_LABELS.values(), key, strict=True)
    try:
        # A label that an older coordinator does not have is empty; its field has a default, or the point is refused.
        whole = {field: text if field == "dataset" else int(text) for field, text in named if text}
        return EvalPoint.model_validate({**whole, **numbers})
    except (ValidationError, ValueError):
        return None


def read_progress(question: Question, found: Sequence[Series], age_seconds: float) -> Progress | None:
    """Return the progress in `state_query`'s series; None where no phase is among them."""
    phases = {each.labels.get("phase", "") for each in _named(found, SERIES_PHASE)}
    phase = next((each for each in reversed(get_args(Phase)) if each in phases), None)
    if phase is None:
        return None
    numbers = {each.labels.get("__name__", ""): each.value for each in found if "role" not in each.labels}

    def whole(name: str) -> int:
        return int(numbers.get(SERIES_PREFIX + name, 0.0))

    return Progress(
        run=question.run,
        attempt=question.attempt,
        phase=phase,
        detail="by Prometheus: the coordinator does not answer the operator",
        step=whole("step"),
        version=whole("version"),
        compute_gpu_hours=numbers.get(f"{SERIES_PREFIX}compute_gpu_hours", 0.0),
        gpu_seconds=_gpu_seconds(found),
        idle_fraction={role: numbers.get(f"{SERIES_PREFIX}idle_fraction_{role}", 0.0) for role in ROLES},
        generators_ready=whole("generators_ready"),
        generator_restarts=whole("generator_restarts_total"),
        time=question.now.timestamp() - age_seconds,
    )


def _gpu_seconds(found: Sequence[Series]) -> dict[str, float]:
    """By role: what the attempts before have used, and the newest value of this one's counters. No rate is taken."""
    spent = dict.fromkeys(ROLES, 0.0)
    for each in (*_named(found, SERIES_EARLIER), *_named(found, SERIES_SPENT)):
        role = each.labels.get("role", "")
        spent[role] = spent.get(role, 0.0) + each.value
    return spent


def _named(found: Iterable[Series], name: str) -> list[Series]:
    return [each for each in found if each.labels.get("__name__") == SERIES_PREFIX + name]
