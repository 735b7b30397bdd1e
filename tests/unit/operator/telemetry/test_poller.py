"""The poller's state of coordinators over their restarts; the coordinators are functions."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from scalerl_api import RLRun
from scalerl_api.wire import Checkpoint, EvalPoint, Progress, Termination
from scalerl_operator.reconcile.cache import InformerCache
from scalerl_operator.reconcile.observed_pod import ObservedPod
from scalerl_operator.reconcile.observed_run import Key, ObservedRun
from scalerl_operator.reconcile.snapshot import PollResult
from scalerl_operator.resources.names import PodRole
from scalerl_operator.telemetry.metrics import OperatorMetrics
from scalerl_operator.telemetry.poller import MISSES, PollerDeps, ProgressPoller
from scalerl_operator.telemetry.progress_client import TelemetryError
from scalerl_operator.telemetry.promql import Question, Reading

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
CREATED = NOW - timedelta(hours=7)
KEY = ("research", "tiny")


class Scenario:
    """An informer cache with one run and its coordinator, which returns `answer`.

    And a Prometheus, if `reading` is set.
    """

    def __init__(self, run: RLRun):
        self.store, self.gauges, self.now = InformerCache(), OperatorMetrics(), NOW
        self.gauges.set_leading(True)
        self.questions: list[Question] = []
        self.reading: Callable[[Question], Reading] = lambda _question: Reading()
        self.asked: list[tuple[str, str, int]] = []
        self.enqueued: list[Key] = []
        self.answer: Callable[[int], Progress] = lambda _since: progress()
        self.run = ObservedRun(KEY, "u1", 1, 1, "scalerl.io/operator", False, {}, {}, run, created=CREATED)
        self.store.put_run(self.run)
        self.begin(with_prometheus=False)

    def begin(self, *, with_prometheus: bool) -> None:
        """Start the operator anew."""
        deps = PollerDeps(
            now=lambda: self.now,
            token=lambda uid: f"token of {uid}",
            enqueue=self.enqueued.append,
            fetch_progress=self._ask,
            poll_seconds=0.02,
            fetch_reading=self._read if with_prometheus else None,
            read_seconds=0.02,
        )
        self.coordinators = ProgressPoller(self.store, self.gauges, deps)

    def _read(self, question: Question) -> Reading:
        self.questions.append(question)
        return self.reading(question)

    def _ask(self, address: str, token: str, since: int) -> Progress:
        self.asked.append((address, token, since))
        return self.answer(since)

    def put_coordinator(self, attempt: int, **values: Any) -> None:
        given: dict[str, Any] = {"ip": "10.9.8.7", "started": NOW, "created": NOW, "owner": "u1", **values}
        given = {"version": 10 * attempt, **given}
        pod = ObservedPod(
            KEY, "tiny-trainer-0", f"p{attempt}", pod_role=PodRole("trainer", 0), attempt=attempt, **given
        )
        self.store.put_pod(pod)

    @property
    def result(self) -> PollResult:
        return self.coordinators.poll_result(self.run)

    async def until(self, holds: Callable[[], bool]) -> None:
        polling = asyncio.create_task(self.coordinators.poll_forever())
        async with asyncio.timeout(60.0):
            while not holds():
                await asyncio.sleep(0.005)
        polling.cancel()
        await asyncio.gather(polling, *self.coordinators._tasks, return_exceptions=True)


def silent(_since: int) -> Progress:
    raise TelemetryError("no route")


def progress(step: int = 7, attempt: int = 1, evals: tuple[EvalPoint, ...] = ()) -> Progress:
    return Progress(
        run="tiny",
        attempt=attempt,
        phase="training",
        step=step,
        version=step,
        compute_gpu_hours=0.5,
        evals=list(evals),
        time=NOW.timestamp() + step,
    )


@pytest.fixture
def scenario(make_run: Callable[..., RLRun]) -> Scenario:
    return Scenario(make_run())


def play(story: Awaitable[None]) -> None:
    async def whole() -> None:
        await story

    asyncio.run(whole())


def test_a_coordinator_is_asked_at_its_pod_with_its_runs_token(scenario: Scenario) -> None:
    assert scenario.result == PollResult()
    scenario.put_coordinator(1)
    play(scenario.until(lambda: scenario.result.polled))
    assert scenario.asked[0] == ("10.9.8.7:8480", "token of u1", 0)
    result = scenario.result
    assert (result.attempt, result.answered, result.watched) == (1, NOW, NOW)
    assert result.progress is not None
    assert result.progress.step == 7
    assert scenario.enqueued == [KEY], "an unchanged answer marks nothing"


def test_an_address_of_ipv6_is_put_in_brackets(scenario: Scenario) -> None:
    scenario.put_coordinator(1, ip="fd00::7")
    play(scenario.until(lambda: bool(scenario.asked)))
    assert scenario.asked[0][0] == "[fd00::7]:8480"


def test_a_coordinator_that_does_not_answer_was_asked(scenario: Scenario) -> None:
    scenario.answer = silent
    scenario.put_coordinator(1)
    play(scenario.until(lambda: len(scenario.asked) > 2))
    assert (scenario.result.polled, scenario.result.progress, scenario.result.answered) == (True, None, None)
    assert scenario.enqueued == [KEY]


def test_points_are_asked_for_once_and_judged_once(scenario: Scenario, point: Callable[..., EvalPoint]) -> None:
    points = tuple(point(index, pass_rate=0.3 + 0.01 * index) for index in range(3))
    scenario.answer = lambda since: progress(evals=points[since:])
    scenario.put_coordinator(1)
    play(scenario.until(lambda: scenario.result.assessment is not None and len(scenario.asked) > 5))
    assert [since for _, _, since in scenario.asked][:3] == [0, 3, 3]
    assert scenario.result.evals == points
    assert b"scalerl_operator_fits_total 1.0" in scenario.gauges.render()


def test_each_source_is_forecast_beside_the_pooled_curve_once(
    scenario: Scenario, point: Callable[..., EvalPoint]
) -> None:
    names = ("held_out", "held_out.code", "held_out.math", "aime-24")
    points = tuple(point(index, step=10 * (index // 4), dataset=names[index % 4]) for index in range(8))
    scenario.answer = lambda since: progress(evals=points[since:])
    scenario.put_coordinator(1)
    play(scenario.until(lambda: scenario.result.assessment is not None and len(scenario.asked) > 5))
    assert scenario.result.assessment is not None
    assert [each.name for each in scenario.result.assessment.sources] == ["code", "math"]
    assert b"scalerl_operator_fits_total 3.0" in scenario.gauges.render(), "pooled, code, math"


def test_a_point_measured_after_the_last_answer_is_judged_too(
    scenario: Scenario, point: Callable[..., EvalPoint]
) -> None:
    points = tuple(point(index, pass_rate=0.3 + 0.01 * index) for index in range(4))
    scenario.answer = lambda since: progress(evals=points[since:3])
    scenario.put_coordinator(1)
    play(scenario.until(lambda: scenario.result.assessment is not None))
    assert (scenario.result.evals, scenario.result.is_final) == (points[:3], False)
    words = Termination(reason="Finished", step=40, last_eval=points[3]).model_dump_json(by_alias=True)
    scenario.put_coordinator(1, phase="Succeeded", exit_code=0, termination_message=words, version=11)
    play(scenario.until(lambda: scenario.result.is_final))
    assert (scenario.result.evals, scenario.enqueued[-1]) == (points, KEY)
    assert b"scalerl_operator_fits_total 2.0" in scenario.gauges.render()
    scenario.put_coordinator(2, version=20)
    play(scenario.until(lambda: scenario.result.attempt == 2))
    assert not scenario.result.is_final, "another coordinator, another termination message"


def test_a_termination_message_alone_is_not_assessed(scenario: Scenario, point: Callable[..., EvalPoint]) -> None:
    """Of an operator that has started anew, whose coordinator ended before its first answer.

    The points before are lost.
    """
    scenario.answer = silent
    scenario.put_coordinator(1)
    play(scenario.until(lambda: scenario.result.polled))
    words = Termination(reason="Finished", step=40, last_eval=point(3)).model_dump_json(by_alias=True)
    scenario.put_coordinator(1, phase="Succeeded", exit_code=0, termination_message=words, version=11)
    play(scenario.until(lambda: scenario.result.is_final))
    assert (scenario.result.evals, scenario.result.assessment) == ((), None)


def test_an_operator_that_never_polled_a_coordinator_assesses_no_termination_message(scenario: Scenario) -> None:
    scenario.put_coordinator(1, phase="Succeeded", exit_code=0, termination_message='{"reason": "Finished"}')
    play(scenario.until(lambda: scenario.coordinators._tasks == set()))
    assert scenario.result == PollResult()


def test_a_new_coordinator_counts_its_points_by_its_own_numbers(
    scenario: Scenario, point: Callable[..., EvalPoint]
) -> None:
    old = (point(0), point(1), point(2))
    scenario.answer = lambda since: progress(evals=old[since:])
    scenario.put_coordinator(1)
    play(scenario.until(lambda: len(scenario.result.evals) == 3))
    scenario.asked.clear()
    scenario.put_coordinator(2)
    redone = (point(0), point(1), point(2, attempt=2, pass_rate=0.5))
    scenario.answer = lambda since: progress(attempt=2, evals=redone[since:])
    play(scenario.until(lambda: scenario.result.attempt == 2 and scenario.result.evals[-1].pass_rate == 0.5))
    assert scenario.asked[0][2] == 0
    assert len(scenario.result.evals) == 3


def test_what_a_second_attempt_measures_again_is_judged_point_by_point(
    scenario: Scenario, point: Callable[..., EvalPoint]
) -> None:
    """Attempt 1 was lost after step 40; attempt 2 goes on from step 15. Each of its points has a forecast, none two."""

    def fits() -> float:
        lines = scenario.gauges.render().decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("scalerl_operator_fits_total"))

    lost = tuple(point(index, pass_rate=0.3 + 0.01 * index) for index in range(5))
    scenario.answer = lambda since: progress(evals=lost[since:])
    scenario.put_coordinator(1)
    play(scenario.until(lambda: scenario.result.assessment is not None))
    scenario.put_coordinator(2)
    known = list(lost[:2])
    scenario.answer = lambda since: progress(attempt=2, evals=tuple(known[since:]))
    for step in range(2, 6):
        known.append(point(step, attempt=2, compute_gpu_hours=0.1 + 0.02 * step, pass_rate=0.4 + 0.01 * step))
        play(scenario.until(lambda: fits() == len(known) - 1))
        assert scenario.result.assessment is not None
        assert scenario.result.assessment.forecast is not None
        assert scenario.result.assessment.forecast.points == len(known)
        scenario.asked.clear()
        play(scenario.until(lambda: len(scenario.asked) > 5))
        assert fits() == len(known) - 1, "once"


def test_a_run_of_the_same_name_is_another(scenario: Scenario) -> None:
    scenario.put_coordinator(1)
    play(scenario.until(lambda: scenario.result.polled))
    assert scenario.coordinators.poll_result(replace(scenario.run, uid="u2")) == PollResult()


def test_what_a_policy_says_is_judged_anew_when_the_spec_changes(
    scenario: Scenario, make_run: Callable[..., RLRun], point: Callable[..., EvalPoint]
) -> None:
    points = tuple(point(index, pass_rate=0.6) for index in range(3))
    scenario.answer = lambda since: progress(evals=points[since:])
    scenario.put_coordinator(1)
    play(scenario.until(lambda: scenario.result.assessment is not None))
    assert scenario.result.assessment is not None
    assert scenario.result.assessment.stop is None
    policy = {"name": "enough", "when": {"passRate": {"above": 0.5}}, "for": 2}
    edited = replace(scenario.run, version=2, generation=2, run=make_run(stopPolicies=[policy]))
    scenario.store.put_run(edited)
    play(scenario.until(lambda: scenario.result.assessment is not None and scenario.result.assessment.stop is not None))


def test_what_is_forgotten_leaves_no_series(scenario: Scenario) -> None:
    scenario.put_coordinator(1)
    play(scenario.until(lambda: b'scalerl_run_step{namespace="research",run="tiny"} 7.0' in scenario.gauges.render()))
    scenario.coordinators.forget(KEY)
    assert scenario.result == PollResult()
    assert b'run="tiny"' not in scenario.gauges.render()


def test_a_run_that_is_deleted_while_its_coordinator_is_asked_leaves_no_series(scenario: Scenario) -> None:
    def answer(_since: int) -> Progress:
        scenario.store.drop_run(scenario.run)
        scenario.coordinators.forget(KEY)
        return progress()

    scenario.answer = answer
    scenario.put_coordinator(1)
    play(scenario.until(lambda: bool(scenario.asked) and not scenario.coordinators._tasks))
    assert b'run="tiny"' not in scenario.gauges.render()


# -- a Prometheus server beside the coordinators
# ----------------------------------------------------------------------------

Point = Callable[..., EvalPoint]


def test_without_a_server_nobody_else_is_asked(scenario: Scenario) -> None:
    scenario.answer = silent
    scenario.put_coordinator(1)
    play(scenario.until(lambda: len(scenario.asked) > 2 * MISSES))
    assert scenario.questions == []


def test_the_server_is_asked_only_about_a_coordinator_that_does_not_answer(scenario: Scenario) -> None:
    scenario.begin(with_prometheus=True)
    scenario.put_coordinator(1)
    play(scenario.until(lambda: len(scenario.asked) > 2 * MISSES))
    assert scenario.questions == []
    scenario.asked.clear()
    scenario.answer = silent
    play(scenario.until(lambda: bool(scenario.questions)))
    assert len(scenario.asked) >= MISSES, "a missed answer or two are nothing"
    assert scenario.questions[0] == Question("tiny", "u1", 1, CREATED, NOW)


def test_answers_between_misses_begin_the_count_anew(scenario: Scenario) -> None:
    def every_third(_since: int) -> Progress:
        if len(scenario.asked) % MISSES:
            raise TelemetryError("no route")
        return progress()

    scenario.begin(with_prometheus=True)
    scenario.answer = every_third
    scenario.put_coordinator(1)
    play(scenario.until(lambda: len(scenario.asked) > 4 * MISSES))
    assert scenario.questions == []


def test_missed_polls_lose_no_eval_point(scenario: Scenario, point: Point) -> None:
    """The coordinator is out of reach for evaluations 2 to 4; Prometheus has them; then it answers again."""
    points = tuple(point(index, pass_rate=0.3 + 0.01 * index) for index in range(6))
    scenario.begin(with_prometheus=True)
    scenario.answer = lambda since: progress(evals=points[:2][since:])
    scenario.put_coordinator(1)
    play(scenario.until(lambda: len(scenario.result.evals) == 2))
    scenario.answer = silent
    scenario.reading = lambda _question: Reading(points[1:5])
    play(scenario.until(lambda: len(scenario.result.evals) == 5 and scenario.result.assessment is not None))
    assert scenario.result.evals == points[:5]
    scenario.asked.clear()
    scenario.answer = lambda since: progress(evals=points[since:])
    play(scenario.until(lambda: len(scenario.result.evals) == 6))
    assert scenario.asked[0][2] == 2, "points that the coordinator has not sent are still requested from it"


def test_a_restart_of_the_operator_loses_no_eval_point_while_the_coordinator_is_out_of_reach(
    scenario: Scenario, point: Point
) -> None:
    points = tuple(point(index) for index in range(4))
    scenario.answer = silent
    scenario.reading = lambda _question: Reading(points)
    scenario.put_coordinator(1)
    for _ in range(2):
        scenario.begin(with_prometheus=True)
        scenario.questions.clear()
        play(scenario.until(lambda: scenario.result.assessment is not None))
        assert scenario.result.evals == points
        assert scenario.questions[0].since == CREATED, "from the run's beginning, for nothing is known"


def test_what_was_read_is_not_read_again(scenario: Scenario) -> None:
    scenario.begin(with_prometheus=True)
    scenario.answer = silent
    scenario.put_coordinator(1)
    play(scenario.until(lambda: bool(scenario.questions)))
    scenario.now = NOW + timedelta(minutes=9)
    play(scenario.until(lambda: scenario.questions[-1].now == scenario.now))
    play(scenario.until(lambda: scenario.questions[-1].since == scenario.now))
    assert scenario.questions[0].since == CREATED


def test_a_restart_of_the_coordinator_counts_the_surviving_points(scenario: Scenario, point: Point) -> None:
    """Step 20 was lost with attempt 1 and measured again by attempt 2: one point of a step, the later attempt's."""
    scenario.begin(with_prometheus=True)
    scenario.answer = silent
    scenario.put_coordinator(2)
    lost, redone = point(2, pass_rate=0.9), point(3, step=20, attempt=2, pass_rate=0.5)
    scenario.reading = lambda _question: Reading((point(0), point(1), lost, redone))
    play(scenario.until(lambda: len(scenario.result.evals) == 3))
    assert scenario.result.evals[-1].pass_rate == 0.5


