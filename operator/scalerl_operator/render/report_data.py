"""The content of a run's report, read from a folder or from a cluster. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass

from scalerl_api import RLRun
from scalerl_api.evaluations import list_source_sets, surviving
from scalerl_api.rollouts import Rollout
from scalerl_api.status import AttemptStatus, SourceForecastStatus
from scalerl_api.wire import HELD_OUT, EvalPoint, StepRecord, source_of
from scalerl_operator.decide.assessment import fit_points, forecast_prefixes, to_source_status
from scalerl_operator.decide.halfway import HalfwayCurve, compare_halfway
from scalerl_operator.reconcile.pod_view import EventView
from scalerl_operator.render.set_plots import SourceCurve
from scalerl_operator.run.forecast_log import ForecastLine
from scalerl_operator.run.progress import compute_unit
from scalerl_operator.run.prompt_rates import PromptRates


@dataclass(frozen=True)
class RolloutReport:
    """Completions and pass rates that the report shows; each may be empty."""

    best: Sequence[Rollout] = ()
    worst: Sequence[Rollout] = ()
    over_time: Sequence[Rollout] = ()
    """One prompt in several evaluations, oldest first."""
    rates: Sequence[PromptRates] = ()
    """Of the held-out prompts."""


@dataclass(frozen=True)
class ReportData:
    """A run's records, with at least one held-out evaluation."""

    run: RLRun
    spec: str
    """The RLRun as YAML."""
    evals: Sequence[EvalPoint]
    steps: Sequence[StepRecord]
    forecasts: Sequence[ForecastLine]
    """As the run made them, or rebuilt from the same points."""
    attempts: Sequence[AttemptStatus]
    environment: Sequence[tuple[str, str]]
    """(label, value) of the machine or cluster of the run, and of this report."""
    events: Sequence[EventView] = ()
    rollouts: RolloutReport = RolloutReport()
    note: str = ""
    """Caveat about the evaluations; empty for none."""


@dataclass(frozen=True)
class SourceReport:
    """One training source: its evaluations, its curve, and its forecast of half of the compute."""

    measured: Sequence[EvalPoint]
    """At least one."""
    curve: SourceCurve
    status: SourceForecastStatus
    halfway: HalfwayCurve | None


def rebuild_sources(run: RLRun, evals: Sequence[EvalPoint], time: float) -> list[SourceReport]:
    """Return every training source of a mixture with its forecasts, fitted to `evals`; empty with a single source."""
    found = []
    for dataset in list_source_sets(evals):
        lines = rebuild_forecasts(run, evals, time, dataset)
        curve = SourceCurve(source_of(dataset), fit_points(evals, compute_unit(run), dataset), lines[-1].forecast)
        status, halfway = to_source_status(dataset, lines[-1], evals), compare_halfway(lines, evals, dataset)
        found.append(SourceReport(surviving(evals, dataset), curve, status, halfway))
    return found


def rebuild_forecasts(
    run: RLRun, evals: Sequence[EvalPoint], time: float, dataset: str = HELD_OUT
) -> list[ForecastLine]:
    """Return the forecast at half of the compute and the one after the last evaluation, fitted to `evals`.

    A forecast depends only on the points before it, so these equal the operator's own, unless points are missing or
    the forecaster has changed. `time` is Unix seconds, for the record.
    """
    measured = surviving(evals, dataset)
    if not measured:
        return []
    half = measured[-1].compute_gpu_hours / 2 * (1 + 1e-9)
    early = sum(point.compute_gpu_hours <= half for point in measured)
    counts = sorted({early, len(measured)} - {0})
    return forecast_prefixes(run, [measured[:count] for count in counts], time)
