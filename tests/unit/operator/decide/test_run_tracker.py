"""The tracker of a run: answers and forecasts in, evaluations, inputs of forecasts and assessment out."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from scalerl_api import RLRun
from scalerl_api.wire import Checkpoint, EvalPoint, Progress
from scalerl_operator.decide.run_tracker import RunTracker, Update
from scalerl_operator.forecast import Forecast
from scalerl_operator.run.forecast_log import ForecastLine

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
MakePoint = Callable[..., EvalPoint]
MakeRun = Callable[..., RLRun]


def answer(step: int = 7, attempt: int = 1, evals: Sequence[EvalPoint] = (), **values: object) -> Progress:
    given = {"run": "tiny", "phase": "training", "version": step, "compute_gpu_hours": 0.5, "time": 100.0 + step}
    return Progress.model_validate({**given, "attempt": attempt, "step": step, "evals": list(evals), **values})


def line(step: int, hours: float, attempt: int | None = None, **values: object) -> ForecastLine:
    known = {"ceiling": 0.8, "ceiling_low": 0.75, "ceiling_high": 0.85, "draws": ((0.8, 1.0, 1.0, 0.2),)}
    given = {"verdict": "Identified", "reason": "it bends", "law": "sigmoid", "points": 9, "burn_in": 0.0}
    return ForecastLine(
        1000.0 + step, step, hours, None, Forecast(**{**given, "unit": "GPU-h", **known, **values}), attempt
    )


def low_ceiling(num_evals: int) -> dict[str, object]:
    return {"name": "low", "when": {"ceilingUpper": {"below": 0.9}}, "for": num_evals}


def steps(tracker: RunTracker, run: RLRun) -> list[list[int]]:
    return [[point.step for point in prefix] for prefix in tracker.missing_prefixes(run)]


def test_the_first_answer_is_a_change_and_one_with_only_another_clock_is_none(point: MakePoint) -> None:
    tracker = RunTracker()
    tracker.begin_attempt(3)
    assert tracker.take_answer(answer(evals=[point(0)]), NOW) == Update(True, (point(0),))
    later = NOW + timedelta(seconds=10)
    ticking = answer(
        evals=[point(0)], time=117.0, compute_gpu_hours=0.6, still_seconds=4.0, gpu_seconds={"trainer": 9.0}
    )
    assert tracker.take_answer(ticking, later) == Update(False, ())
    assert (tracker.attempt, tracker.answered, tracker.progress) == (3, later, ticking)
    assert tracker.take_answer(answer(step=8), later).changed


def test_the_first_answer_of_another_coordinator_is_a_change_though_it_reports_the_same() -> None:
    tracker = RunTracker()
    tracker.take_answer(answer(), NOW)
    tracker.begin_attempt(1)
    assert tracker.take_answer(answer(), NOW).changed


def test_only_the_first_miss_before_any_answer_is_a_first_poll() -> None:
    tracker = RunTracker()
    assert [tracker.count_miss(), tracker.count_miss(), tracker.missed] == [True, False, 2]
    tracker.take_answer(answer(), NOW)
    assert tracker.missed == 0
    assert not tracker.count_miss()


def test_another_coordinator_numbers_its_points_and_paces_itself_anew(make_run: MakeRun, point: MakePoint) -> None:
    run, tracker = make_run(), RunTracker()
    for step in (10, 20):  # 120 steps are to be done; 10 take 10 s
        tracker.take_answer(answer(step=step, evals=[point(step // 10)]), NOW)
    tracker.count_miss()
    assert (tracker.since, tracker.eta_seconds(run), tracker.missed) == (3, 100.0, 1)
    tracker.begin_attempt(2)
    assert (tracker.since, tracker.eta_seconds(run), tracker.missed) == (0, None, 0)
    assert (tracker.answered, tracker.polled) == (None, False)
    assert tracker.progress is not None, "the state of the attempt before, until the new coordinator answers"
    assert tracker.evals == (point(1), point(2))


def test_a_point_measured_again_by_another_attempt_is_new(point: MakePoint) -> None:
    tracker = RunTracker(evals=(point(0), point(1)))
    again = point(1, attempt=2, compute_gpu_hours=0.05)
    assert tracker.add_evals([point(0), again]) == (again,)
    assert tracker.evals == (point(0), again)


def test_a_scrape_adds_points_and_only_a_newer_one_replaces_the_progress(point: MakePoint) -> None:
    saved = Checkpoint(step=40, time=1.0, path="/somewhere")
    tracker = RunTracker()
    tracker.take_answer(answer(step=50, evals=[point(0)], checkpoint=saved), NOW)
    assert tracker.take_scrape([point(1)], answer(step=49), NOW - timedelta(seconds=1))
    assert (tracker.evals, tracker.since) == ((point(0), point(1)), 1)
    assert tracker.progress is not None
    assert tracker.progress.step == 50
    assert not tracker.take_scrape([point(1)], None, NOW + timedelta(seconds=1)), "nothing is new"
    assert tracker.take_scrape([], answer(step=55), NOW + timedelta(seconds=2))
    assert (tracker.progress.step, tracker.progress.checkpoint) == (55, saved)
    assert tracker.answered == NOW + timedelta(seconds=2)
    tracker.take_scrape([], answer(step=3, attempt=2), NOW + timedelta(seconds=3))
    assert tracker.progress.checkpoint is None, "of another coordinator nothing is carried over"


SCOPES: list[tuple[str, bool, int, list[list[int]]]] = [
    ("every prefix", True, 2, [[0], [0, 10], [0, 10, 20], [0, 10, 20, 30]]),
    ("the last three of a policy", False, 3, [[0, 10], [0, 10, 20], [0, 10, 20, 30]]),
    ("the newest without a policy", False, 0, [[0, 10, 20, 30]]),
    ("a policy that wants more than were measured", False, 9, [[0], [0, 10], [0, 10, 20], [0, 10, 20, 30]]),
]


@pytest.mark.parametrize(("every", "num_evals", "wanted"), [r[1:] for r in SCOPES], ids=[r[0] for r in SCOPES])
def test_missing_prefixes(
    make_run: MakeRun, point: MakePoint, every: bool, num_evals: int, wanted: list[list[int]]
) -> None:
    run = make_run(stopPolicies=[low_ceiling(num_evals)] if num_evals else [])
    tracker = RunTracker(every_prefix=every, evals=tuple(point(index) for index in range(4)))
    assert steps(tracker, run) == wanted
    tracker.add_forecasts(run, [line(20, 0.04, 1)])
    assert steps(tracker, run) == [each for each in wanted if each[-1] != 20 or num_evals == 0]


def test_points_that_were_measured_again_get_forecasts_of_their_own(make_run: MakeRun, point: MakePoint) -> None:
    """Attempt 1 came to step 40; attempt 2, from step 15 on, has come to step 30.

    The lines for attempt 1 are an older version's: they name no attempt.
    """
    run = make_run(stopPolicies=[low_ceiling(3)])
    evals = (
        point(0, compute_gpu_hours=0.0),
        point(1, compute_gpu_hours=1.0),
        point(2, compute_gpu_hours=2.5, attempt=2),
        point(3, compute_gpu_hours=3.5, attempt=2),
        point(4, compute_gpu_hours=4.0),
    )
    made = [line(10 * index, float(index)) for index in range(5)]
    tracker = RunTracker(every_prefix=True, evals=evals)
    tracker.add_forecasts(run, made)
    assert steps(tracker, run) == [[0, 10, 20], [0, 10, 20, 30]]
    tracker = RunTracker(evals=evals)
    tracker.add_forecasts(run, made)
    assert steps(tracker, run) == [[0, 10, 20], [0, 10, 20, 30]]
    tracker.add_forecasts(run, [line(20, 2.5, 2), line(30, 3.5, 2)])
    assert [(each.step, each.attempt) for each in tracker.forecasts] == [(10, None), (20, 2), (30, 2)]
    assert tracker.forecasts[0] == made[1].without_draws()
    assert steps(tracker, run) == [], "none twice"


def test_all_forecasts_are_kept_or_those_that_a_policy_looks_at(make_run: MakeRun, point: MakePoint) -> None:
    run = make_run(stopPolicies=[low_ceiling(2)])
    lines = [line(10 * index, 0.02 * index, 1) for index in range(4)]
    kept = []
    for every in (True, False):
        tracker = RunTracker(every_prefix=every, evals=tuple(point(index) for index in range(4)))
        tracker.add_forecasts(run, lines)
        kept.append([each.step for each in tracker.forecasts])
        assert all(each.forecast.draws == () for each in tracker.forecasts)
        assert tracker.assessment is not None
        assert tracker.assessment.stop is not None
        assert [each.step for each in tracker.assessment.stop.inputs] == [20, 30]
    assert kept == [[0, 10, 20, 30], [20, 30]]


def test_an_assessment_is_due_for_a_new_evaluation_and_for_a_new_spec(make_run: MakeRun, point: MakePoint) -> None:
    run, tracker = make_run(), RunTracker()
    assert tracker.is_assessed(1), "nothing was measured"
    tracker.add_evals([point(0), point(1)])
    assert not tracker.is_assessed(1)
    tracker.add_forecasts(run, [line(10, 0.02, 1)], generation=1)
    assert tracker.is_assessed(1)
    assert not tracker.is_assessed(2)
    assert tracker.is_newest(line(10, 0.02, 1))
    assert not tracker.is_newest(line(0, 0.0, 1))
    edited = make_run(stopPolicies=[low_ceiling(1)])
    assert tracker.assessment is not None
    assert tracker.assessment.stop is None
    tracker.add_forecasts(edited, [], generation=2)
    assert tracker.assessment.stop is not None
    assert tracker.assessment.stop.policy == "low"
    tracker.add_evals([point(2)])
    assert not tracker.is_assessed(2)


def test_a_source_is_forecast_once_per_point_and_only_from_its_newest(make_run: MakeRun, point: MakePoint) -> None:
    run, tracker = make_run(), RunTracker()
    math, code = "held_out.math", "held_out.code"
    tracker.add_evals([point(i, dataset=name) for i in (0, 1) for name in ("held_out", math, code, "aime-24")])
    missing = tracker.missing_sources()
    assert {name: [each.step for each in prefix] for name, prefix in missing.items()} == {math: [0, 10], code: [0, 10]}
    tracker.add_source_forecasts({math: line(10, 0.02, 1, ceiling=0.7), code: line(10, 0.02, 1, ceiling=0.5)})
    assert tracker.missing_sources() == {}
    assert not tracker.is_assessed(1), "the pooled forecast is still missing"
    tracker.add_forecasts(run, [line(10, 0.02, 1)], generation=1)
    assert tracker.is_assessed(1)
    assert tracker.assessment is not None
    found = {each.name: (each.ceiling, each.pass_rate) for each in tracker.assessment.sources}
    assert found == {"math": (0.7, 0.3), "code": (0.5, 0.3)}
    assert tracker.source_forecasts[math].forecast.draws == ()

    tracker.add_evals([point(2, dataset=math, pass_rate=0.375)])
    assert list(tracker.missing_sources()) == [math]
    assert not tracker.is_assessed(1)


def test_a_point_of_another_set_that_comes_after_the_forecast_is_assessed(make_run: MakeRun, point: MakePoint) -> None:
    low = {"name": "worse", "when": {"downstream": {"aime-24": {"drop": 0.25}}}, "for": 1}
    data = {**make_run().spec.data.model_dump(by_alias=True, exclude_none=True)}
    data["downstream"] = [{"name": "aime-24", "source": "reasoning_gym:chain_sum"}]
    run, tracker = make_run(stopPolicies=[low], data=data), RunTracker()
    tracker.add_evals([point(0), point(0, dataset="aime-24", pass_rate=0.5), point(1)])
    tracker.add_forecasts(run, [line(10, 0.02, 1)], generation=1)
    assert tracker.is_assessed(1)
    assert tracker.assessment is not None
    assert tracker.assessment.stop is None
    tracker.add_evals([point(1, dataset="aime-24", pass_rate=0.125)])
    assert not tracker.is_assessed(1)
    assert tracker.missing_prefixes(run) == [], "nothing is fitted again"
    tracker.add_forecasts(run, [], generation=1)
    assert tracker.assessment.stop is not None
    assert tracker.assessment.stop.quantity == "downstream.aime-24"


def test_a_policy_on_another_set_needs_no_earlier_forecast(make_run: MakeRun, point: MakePoint) -> None:
    data = {**make_run().spec.data.model_dump(by_alias=True, exclude_none=True)}
    data["downstream"] = [{"name": "aime-24", "source": "reasoning_gym:chain_sum"}]
    worse = {"name": "worse", "when": {"downstream": {"aime-24": {"below": 0.25}}}, "for": 9}
    run, tracker = make_run(stopPolicies=[worse], data=data), RunTracker()
    tracker.add_evals([point(index) for index in range(5)])
    assert steps(tracker, run) == [[0, 10, 20, 30, 40]]