def test_a_coordinator_that_is_scraped_is_alive_though_it_does_not_answer(scenario: Scenario) -> None:
    """`answered` by the age on the server's clock: the operator's own may be hours away from it."""
    scenario.begin(with_prometheus=True)
    scenario.answer = silent
    scenario.put_coordinator(1)
    scenario.reading = lambda _question: Reading(progress=progress(step=50), age_seconds=12.0)
    play(scenario.until(lambda: scenario.result.progress is not None))
    assert scenario.result.progress is not None
    assert scenario.result.progress.step == 50
    assert scenario.result.answered == NOW - timedelta(seconds=12)


def test_a_scrape_older_than_the_last_answer_says_nothing(scenario: Scenario) -> None:
    scenario.begin(with_prometheus=True)
    scenario.answer = lambda _since: progress(step=60)
    scenario.put_coordinator(1)
    play(scenario.until(lambda: scenario.result.progress is not None))
    scenario.answer = silent
    scenario.reading = lambda _question: Reading(progress=progress(step=59), age_seconds=30.0)
    play(scenario.until(lambda: len(scenario.questions) > 2))
    assert scenario.result.progress is not None
    assert (scenario.result.progress.step, scenario.result.answered) == (60, NOW)


def test_what_no_metric_says_is_kept_of_the_same_coordinators_answers(scenario: Scenario) -> None:
    saved = Checkpoint(step=40, time=1.0, path="/somewhere")
    scenario.begin(with_prometheus=True)
    scenario.answer = lambda _since: progress(step=50).model_copy(update={"checkpoint": saved})
    scenario.put_coordinator(1)
    play(scenario.until(lambda: scenario.result.progress is not None))
    scenario.answer = silent
    scenario.now = NOW + timedelta(minutes=1)
    scenario.reading = lambda _question: Reading(progress=progress(step=55), age_seconds=1.0)
    play(scenario.until(lambda: scenario.result.progress is not None and scenario.result.progress.step == 55))
    assert scenario.result.progress is not None
    assert scenario.result.progress.checkpoint == saved
    scenario.put_coordinator(2)
    scenario.reading = lambda _question: Reading(progress=progress(step=3, attempt=2), age_seconds=1.0)
    play(scenario.until(lambda: scenario.result.progress is not None and scenario.result.progress.attempt == 2))
    assert scenario.result.progress is not None
    assert scenario.result.progress.checkpoint is None


def test_a_server_that_fails_is_counted_and_asked_again(scenario: Scenario, point: Point) -> None:
    def fails(_question: Question) -> Reading:
        raise TelemetryError("HTTP 503")

    scenario.begin(with_prometheus=True)
    scenario.answer = silent
    scenario.reading = fails
    scenario.put_coordinator(1)
    play(scenario.until(lambda: len(scenario.questions) > 1))
    assert scenario.questions[1].since == CREATED, "nothing was read"
    scenario.reading = lambda _question: Reading((point(0),))
    play(scenario.until(lambda: len(scenario.result.evals) == 1))
    text = scenario.gauges.render().decode()
    assert 'prometheus_readings_total{result="failed"}' in text
    assert 'prometheus_readings_total{result="not_scraped"}' in text
