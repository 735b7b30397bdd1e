"""Conditions, roles and the texts of a table, from the observed state."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from scalerl_api import Fault, RLRun, RLRunStatus
from scalerl_api.status import ForecastStatus, SourceStatus, StopStatus
from scalerl_api.wire import Checkpoint, EvalPoint, Progress, StepRecord
from scalerl_operator.decide.status import build_status, describe_invalid
from scalerl_operator.decide.watchdog import add_alarms
from scalerl_operator.run.attempts import start_attempt
from scalerl_operator.run.conditions import CONDITIONS
from scalerl_operator.run.observed import Assessment, ObservedState
from scalerl_operator.run.state import format_ceiling, is_over, state_word

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
RUNNING = ("Running", "")


def snapshot(phase: str = "training", *, alive: bool = True, **values: object) -> ObservedState:
    given = {"run": "tiny", "attempt": 2, "phase": phase, "step": 40, "version": 39, "compute_gpu_hours": 0.08}
    more = {"time": 1.0, "generators_ready": 1, "generator_restarts": 3, "detail": "why it waits"}
    progress = Progress.model_validate({**given, **more, **values})
    ended = {} if alive else {"ended": NOW, "exit_code": 0}
    attempts = (
        start_attempt(1, NOW).model_copy(update={"ended": NOW, "exit_code": 1}),
        start_attempt(2, NOW).model_copy(update=ended),
    )
    return ObservedState(attempts, progress=progress, answered=NOW)


def words(status: RLRunStatus) -> dict[str, tuple[str, str]]:
    return {each.type: (each.status, each.reason) for each in status.conditions}


def test_health_is_unknown_until_the_coordinator_answers_and_after_the_end(make_run: Callable[..., RLRun]) -> None:
    run = make_run(watchdog={"staleness": {"above": 1, "steps": 1}})
    stale = [{"step": 40, "lag": 2.0}]
    for observed, standing, wanted in (
        (snapshot("training"), RUNNING, ("True", "NothingFound")),
        (snapshot("training", vitals=stale), RUNNING, ("False", "Stale")),
        (snapshot("stopping", vitals=stale), ("Stopping", "asked"), ("False", "Stale")),
        (replace(snapshot("training", vitals=stale), answered=None), RUNNING, ("Unknown", "NotTraining")),
        (snapshot("training", alive=False, vitals=stale), ("BackingOff", ""), ("Unknown", "NotTraining")),
        (snapshot("finished", vitals=stale), ("Finished", ""), ("Unknown", "NotTraining")),
    ):
        assessment = add_alarms(Assessment(), run, observed)
        assert words(build_status(run, observed, assessment, standing, NOW))["Healthy"] == wanted


ROWS = [
    (snapshot("starting"), RUNNING, "Starting", ("False", "True", "False", "False"), "engines are loading"),
    (snapshot("warmStart"), RUNNING, "WarmStart", ("False", "True", "False", "False"), "supervised stage"),
    (snapshot("training"), RUNNING, "Training", ("True", "True", "False", "False"), "at work"),
    (snapshot("evaluating"), RUNNING, "Evaluating", ("True", "True", "False", "False"), "the last evaluations"),
    (snapshot("stopping"), ("Stopping", "asked"), "Stopping", ("False", "True", "False", "False"), "saving"),
    (
        snapshot("stopping", alive=False),
        ("BackingOff", "later"),
        "BackingOff",
        ("False", "True", "False", "False"),
        "between two attempts",
    ),
    (
        snapshot("finished", alive=False),
        ("Finished", "120 steps"),
        "Finished",
        ("False", "False", "True", "False"),
        "the budget is spent",
    ),
    (
        snapshot("stopping", alive=False),
        ("StoppedByPolicy", "flat"),
        "StoppedByPolicy",
        ("False", "False", "True", "False"),
        "a policy stop is complete and no failure",
    ),
    (
        snapshot("training", alive=False),
        ("RestartsExhausted", "again"),
        "RestartsExhausted",
        ("False", "False", "False", "True"),
        "failed for good",
    ),
    (
        snapshot("training", alive=False),
        ("Interrupted", "Ctrl-C"),
        "Interrupted",
        ("False", "False", "False", "False"),
        "neither complete nor failed",
    ),
]


@pytest.mark.parametrize(("observed", "standing", "state", "truths"), [r[:4] for r in ROWS], ids=[r[4] for r in ROWS])
def test_conditions_say_one_thing(
    make_run: Callable[..., RLRun],
    observed: ObservedState,
    standing: tuple[str, str],
    state: str,
    truths: tuple[str, ...],
) -> None:
    status = build_status(make_run(), observed, Assessment(), standing, NOW)
    found = words(status)
    assert tuple(found[name][0] for name in ("Ready", "Progressing", "Complete", "Failed")) == truths
    assert state_word(status) == state
    assert is_over(status) == (truths[2:] != ("False", "False"))


def test_a_condition_keeps_its_time_until_it_turns(make_run: Callable[..., RLRun]) -> None:
    run = make_run()
    first = build_status(run, snapshot("starting"), Assessment(), RUNNING, NOW)
    run = run.model_copy(update={"status": first})
    second = build_status(run, snapshot("training"), Assessment(), RUNNING, LATER)
    times = {each.type: each.last_transition_time for each in second.conditions}
    assert times["Ready"] == LATER, "it turned from False to True"
    assert times["Progressing"] == NOW, "its reason changed, its truth did not"


def test_the_pass_rate_is_that_of_the_weights_that_went_on(
    make_run: Callable[..., RLRun], point: Callable[..., EvalPoint]
) -> None:
    evals = (point(1), point(2, attempt=2, compute_gpu_hours=0.1, pass_rate=0.5), point(3, pass_rate=0.9))
    found = build_status(make_run(), replace(snapshot(), evals=evals), Assessment(), RUNNING, NOW)
    assert found.progress is not None
    assert found.progress.pass_rate == 0.5


def test_every_condition_is_there_once_the_spec_was_understood(make_run: Callable[..., RLRun]) -> None:
    """As docs/conditions.md says."""
    faults = [Fault("spec.budget.steps", "0", "at least 1")]
    never = describe_invalid(None, 1, faults, NOW)
    assert words(never) == {"Progressing": ("False", "InvalidSpec")}
    first = build_status(make_run(), snapshot("starting"), Assessment(), RUNNING, NOW)
    assert list(words(first)) == list(CONDITIONS)
    later = words(describe_invalid(first, 2, faults, LATER))
    assert set(later) == set(CONDITIONS)
    assert later["Progressing"] == ("False", "InvalidSpec")


def test_roles_count_what_is_at_work(make_run: Callable[..., RLRun]) -> None:
    run = make_run(
        trainer={"gpusPerReplica": 0, "replicas": 2},
        generator={"gpusPerReplica": 0, "minReplicas": 4, "maxReplicas": 4},
    )
    roles = {each.name: each for each in build_status(run, snapshot(), Assessment(), RUNNING, NOW).roles}
    trainer, generator = roles["trainer"], roles["generator"]
    assert (trainer.desired, trainer.ready, trainer.restarts) == (2, 2, 1)
    assert (generator.desired, generator.ready, generator.restarts) == (4, 1, 3)
    dead = build_status(run, snapshot(alive=False), Assessment(), ("BackingOff", ""), NOW)
    assert [each.ready for each in dead.roles] == [0, 0]


def test_progress_has_the_last_held_out_rate_and_nothing_of_a_downstream_set(
    make_run: Callable[..., RLRun], point: Callable[..., EvalPoint]
) -> None:
    evals = (point(0, pass_rate=0.31), point(1, pass_rate=0.37), point(2, pass_rate=0.9, dataset="aime24"))
    observed = ObservedState(snapshot().attempts, progress=snapshot().progress, evals=evals, eta_seconds=77.0)
    progress = build_status(make_run(), observed, Assessment(), RUNNING, NOW).progress
    assert progress is not None
    assert (progress.step, progress.version, progress.pass_rate, progress.eta_seconds) == (40, 39, 0.37, 77.0)


def test_the_data_as_read_and_the_rewards_by_verifier_are_kept_until_the_next_attempt_reports(
    make_run: Callable[..., RLRun],
) -> None:
    source = SourceStatus(path="spec.data.train", rows=7473, bad=2)
    record = StepRecord(
        step=31, time=1.0, attempt=1, compute_gpu_hours=0.5, reward_by_judge={"style": -0.12345}, values={}
    )
    answered = snapshot(latest=record, sources=[source])
    status = build_status(make_run(), answered, Assessment(), RUNNING, NOW)
    assert status.sources == [source]
    assert status.progress is not None
    assert status.progress.reward_by_judge == {"style": -0.123}
    run = make_run().model_copy(update={"status": status})
    assert build_status(run, snapshot("starting"), Assessment(), RUNNING, LATER).sources == [source]


def test_a_coordinator_that_has_not_answered_yet_erases_nothing(make_run: Callable[..., RLRun]) -> None:
    run = make_run()
    saved = Checkpoint(step=35, time=86_400.0, path="ckpt/35")
    spent = {"gpu_seconds": {"trainer": 9.0}, "idle_fraction": {"trainer": 0.25}, "checkpoint": saved}
    first = build_status(run, snapshot(**spent), Assessment(), RUNNING, NOW)
    assert first.checkpoint is not None
    assert (first.checkpoint.step, first.checkpoint.uri) == (35, "ckpt/35")
    assert first.checkpoint.time == datetime(1970, 1, 2, tzinfo=UTC)
    assert first.cost is not None
    assert first.cost.idle_fraction == {"trainer": 0.25}
    silent = ObservedState(snapshot().attempts)
    second = build_status(run.model_copy(update={"status": first}), silent, Assessment(), RUNNING, LATER)
    assert (second.progress, second.checkpoint, second.cost) == (first.progress, first.checkpoint, first.cost)


def test_a_restarted_coordinator_that_lost_a_steps_cost_does_not_make_the_cost_fall(
    make_run: Callable[..., RLRun],
) -> None:
    run = make_run()
    answers = [
        ({"trainer": 100.0, "generator": 300.0}, {"trainer": 100.0, "generator": 300.0}),
        ({"trainer": 90.0, "generator": 310.0}, {"trainer": 100.0, "generator": 310.0}),
        ({"trainer": 120.0}, {"trainer": 120.0, "generator": 310.0}),
    ]
    for spent, known in answers:
        status = build_status(run, snapshot(gpu_seconds=spent), Assessment(), RUNNING, NOW)
        assert status.cost is not None
        assert status.cost.gpu_seconds == known
        run = run.model_copy(update={"status": status})


def test_forecast_and_policy_have_their_conditions(make_run: Callable[..., RLRun]) -> None:
    forecast = ForecastStatus(verdict="Weak", reason="the interval is wide", points=9)
    stop = StopStatus(policy="flat", mode="Observe", reason="little is left")
    status = build_status(make_run(), snapshot(), Assessment(forecast, stop), RUNNING, NOW)
    found = words(status)
    assert found["ForecastReady"] == ("False", "Weak"), "only Identified can be acted on"
    assert found["StopRecommended"] == ("True", "Observe")
    assert found["Complete"][0] == "False"
    none = words(build_status(make_run(), snapshot(), Assessment(), RUNNING, NOW))
    assert none["ForecastReady"] == ("Unknown", "NoPoints")
    assert none["StopRecommended"] == ("False", "NoPolicyHolds")


CEILINGS = [
    (None, "-", "no forecast"),
    ({"verdict": "NotIdentified", "ceiling_low": 0.2}, "NotIdentified", "a refusal is a word and no number"),
    ({"verdict": "Weak", "summary": "0.61 [0.59,0.63]"}, "0.61 [0.59,0.63]", "a number with its interval"),
]


@pytest.mark.parametrize(("values", "text"), [r[:2] for r in CEILINGS], ids=[r[2] for r in CEILINGS])
def test_the_ceiling_in_one_column(values: dict[str, object] | None, text: str) -> None:
    found = ForecastStatus.model_validate({"reason": "", "points": 9, **values}) if values is not None else None
    assert format_ceiling(found) == text


def test_a_run_without_a_status_is_pending() -> None:
    assert state_word(None) == "Pending"
    assert state_word(RLRunStatus()) == "Pending"
    assert not is_over(None)
