"""The operator's metrics: what Prometheus reads of a run, and what it no longer does."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from scalerl_api import RLRunStatus
from scalerl_api.status import Condition, CostStatus, ForecastStatus, ProgressStatus, SourceForecastStatus, StopStatus
from scalerl_api.wire import EvalPoint, Progress
from scalerl_operator.decide.curve_samples import GRID_POINTS, Band, CurveSamples
from scalerl_operator.reconcile.observed_run import Key
from scalerl_operator.reconcile.snapshot import PollResult
from scalerl_operator.run.observed import Assessment
from scalerl_operator.telemetry.metrics import OperatorMetrics, document

KEY = ("research", "tiny")
NOW = datetime(2026, 5, 4, tzinfo=UTC)
Point = Callable[..., EvalPoint]

FORECAST = ForecastStatus(
    verdict="Weak",
    reason="r",
    points=9,
    ceiling=0.61,
    ceiling_low=0.55,
    ceiling_high=0.72,
    predicted_at_budget=0.58,
    low=0.53,
    high=0.64,
)
BAND = Band(0.25, 0.5, 0.45, 0.56)
CURVE = CurveSamples(BAND, tuple(Band(0.1 * i, 0.3 + 0.01 * i, 0.2, 0.7) for i in range(GRID_POINTS)), 1.75)


def progress(**values: object) -> Progress:
    given = {"run": "tiny", "attempt": 2, "phase": "training", "step": 41, "version": 40, "compute_gpu_hours": 0.5}
    spent = {"gpu_seconds": {"trainer": 100.0, "generator": 300.0}, "time": 1.0}
    return Progress.model_validate({**given, **spent, **values})


def status(word: str = "Training", over: str = "", **values: object) -> RLRunStatus:
    def condition(kind: str) -> Condition:
        truth = "True" if kind in ("Progressing", over) else "False"
        given = {"type": kind, "status": truth, "reason": word, "message": "", "last_transition_time": NOW}
        return Condition.model_validate(given)

    conditions = [condition(kind) for kind in ("Progressing", "Complete", "Failed")]
    return RLRunStatus.model_validate({"conditions": conditions, "attempt": 2, **values})


def samples(gauges: OperatorMetrics) -> dict[str, float]:
    """`name{labels}` without the run's own labels -> value, of the runs' metrics."""
    found = {}
    for family in text_string_to_metric_families(gauges.render().decode()):
        for each in family.samples:
            if each.name.startswith("scalerl_run_"):
                assert (each.labels.pop("namespace"), each.labels.pop("run")) == KEY
                labels = ",".join(f"{name}={value}" for name, value in sorted(each.labels.items()))
                found[each.name.removeprefix("scalerl_run_") + (f"{{{labels}}}" if labels else "")] = each.value
    return found


@pytest.fixture
def gauges() -> OperatorMetrics:
    found = OperatorMetrics()
    found.set_leading(True)
    return found


def test_everything_that_is_known_of_a_training_run(gauges: OperatorMetrics, point: Point) -> None:
    evals = (point(0), point(1, pass_rate=0.44), point(2, dataset="sums", pass_rate=0.9))
    poll = PollResult(progress=progress(), evals=evals, eta_seconds=77.0, assessment=Assessment(FORECAST), curve=CURVE)
    gauges.show_run(KEY, status(), poll)
    found = samples(gauges)
    grid = {name: value for name, value in found.items() if name.startswith("curve_")}
    assert {name: value for name, value in found.items() if name not in grid} == {
        "state{state=Training}": 1.0,
        "attempt": 2.0,
        "step": 41.0,
        "pass_rate": 0.44,
        "compute_gpu_hours": 0.5,
        "budget_gpu_hours": 1.75,
        "eta_seconds": 77.0,
        "gpu_seconds{role=trainer}": 100.0,
        "gpu_seconds{role=generator}": 300.0,
        "verdict{verdict=Weak}": 1.0,
        "ceiling": 0.61,
        "ceiling_low": 0.55,
        "ceiling_high": 0.72,
        "predicted_pass_rate": 0.58,
        "predicted_low": 0.53,
        "predicted_high": 0.64,
        "fitted_pass_rate": 0.5,
        "fitted_low": 0.45,
        "fitted_high": 0.56,
    }
    assert len(grid) == 4 * GRID_POINTS
    assert grid["curve_gpu_hours{point=03}"] == pytest.approx(0.3)
    assert grid["curve_pass_rate{point=11}"] == pytest.approx(0.41)
    assert (grid["curve_low{point=00}"], grid["curve_high{point=00}"]) == (0.2, 0.7)


def test_a_run_has_a_bounded_number_of_series_however_long_it_trains(gauges: OperatorMetrics, point: Point) -> None:
    def count(evals: int) -> int:
        poll = PollResult(
            progress=progress(), evals=tuple(map(point, range(evals))), eta_seconds=1.0, assessment=Assessment(FORECAST)
        )
        gauges.show_run(KEY, status(), poll)
        return len(samples(gauges))

    assert count(2) == count(500)


def test_one_state_at_a_time(gauges: OperatorMetrics) -> None:
    for word in ("Starting", "Training", "BackingOff"):
        gauges.show_run(KEY, status(word), PollResult())
    assert [name for name in samples(gauges) if name.startswith("state")] == ["state{state=BackingOff}"]


def test_a_run_that_nobody_has_looked_at_is_pending(gauges: OperatorMetrics) -> None:
    gauges.show_run(KEY, None, PollResult())
    assert samples(gauges) == {"state{state=Pending}": 1.0}


def test_an_operator_that_has_heard_nothing_yet_shows_what_is_written(gauges: OperatorMetrics) -> None:
    """After a restart, and of runs whose coordinators are gone."""
    written = status(
        "Suspended",
        progress=ProgressStatus(phase="Suspended", step=30, version=30, pass_rate=0.4, compute_gpu_hours=0.3),
        cost=CostStatus(gpu_seconds={"trainer": 50.0}, idle_fraction={}),
        forecast=FORECAST,
    )
    gauges.show_run(KEY, written, PollResult())
    found = samples(gauges)
    assert (found["step"], found["pass_rate"], found["compute_gpu_hours"]) == (30.0, 0.4, 0.3)
    assert (found["ceiling"], found["gpu_seconds{role=trainer}"]) == (0.61, 50.0)


def test_no_gpu_second_is_counted_twice(gauges: OperatorMetrics) -> None:
    """Written by the operator before, and told again by the same coordinator.

    And a coordinator that has lost a step's.
    """
    written = status(cost=CostStatus(gpu_seconds={"trainer": 120.0, "generator": 250.0}, idle_fraction={}))
    gauges.show_run(KEY, written, PollResult(progress=progress()))
    found = samples(gauges)
    assert (found["gpu_seconds{role=trainer}"], found["gpu_seconds{role=generator}"]) == (120.0, 300.0)


def test_a_finished_run_shows_its_termination_message(gauges: OperatorMetrics, point: Point) -> None:
    last = ProgressStatus(phase="Finished", step=44, version=44, pass_rate=0.5, compute_gpu_hours=0.6)
    poll = PollResult(progress=progress(), evals=(point(0, pass_rate=0.4),), eta_seconds=3.0)
    gauges.show_run(KEY, status("Finished", "Complete", progress=last), poll)
    found = samples(gauges)
    assert (found["step"], found["pass_rate"], found["compute_gpu_hours"]) == (44.0, 0.5, 0.6)
    assert "eta_seconds" not in found


def test_saved_gpu_hours_name_the_policy_and_whether_it_ended_the_run(gauges: OperatorMetrics) -> None:
    for mode in ("Observe", "Enforce"):
        stop = StopStatus.model_validate({"policy": "flat", "mode": mode, "reason": "r", "saved_gpu_hours": 12.5})
        gauges.show_run(KEY, status(stop=stop), PollResult())
        assert samples(gauges)[f"saved_gpu_hours{{mode={mode},policy=flat}}"] == 12.5
    gauges.show_run(KEY, status(), PollResult())
    assert not [name for name in samples(gauges) if name.startswith("saved")]


def test_sources_have_series_of_their_own_beside_the_pooled_ones(gauges: OperatorMetrics) -> None:
    math = SourceForecastStatus(**FORECAST.model_dump() | {"ceiling": 0.8}, name="math", pass_rate=0.625)
    code = math.model_copy(update={"name": "code", "verdict": "NotIdentified", "pass_rate": 0.25})
    gauges.show_run(KEY, status(source_forecasts=[code]), PollResult(assessment=Assessment(FORECAST, None, (math,))))
    found = {name: value for name, value in samples(gauges).items() if name.startswith("source")}
    assert found == {
        "source_pass_rate{source=math}": 0.625,
        f"source_verdict{{source=math,verdict={FORECAST.verdict}}}": 1.0,
        "source_ceiling{source=math}": 0.8,
        "source_ceiling_low{source=math}": FORECAST.ceiling_low,
        "source_ceiling_high{source=math}": FORECAST.ceiling_high,
        "source_predicted_pass_rate{source=math}": FORECAST.predicted_at_budget,
        "source_predicted_low{source=math}": FORECAST.low,
        "source_predicted_high{source=math}": FORECAST.high,
    }
    gauges.show_run(KEY, status(source_forecasts=[code]), PollResult())
    found = {name: value for name, value in samples(gauges).items() if name.startswith("source")}
    assert found == {"source_pass_rate{source=code}": 0.25, "source_verdict{source=code,verdict=NotIdentified}": 1.0}


def test_a_refused_forecast_shows_no_number_to_believe(gauges: OperatorMetrics) -> None:
    refused = FORECAST.model_copy(update={"verdict": "NotIdentified"})
    gauges.show_run(KEY, status(forecast=FORECAST), PollResult(assessment=Assessment(refused)))
    found = samples(gauges)
    assert found["verdict{verdict=NotIdentified}"] == 1.0
    assert not [name for name in found if name.startswith(("ceiling", "predicted", "verdict{verdict=W"))]


def test_what_a_coordinator_tells_between_passes_is_shown_at_once(gauges: OperatorMetrics) -> None:
    gauges.show_run(KEY, status(), PollResult(progress=progress()))
    gauges.show_poll(KEY, PollResult(progress=progress(step=42, compute_gpu_hours=0.51)))
    found = samples(gauges)
    assert (found["step"], found["compute_gpu_hours"], found["state{state=Training}"]) == (42.0, 0.51, 1.0)


def test_a_deleted_run_leaves_no_series(gauges: OperatorMetrics) -> None:
    other: Key = ("research", "other")
    gauges.show_run(other, status(), PollResult(curve=CURVE))
    gauges.show_run(KEY, status(), PollResult(progress=progress(), curve=CURVE))
    gauges.forget_run(other)
    samples(gauges)  # asserts that no other run is there
    gauges.forget_run(KEY)
    gauges.forget_run(KEY)
    assert samples(gauges) == {}


def test_only_the_leader_shows_runs(gauges: OperatorMetrics) -> None:
    gauges.show_run(KEY, status(), PollResult())
    gauges.set_leading(False)
    assert samples(gauges) == {}
    assert b"scalerl_operator_leader 0.0" in gauges.render()
    gauges.set_leading(True)
    assert samples(gauges) != {}
    assert b"scalerl_operator_leader 1.0" in gauges.render()


def test_what_alerts_rate_is_there_from_0_on(gauges: OperatorMetrics) -> None:
    text = gauges.render().decode()
    for series in (
        'reconcile_total{result="error"}',
        'polls_total{result="missed"}',
        'prometheus_readings_total{result="failed"}',
    ):
        assert f"scalerl_operator_{series} 0.0" in text


def test_page_is_fresh() -> None:
    page = Path(__file__).parents[4] / "docs/operator-metrics.md"
    assert page.read_text() == document(), "run `make generate`"
