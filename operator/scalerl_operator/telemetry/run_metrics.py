"""The runs' numbers as metrics: one table of names and meanings, and the samples of one run. PURE."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from scalerl_api import RLRunStatus
from scalerl_api.evaluations import surviving
from scalerl_api.status import ForecastStatus, SourceForecastStatus
from scalerl_operator.reconcile.snapshot import PollResult
from scalerl_operator.run.state import is_over, state_word


@dataclass(frozen=True)
class RunMetric:
    """One gauge of a run; `namespace` and `run` are labels of all."""

    name: str
    meaning: str
    labels: tuple[str, ...] = ()


RUN_METRICS = (
    RunMetric("state", "1 for the run's state, as kubectl get has it; other states have no series.", ("state",)),
    RunMetric("attempt", "The life of the trainer group that is the last one, from 1."),
    RunMetric("step", "Optimizer steps."),
    RunMetric("pass_rate", "Last held-out pass rate."),
    RunMetric("compute_gpu_hours", "Compute of the surviving history (device-hours on CPU)."),
    RunMetric("budget_gpu_hours", "Compute at which the run will end, estimated."),
    RunMetric("eta_seconds", "Time to the end of the budget at the present pace."),
    RunMetric("gpu_seconds", "Device time used, lost work included. A gauge: it has no resets.", ("role",)),
    RunMetric(
        "saved_gpu_hours", "Budget that was left when a policy spoke; Observe: would have been.", ("policy", "mode")
    ),
    RunMetric("verdict", "1 for the forecast's verdict; others have no series.", ("verdict",)),
    RunMetric("ceiling", "Predicted ceiling; absent without a forecast to believe, as are the five below."),
    RunMetric("ceiling_low", "Lower end of its 90 % interval."),
    RunMetric("ceiling_high", "Upper end of its 90 % interval."),
    RunMetric("predicted_pass_rate", "Predicted at the end of the budget."),
    RunMetric("predicted_low", "Lower end of its 90 % interval."),
    RunMetric("predicted_high", "Upper end of its 90 % interval."),
    RunMetric("source_pass_rate", "Last pass rate of a training source's held-out prompts.", ("source",)),
    RunMetric(
        "source_verdict", "1 for the verdict of a source's forecast; others have no series.", ("source", "verdict")
    ),
    RunMetric("source_ceiling", "A source's predicted ceiling; absent without a forecast to believe.", ("source",)),
    RunMetric("source_ceiling_low", "Lower end of its 90 % interval.", ("source",)),
    RunMetric("source_ceiling_high", "Upper end of its 90 % interval.", ("source",)),
    RunMetric("source_predicted_pass_rate", "A source's pass rate, predicted at the end of the budget.", ("source",)),
    RunMetric("source_predicted_low", "Lower end of its 90 % interval.", ("source",)),
    RunMetric("source_predicted_high", "Upper end of its 90 % interval.", ("source",)),
    RunMetric("fitted_pass_rate", "The fitted curve at the last evaluation, to be laid over run_pass_rate."),
    RunMetric("fitted_low", "Lower end of the 90 % band of a measurement there."),
    RunMetric("fitted_high", "Upper end of the 90 % band of a measurement there."),
    RunMetric("curve_gpu_hours", "Compute of a point of the curve's grid, which ends with the budget.", ("point",)),
    RunMetric("curve_pass_rate", "The fitted curve at that point.", ("point",)),
    RunMetric("curve_low", "Lower end of the 90 % band of a measurement there.", ("point",)),
    RunMetric("curve_high", "Upper end of the 90 % band of a measurement there.", ("point",)),
)

MetricSample = tuple[str, tuple[str, ...], float]
"""(metric's name, values of its own labels, value)."""


@dataclass(frozen=True)
class RunMetricsView:
    """A run's stored status, and the polls since."""

    status: RLRunStatus | None = None
    poll: PollResult = field(default_factory=PollResult)


def list_samples(view: RunMetricsView) -> Iterator[MetricSample]:
    """Yield every sample of a run; an unknown number has none."""
    status = view.status
    yield "state", (state_word(status),), 1.0
    if status is not None:
        yield "attempt", (), float(status.attempt)
        if status.stop is not None and status.stop.saved_gpu_hours is not None:
            yield "saved_gpu_hours", (status.stop.policy, status.stop.mode), status.stop.saved_gpu_hours
    yield from _progress(view)
    yield from _cost(view)
    yield from _forecast(_last_forecast(view))
    for source in _last_sources(view):
        if source.pass_rate is not None:
            yield "source_pass_rate", (source.name,), source.pass_rate
        for name, labels, value in _forecast(source):
            yield f"source_{name}", (source.name, *labels), value
    yield from _curve(view.poll)


def _progress(view: RunMetricsView) -> Iterator[MetricSample]:
    """The progress: by the stored status if the run is over, else by the last answer."""
    status, poll = view.status, view.poll
    written = status.progress if status is not None else None
    progress = poll.progress if poll.progress is not None and not is_over(status) else written
    if progress is not None:
        yield "step", (), float(progress.step)
        yield "compute_gpu_hours", (), progress.compute_gpu_hours
    measured = surviving(poll.evals)
    if measured and not is_over(status):
        yield "pass_rate", (), measured[-1].pass_rate
    elif written is not None and written.pass_rate is not None:
        yield "pass_rate", (), written.pass_rate
    if poll.eta_seconds is not None and not is_over(status):
        yield "eta_seconds", (), poll.eta_seconds


def _cost(view: RunMetricsView) -> Iterator[MetricSample]:
    """By role, the larger of the stored and the polled number: neither counts anything twice."""
    spent: dict[str, float] = {}
    if view.status is not None and view.status.cost is not None:
        spent.update(view.status.cost.gpu_seconds)
    if view.poll.progress is not None:
        for role, seconds in view.poll.progress.gpu_seconds.items():
            spent[role] = max(seconds, spent.get(role, 0.0))
    for role, seconds in spent.items():
        yield "gpu_seconds", (role,), seconds


def _last_forecast(view: RunMetricsView) -> ForecastStatus | None:
    if view.poll.assessment is not None and view.poll.assessment.forecast is not None:
        return view.poll.assessment.forecast
    return view.status.forecast if view.status is not None else None


def _last_sources(view: RunMetricsView) -> Sequence[SourceForecastStatus]:
    if view.poll.assessment is not None and view.poll.assessment.sources:
        return view.poll.assessment.sources
    return view.status.source_forecasts if view.status is not None else ()


def _forecast(found: ForecastStatus | None) -> Iterator[MetricSample]:
    if found is None:
        return
    yield "verdict", (found.verdict,), 1.0
    if found.verdict == "NotIdentified":
        return
    numbers = {
        "ceiling": found.ceiling,
        "ceiling_low": found.ceiling_low,
        "ceiling_high": found.ceiling_high,
        "predicted_pass_rate": found.predicted_at_budget,
        "predicted_low": found.low,
        "predicted_high": found.high,
    }
    yield from ((name, (), value) for name, value in numbers.items() if value is not None)


def _curve(poll: PollResult) -> Iterator[MetricSample]:
    curve = poll.curve
    if curve is None:
        return
    if curve.budget_gpu_hours is not None:
        yield "budget_gpu_hours", (), curve.budget_gpu_hours
    yield "fitted_pass_rate", (), curve.now.middle
    yield "fitted_low", (), curve.now.low
    yield "fitted_high", (), curve.now.high
    for index, band in enumerate(curve.grid):
        point = (f"{index:02d}",)  # two digits: sorted as text they are in order
        yield "curve_gpu_hours", point, band.gpu_hours
        yield "curve_pass_rate", point, band.middle
        yield "curve_low", point, band.low
        yield "curve_high", point, band.high
