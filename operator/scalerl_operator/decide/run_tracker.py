"""The state of one run as its coordinator's answers and its forecasts build it up. PURE.

`local` and `telemetry` poll and fit, each in its own threads. Both hand what arrives to a RunTracker.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from scalerl_api import RLRun
from scalerl_api.evaluations import list_source_sets, merge_evals, surviving
from scalerl_api.wire import EvalPoint, Progress
from scalerl_operator.decide.assessment import summarize
from scalerl_operator.run.evals import eval_key, next_index
from scalerl_operator.run.forecast_log import ForecastLine, match_forecasts
from scalerl_operator.run.observed import Assessment
from scalerl_operator.run.progress import eta_seconds

PACE_SAMPLES = 1000

Prefix = tuple[EvalPoint, ...]
"""The evaluations from the first up to the one that a forecast follows: its input."""


@dataclass(frozen=True)
class Update:
    """The effect of one answer."""

    changed: bool
    """Whether anything but the coordinator's clock differs from its last answer."""
    new_evals: tuple[EvalPoint, ...]


@dataclass
class RunTracker:
    """One run's progress, evaluations, forecasts and assessment.

    Everything in it can be rebuilt from the coordinator, or from the run's folder.
    """

    every_prefix: bool = False
    """True: each evaluation gets a forecast, and all are kept. False: those alone that a stop policy can look at."""
    evals: tuple[EvalPoint, ...] = ()
    forecasts: tuple[ForecastLine, ...] = ()
    """Without their draws: 4 KB each, where 1,000 runs of 75 evaluations would take 7 GB with them."""
    source_forecasts: Mapping[str, ForecastLine] = field(default_factory=dict)
    """The newest forecast of each training source, without its draws, by the `dataset` of its evaluations."""
    assessment: Assessment | None = None
    """None until one was made here."""
    attempt: int = 0
    """The attempt whose coordinator is polled."""
    progress: Progress | None = None
    """Newest known; of an earlier attempt until the coordinator answers."""
    answered: datetime | None = None
    """Time of the coordinator's last answer; None before its first."""
    polled: bool = False
    """Whether the coordinator was polled at least once, with or without an answer."""
    missed: int = 0
    """Polls without an answer since its last answer."""
    since: int = 0
    """Number of the first point that the coordinator has not sent; each coordinator numbers its points itself."""
    _pace: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=PACE_SAMPLES))
    _generation: int = 0
    """Of the spec that `assessment` was made by."""
    _assessed: tuple[EvalPoint, ...] = ()
    """The evaluations that `assessment` was made of."""

    def begin_attempt(self, number: int) -> None:
        """Expect answers of another coordinator."""
        self.attempt, self.answered, self.polled, self.missed, self.since = number, None, False, 0, 0
        self._pace.clear()

    def end_attempt(self, progress: Progress | None) -> None:
        """Store the attempt's final progress."""
        self.progress, self.missed = progress, 0

    def count_miss(self) -> bool:
        """Count a poll without an answer; return whether it was the first poll of this coordinator."""
        first, self.polled = not self.polled, True
        self.missed += 1
        return first

    def take_answer(self, progress: Progress, now: datetime) -> Update:
        """Merge the coordinator's answer."""
        if not self._pace or progress.step != self._pace[-1][1]:
            self._pace.append((progress.time, progress.step))
        known = self.progress
        changed = not self.polled or known is None or _without_clock(known) != _without_clock(progress)
        self.since = max(self.since, next_index(progress.evals))
        self.progress, self.answered, self.polled, self.missed = progress, now, True, 0
        return Update(changed, self.add_evals(progress.evals))

    def take_scrape(self, evals: Sequence[EvalPoint], progress: Progress | None, scraped: datetime) -> bool:
        """Merge what Prometheus has of the run; return whether anything is new.

        `since` stays: the coordinator may send more once it answers again.
        """
        before = (self.evals, self.progress)
        self.evals = merge_evals(evals, self.evals)
        if progress is not None and (self.answered is None or scraped > self.answered):
            self.answered, self.progress = scraped, _carry_over(self.progress, progress)
        return (self.evals, self.progress) != before

    def add_evals(self, points: Sequence[EvalPoint]) -> tuple[EvalPoint, ...]:
        """Merge measured points; return those that are new."""
        before = {(point.dataset, point.step, point.attempt) for point in self.evals}
        self.evals = merge_evals(self.evals, points)
        return tuple(point for point in points if (point.dataset, point.step, point.attempt) not in before)

    def eta_seconds(self, run: RLRun) -> float | None:
        """Return the predicted time to the end of the budget."""
        return eta_seconds(run, self._pace)

    def is_assessed(self, generation: int) -> bool:
        """Whether all is forecast, and every evaluation assessed by this spec; or no held-out prompts were measured."""
        measured = surviving(self.evals)
        if not measured:
            return True
        is_forecast = bool(match_forecasts(self.forecasts, measured[-1:])) and not self.missing_sources()
        return is_forecast and self._generation == generation and self._assessed == self.evals

    def missing_prefixes(self, run: RLRun) -> list[Prefix]:
        """Return the inputs of the forecasts that are still to be made, the shortest first.

        Where only a policy's window counts, an operator that has started anew makes those forecasts again; the ones
        before decide nothing any more.
        """
        measured = surviving(self.evals)
        known = match_forecasts(self.forecasts, measured)
        first = 0 if self.every_prefix else max(0, len(measured) - _window(run))
        return [
            tuple(measured[: index + 1])
            for index in range(first, len(measured))
            if eval_key(measured[index]) not in known
        ]

    def missing_sources(self) -> dict[str, Prefix]:
        """Return the inputs of the sources' forecasts that are to be made, by `dataset`: each up to its newest point.

        No policy looks at a source's earlier forecasts, so they are not made.
        """
        missing = {}
        for dataset in list_source_sets(self.evals):
            measured, known = surviving(self.evals, dataset), self.source_forecasts.get(dataset)
            if known is None or (known.step, known.attempt) != eval_key(measured[-1]):
                missing[dataset] = tuple(measured)
        return missing

    def add_source_forecasts(self, lines: Mapping[str, ForecastLine]) -> None:
        """Add forecasts of sources, which the next assessment takes up; the one before is out of date."""
        self._assessed = ()
        new = {dataset: line.without_draws() for dataset, line in lines.items()}
        self.source_forecasts = {**self.source_forecasts, **new}

    def add_forecasts(self, run: RLRun, lines: Sequence[ForecastLine], *, generation: int = 0) -> None:
        """Add forecasts, perhaps none, and assess the run anew, by the spec of that generation."""
        lines = [*self.forecasts, *(each.without_draws() for each in lines)]
        if not self.every_prefix:
            window = surviving(self.evals)[-_window(run) :]
            known = match_forecasts(lines, window)
            lines = [known[eval_key(point)] for point in window if eval_key(point) in known]
        self.forecasts, self._generation = tuple(lines), generation
        self.assessment, self._assessed = summarize(run, self.forecasts, self.evals, self.source_forecasts), self.evals

    def is_newest(self, line: ForecastLine) -> bool:
        """Whether `line` follows the newest evaluation."""
        return bool(match_forecasts([line], surviving(self.evals)[-1:]))


def _window(run: RLRun) -> int:
    """The number of last held-out evaluations that a stop policy looks at."""
    policies = [each for each in run.spec.stop_policies if each.when.downstream is None]
    return max((policy.for_evals for policy in policies), default=1)


def _carry_over(known: Progress | None, scraped: Progress) -> Progress:
    """A scraped progress, with the fields that no metric has from the same coordinator's last answer."""
    if known is None or known.attempt != scraped.attempt:
        return scraped
    return scraped.model_copy(update={"checkpoint": known.checkpoint, "latest": known.latest})


def _without_clock(progress: Progress) -> Progress:
    """An answer without the numbers that change while nothing happens."""
    clock = {"time": 0.0, "gpu_seconds": {}, "idle_fraction": {}, "compute_gpu_hours": 0.0, "still_seconds": None}
    return progress.model_copy(update=clock)
