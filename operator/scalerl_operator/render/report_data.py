"""The content of a run's report, read from a folder or from a cluster. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass

from scalerl_api import RLRun
from scalerl_api.evaluations import surviving
from scalerl_api.rollouts import Rollout
from scalerl_api.status import AttemptStatus
from scalerl_api.wire import EvalPoint, StepRecord
from scalerl_operator.decide.assessment import forecast_prefixes
from scalerl_operator.reconcile.pod_view import EventView
from scalerl_operator.run.forecast_log import ForecastLine
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


def rebuild_forecasts(run: RLRun, evals: Sequence[EvalPoint], time: float) -> list[ForecastLine]:
    """Return the forecast at half of the compute and the one after the last evaluation, fitted to `evals`.

    A forecast depends only on the points before it, so these equal the operator's own, unless points are missing or
    the forecaster has changed. `time` is Unix seconds, for the record.
    """
    measured = surviving(evals)
    if not measured:
        return []
    half = measured[-1].compute_gpu_hours / 2 * (1 + 1e-9)
    early = sum(point.compute_gpu_hours <= half for point in measured)
    counts = sorted({early, len(measured)} - {0})
    return forecast_prefixes(run, [measured[:count] for count in counts], time)
