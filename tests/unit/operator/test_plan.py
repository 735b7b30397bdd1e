"""Every decision about a run's leader, from written-down sights."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from scalerl_api import RLRun
from scalerl_api.status import StopStatus
from scalerl_api.wire import EvalPoint, Termination
from scalerl_operator.plan import Done, Kill, Limits, Start, Terminate, Wait, count_failures, decide, plan_run
from scalerl_operator.seen import Attempt, Earlier, Judged, Seen

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LIMITS = Limits(backoff_seconds=10, backoff_max_seconds=600, retries=10, exit_seconds=30, silence_seconds=600)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def running(**values: object) -> Attempt:
    return Attempt.model_validate({"number": 1, "started": ago(100), **values})


def over(number: int, code: int | None, **values: object) -> Attempt:
    """An attempt that ended just now."""
    given = {"number": number, "started": ago(50), "ended": NOW, "exit_code": code}
    return Attempt.model_validate({**given, **values})


def told(reason: str, step: int = 0, error: str = "") -> Termination:
    return Termination.model_validate({"reason": reason, "step": step, "error": error})


def stop(mode: str) -> Judged:
    found = {"policy": "flat", "mode": mode, "reason": "the gain left is 0.004"}
    return Judged(stop=StopStatus.model_validate(found))


@pytest.fixture
def run(make_run: Callable[..., RLRun]) -> RLRun:
    """120 steps, 2 restarts, 300 s to save, 1800 s to start, 7200 s in all."""
    deadlines = {"checkpointSeconds": 300, "startSeconds": 1800, "activeSeconds": 7200}
    return make_run(failurePolicy={"maxRestarts": 2}, deadlines=deadlines)


RUNNING_ROWS = [
    (Seen((running(),), heard=ago(1)), Judged(), Wait(), "a healthy run is left alone"),
    (Seen((running(),), heard=ago(600)), Judged(), Wait(), "ten minutes of silence are borne"),
    (Seen((running(),), heard=ago(601)), Judged(), Terminate("Stuck"), "longer silence is not"),
    (Seen((running(started=ago(1800)),)), Judged(), Wait(), "a start has its own deadline"),
    (Seen((running(started=ago(1801)),)), Judged(), Terminate("Stuck"), "a start that is over it is ended"),
    (Seen((running(started=ago(7199)),), heard=NOW), Judged(), Wait(), "a second before the run's deadline"),
    (Seen((running(started=ago(7200)),), heard=NOW), Judged(), Terminate("DeadlineExceeded"), "at the run's deadline"),
    (
        Seen((over(1, 1, started=ago(9000), ended=ago(3000)), running(number=2, started=ago(1200))), heard=NOW),
        Judged(),
        Terminate("DeadlineExceeded"),
        "earlier attempts count for the deadline: 6000 + 1200 s",
    ),
    (
        Seen((over(1, 1, started=ago(9000), ended=ago(3000)), running(number=2, started=ago(1199))), heard=NOW),
        Judged(),
        Wait(),
        "the time between attempts does not: 6000 + 1199 s",
    ),
    (Seen((running(started=ago(6000)),), watched=ago(1800)), Judged(), Wait(), "silence before we asked says nothing"),
    (Seen((running(started=ago(6000)),), watched=ago(1801)), Judged(), Terminate("Stuck"), "silence since does"),
    (
        Seen((running(started=ago(1200)),), heard=NOW, earlier=Earlier(active_seconds=6000.0)),
        Judged(),
        Terminate("DeadlineExceeded"),
        "attempts that are no longer listed count for the deadline: 6000 + 1200 s",
    ),
    (
        Seen((running(stop_cause="GangBroken", stop_time=ago(30)),), heard=NOW),
        Judged(),
        Kill("GangBroken"),
        "who has lost a member cannot save, and has exit_seconds only",
    ),
    (Seen((running(),), heard=NOW), stop("Enforce"), Terminate("StoppedByPolicy"), "a policy ends the run"),
    (Seen((running(),), heard=NOW), stop("Observe"), Wait(), "an observing policy does not"),
    (Seen((running(),), heard=NOW, interrupts=1), Judged(), Terminate("Interrupted"), "asked once: save and end"),
    (Seen((running(),), heard=NOW, interrupts=2), Judged(), Kill("Interrupted"), "asked twice: end now"),
    (
        Seen((running(stop_cause="Interrupted", stop_time=ago(10)),), heard=NOW, interrupts=1),
        Judged(),
        Wait(ago(10) + timedelta(seconds=330)),
        "who saves has checkpointSeconds and exit_seconds",
    ),
    (
        Seen((running(stop_cause="StoppedByPolicy", stop_time=ago(330)),), heard=NOW),
        stop("Enforce"),
        Kill("StoppedByPolicy"),
        "who takes longer is killed",
    ),
    (
        Seen((running(stop_cause="Stuck", stop_time=ago(30)),)),
        Judged(),
        Kill("Stuck"),
        "who is stuck will not save, and has exit_seconds only",
    ),
    (
        Seen((running(stop_cause="StoppedByPolicy", stop_time=ago(1)),), interrupts=2),
        Judged(),
        Kill("StoppedByPolicy"),
        "asked twice while it saves: end now, for the first reason",
    ),
]


@pytest.mark.parametrize(("seen", "judged", "action"), [r[:3] for r in RUNNING_ROWS], ids=[r[3] for r in RUNNING_ROWS])
def test_while_the_leader_runs(run: RLRun, seen: Seen, judged: Judged, action: object) -> None:
    assert decide(run, seen, judged, NOW, LIMITS) == action


EXIT_ROWS = [
    (Seen((over(1, 0, termination=told("Finished", 120)),)), Judged(), "Finished", "it says that it finished"),
    (Seen((over(1, 64, termination=told("Invalid")),)), Judged(), "Invalid", "a wrong spec is never tried again"),
    (Seen((over(1, 1), over(2, 1), over(3, 1))), Judged(), "RestartsExhausted", "three failures, two restarts"),
    (Seen((over(1, 137), over(2, 139), over(3, 1))), Judged(), "RestartsExhausted", "signals are failures too"),
    (
        Seen(tuple(over(n, 75) for n in range(1, 12))),
        Judged(),
        "RetriesExhausted",
        "eleven tries of the surroundings, ten allowed",
    ),
    (Seen((over(1, 0, termination=told("Stopped")),), interrupts=1), Judged(), "Interrupted", "ended on request"),
    (Seen((over(1, 1),), interrupts=1), Judged(), "Interrupted", "it crashed while it was asked: no new start"),
    (
        Seen((over(1, 0, termination=told("Stopped"), stop_cause="StoppedByPolicy"),)),
        stop("Enforce"),
        "StoppedByPolicy",
        "a policy ended it",
    ),
    (
        Seen((over(1, 0, termination=told("Stopped"), stop_cause="StoppedByPolicy"),)),
        Judged(),
        "StoppedByPolicy",
        "a last evaluation under way does not undo the stop",
    ),
    (Seen((over(1, 137, stop_cause="StoppedByPolicy"),)), stop("Enforce"), "StoppedByPolicy", "killed after its grace"),
    (Seen((over(1, 1, started=ago(7200)),)), Judged(), "DeadlineExceeded", "no restart past the run's deadline"),
    (Seen((over(1, 0, termination=told("Finished", 120)),), interrupts=1), Judged(), "Finished", "it was quicker"),
]


@pytest.mark.parametrize(("seen", "judged", "outcome"), [r[:3] for r in EXIT_ROWS], ids=[r[3] for r in EXIT_ROWS])
def test_after_an_exit_that_ends_the_run(run: RLRun, seen: Seen, judged: Judged, outcome: str) -> None:
    action = decide(run, seen, judged, NOW, LIMITS)
    assert isinstance(action, Done)
    assert action.outcome == outcome


AGAIN_ROWS = [
    ((over(1, 1),), Start(2), "the first failure is tried again at once"),
    ((over(1, 1), over(2, 1)), Wait(NOW + timedelta(seconds=10)), "the second after 10 s"),
    ((over(1, 1), over(2, 1, ended=ago(10))), Start(3), "which have passed"),
    ((over(1, 75),), Wait(NOW + timedelta(seconds=10)), "the surroundings need time from the first"),
    ((over(1, 75), over(2, 75), over(3, 75)), Wait(NOW + timedelta(seconds=40)), "10, 20, 40 s"),
    (tuple(over(n, 75) for n in range(1, 9)), Wait(NOW + timedelta(seconds=600)), "1280 s are cut to 600 s"),
    (tuple(over(n, 75) for n in range(1, 11)), Wait(NOW + timedelta(seconds=600)), "ten tries are allowed"),
    ((over(1, 0, termination=told("Stopped")),), Wait(NOW + timedelta(seconds=10)), "stopped by somebody else: again"),
    ((over(1, 1), over(2, 75), over(3, 1)), Wait(NOW + timedelta(seconds=10)), "a retry between costs no restart"),
    (
        (over(1, 1), over(2, 1, checkpoint_step=50), over(3, 1, checkpoint_step=50)),
        Wait(NOW + timedelta(seconds=10)),
        "a new checkpoint restores the budget: two failures, not three",
    ),
    ((over(1, 0, stop_cause="Stuck"),), Start(2), "a stuck leader that obeys is a failure"),
    (
        tuple(over(n, 137, infrastructure=True) for n in range(1, 5)),
        Wait(NOW + timedelta(seconds=80)),
        "four lost nodes cost no restart, though two are allowed; 10, 20, 40, 80 s",
    ),
    (
        (over(1, 0, infrastructure=True),),
        Wait(NOW + timedelta(seconds=10)),
        "an evicted leader that left no word has not finished",
    ),
    ((over(1, 137, stop_cause="GangBroken"),), Start(2), "a member that was killed is a failure of the run"),
    (
        (over(1, 1), over(2, 0, stop_cause="Suspended", termination=told("Stopped"))),
        Start(3),
        "resumed: at once, whatever failed before",
    ),
    (
        (over(1, 1), over(2, 1), over(3, 1, stop_cause="Suspended"), over(4, 75)),
        Wait(NOW + timedelta(seconds=10)),
        "a suspended attempt counts as nothing: two failures, two allowed, and one retry",
    ),
]


@pytest.mark.parametrize(("attempts", "action"), [r[:2] for r in AGAIN_ROWS], ids=[r[2] for r in AGAIN_ROWS])
def test_after_an_exit_that_does_not(run: RLRun, attempts: tuple[Attempt, ...], action: object) -> None:
    assert decide(run, Seen(attempts), Judged(), NOW, LIMITS) == action


def test_a_suspended_run_saves_and_is_not_over(make_run: Callable[..., RLRun]) -> None:
    run = make_run(suspend=True)
    assert decide(run, Seen((running(),), heard=NOW), Judged(), NOW, LIMITS) == Terminate("Suspended")
    ended = Seen((over(1, 0, termination=told("Stopped"), stop_cause="Suspended"),))
    conditions = {each.type: each for each in plan_run(run, ended, Judged(), NOW).status.conditions}
    assert {kind: conditions[kind].status for kind in ("Suspended", "Progressing", "Complete", "Failed")} == {
        "Suspended": "True",
        "Progressing": "False",
        "Complete": "False",
        "Failed": "False",
    }


def test_failures_that_are_no_longer_listed_count() -> None:
    earlier = Earlier(failures=2, retries=1, checkpoint_step=40)
    assert count_failures(Seen((over(7, 1, checkpoint_step=40),), earlier=earlier)) == (3, 1)
    assert count_failures(Seen((over(7, 1, checkpoint_step=50),), earlier=earlier)) == (1, 0)


def test_failures_of_an_earlier_invocation_are_forgiven() -> None:
    attempts = (over(1, 1), over(2, 1, checkpoint_step=40), over(3, 1, checkpoint_step=40))
    assert count_failures(Seen(attempts, first_attempt=3)) == (1, 0)
    # Attempt 2 made the checkpoint, so the count begins with its own end.
    assert count_failures(Seen(attempts)) == (2, 0)


BEFORE_ROWS = [
    ((), 0.0, Start(1), "the first start"),
    ((over(1, 1),), 0.0, Start(2), "resumed after a crash"),
    ((over(1, None),), 0.0, Start(2), "resumed after the driver was killed"),
    ((over(1, 0, termination=told("Stopped", 30)),), 0.3, Start(2), "resumed after Ctrl-C"),
    ((over(1, 0, termination=told("Finished", 80)),), 0.8, Start(2), "finished, but the budget is larger now"),
]


@pytest.mark.parametrize(("attempts", "hours", "action"), [r[:3] for r in BEFORE_ROWS], ids=[r[3] for r in BEFORE_ROWS])
def test_before_a_start(
    run: RLRun, point: Callable[..., EvalPoint], attempts: tuple[Attempt, ...], hours: float, action: object
) -> None:
    seen = Seen(attempts, first_attempt=len(attempts) + 1, evals=(point(1, compute_gpu_hours=hours),))
    assert decide(run, seen, Judged(), NOW, LIMITS) == action


def test_a_finished_run_is_not_started_again(make_run: Callable[..., RLRun], point: Callable[..., EvalPoint]) -> None:
    by_steps = Seen((over(1, 0, termination=told("Finished", 120)),), first_attempt=2)
    action = decide(make_run(), by_steps, Judged(), NOW, LIMITS)
    assert action == Done("Finished", "budget spent at step 120")
    by_hours = Seen(
        (over(1, 0, termination=told("Finished", 70)),), first_attempt=2, evals=(point(7, compute_gpu_hours=0.5),)
    )
    run = make_run(budget={"steps": 120, "evalEverySteps": 10, "gpuHours": 0.5})
    assert decide(run, by_hours, Judged(), NOW, LIMITS) == Done("Finished", "budget spent at step 70")


def test_a_policy_that_holds_forbids_a_start(run: RLRun) -> None:
    action = decide(run, Seen((over(1, 0),), first_attempt=2), stop("Enforce"), NOW, LIMITS)
    assert action == Done("StoppedByPolicy", "policy flat: the gain left is 0.004")


def test_deciding_twice_changes_nothing(run: RLRun) -> None:
    seen = Seen((running(),), heard=ago(1))
    first = plan_run(run, seen, Judged(), NOW)
    again = plan_run(run.model_copy(update={"status": first.status}), seen, Judged(), NOW)
    assert again == first


def test_the_status_says_why_it_waits(run: RLRun) -> None:
    seen = Seen((over(1, 1, termination=told("Failed", 30, "out of memory")), over(2, 1)))
    conditions = {each.type: each for each in plan_run(run, seen, Judged(), NOW).status.conditions}
    assert conditions["Progressing"].reason == "BackingOff"
    assert conditions["Progressing"].message == "attempt 2 ended with exit code 1; next try at 12:00:10"


def test_a_finished_run_says_where(run: RLRun) -> None:
    action = decide(run, Seen((over(1, 0, termination=told("Finished", 97)),)), Judged(), NOW, LIMITS)
    assert action == Done("Finished", "budget spent at step 97"), "gpuHours may end it before the last step"


def test_exit_code_0_without_a_word_is_the_end_only_if_nobody_asked(run: RLRun) -> None:
    assert isinstance(decide(run, Seen((over(1, 0),)), Judged(), NOW, LIMITS), Done)
    asked = over(1, 0, stop_cause="DeadlineExceeded")
    assert decide(run, Seen((asked,)), Judged(), NOW, LIMITS) == Wait(NOW + timedelta(seconds=10))
