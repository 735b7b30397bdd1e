"""Everything that a report says of a run, from wherever it was read. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass

from scalerl_api import RLRun
from scalerl_api.status import AttemptStatus
from scalerl_api.wire import EvalPoint, StepRecord
from scalerl_operator.decide.assessment import forecast_points
from scalerl_operator.reconcile.pod_view import EventView
from scalerl_operator.run.evals import surviving
from scalerl_operator.run.forecast_log import ForecastLine
from scalerl_operator.run.progress import budget_gpu_hours


@dataclass(frozen=True)
class ReportData:
    """A run's records. At least one held-out evaluation is among them."""

    run: RLRun
    spec: str
    """The RLRun as YAML."""
    evals: Sequence[EvalPoint]
    steps: Sequence[StepRecord]
    forecasts: Sequence[ForecastLine]
    """Those that were made; or those that matter, made anew from the same points."""
    attempts: Sequence[AttemptStatus]
    environment: Sequence[tuple[str, str]]
    """(what, value) of where it ran, and of where this is written."""
    events: Sequence[EventView] = ()
    note: str = ""
    """What the report's reader must know of its points."""


def judge_ends(run: RLRun, evals: Sequence[EvalPoint], time: float) -> list[ForecastLine]:
    """Return the forecast after the last evaluation, and the one that had seen half of the compute, made from `evals`.

    A forecast follows from the points before it alone, so these are what the operator made then, unless points are
    missing or the forecaster has changed. `time` is Unix seconds, for the record.
    """
    measured = surviving(evals)
    if not measured:
        return []
    half = measured[-1].compute_gpu_hours / 2 * (1 + 1e-9)
    early = sum(point.compute_gpu_hours <= half for point in measured)
    counts = sorted({early, len(measured)} - {0})
    return [_judge(run, measured[:count], time) for count in counts]


def _judge(run: RLRun, points: Sequence[EvalPoint], time: float) -> ForecastLine:
    last = points[-1]
    return forecast_points(run, points, budget_gpu_hours(run, last.step, last.compute_gpu_hours), time)
