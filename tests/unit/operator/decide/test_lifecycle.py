"""Every decision about a run's coordinator, from written-down snapshots."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from scalerl_api import RLRun
from scalerl_api.status import AttemptStatus, EarlierAttempts, StopStatus
from scalerl_api.wire import EvalPoint, Progress, StepVital
from scalerl_operator.decide.lifecycle import Done, Kill, Limits, Start, Terminate, Wait, decide, plan_run
from scalerl_operator.decide.restart_budget import count_failures
from scalerl_operator.decide.watchdog import add_alarms
from scalerl_operator.run.attempts import describe_exit
from scalerl_operator.run.observed import Assessment, ObservedState

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LIMITS = Limits(retries=10, exit_seconds=30, silence_seconds=600)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def running(**values: object) -> AttemptStatus:
    given = {"number": 1, "replicas": 2, "created": ago(110), "started": ago(100)}
    return AttemptStatus.model_validate({**given, **values})


def over(number: int, code: int | None, **values: object) -> AttemptStatus:
    """An attempt that ended just now."""
    given = {"number": number, "replicas": 2, "created": ago(60), "started": ago(50), "ended": NOW, "exit_code": code}
    return AttemptStatus.model_validate({**given, **values})


def termination(reason: str, step: int = 0, error: str = "") -> dict[str, object]:
    return {"said": reason, "step": step, "error": error}


def stop(mode: str) -> Assessment:
    found = {"policy": "flat", "mode": mode, "reason": "the gain left is 0.004"}
    return Assessment(stop=StopStatus.model_validate(found))


def still(seconds: float, entropy: float = 1.0) -> Progress:
    """A coordinator that answers, and whose last step, of some entropy, was so long ago."""
    return Progress(
        run="tiny",
        attempt=1,
        phase="training",
        step=7,
        version=7,
        compute_gpu_hours=0.1,
        vitals=[StepVital(step=7, entropy=entropy, lag=9.0)],
        still_seconds=seconds,
        time=1.0,
    )


@pytest.fixture
def run(make_run: Callable[..., RLRun]) -> RLRun:
    """120 steps, 2 restarts, 300 s to save, 1800 s to start, 7200 s in all; 900 s without a step are too long."""
    deadlines = {"checkpointSeconds": 300, "startSeconds": 1800, "activeSeconds": 7200}
    watchdog = {
        "noStep": {"seconds": 900, "action": "Restart"},
        "entropy": {"below": 0.1, "steps": 1, "action": "Stop"},
        "staleness": {"above": 8, "steps": 1, "action": "Warn"},
    }
    return make_run(failurePolicy={"maxRestarts": 2}, deadlines=deadlines, watchdog=watchdog)


RUNNING_ROWS = [
    (ObservedState((running(),), answered=ago(1)), Assessment(), Wait(), "a healthy run is left alone"),
    (ObservedState((running(),), answered=ago(600)), Assessment(), Wait(), "ten minutes of silence are borne"),
    (ObservedState((running(),), answered=ago(601)), Assessment(), Terminate("Stuck"), "longer silence is not"),
    (ObservedState((running(started=ago(1800)),)), Assessment(), Wait(), "a start has its own deadline"),
    (
        ObservedState((running(started=ago(1801)),)),
        Assessment(),
        Terminate("Stuck"),
        "a start that is over it is ended",
    ),
    (
        ObservedState((running(started=ago(7199)),), answered=NOW),
        Assessment(),
        Wait(),
        "a second before the run's deadline",
    ),
    (
        ObservedState((running(started=ago(7200)),), answered=NOW),
        Assessment(),
        Terminate("DeadlineExceeded"),
        "at the run's deadline",
    ),
    (
        ObservedState(
            (over(1, 1, started=ago(9000), ended=ago(3000)), running(number=2, started=ago(1200))), answered=NOW
        ),
        Assessment(),
        Terminate("DeadlineExceeded"),
        "earlier attempts count for the deadline: 6000 + 1200 s",
    ),
    (
        ObservedState(
            (over(1, 1, started=ago(9000), ended=ago(3000)), running(number=2, started=ago(1199))), answered=NOW
        ),
        Assessment(),
        Wait(),
        "the time between attempts does not: 6000 + 1199 s",
    ),
    (
        ObservedState((running(started=ago(6000)),), watched=ago(1800)),
        Assessment(),
        Wait(),
        "silence before we asked says nothing",
    ),
    (
        ObservedState((running(started=ago(6000)),), watched=ago(1801)),
        Assessment(),
        Terminate("Stuck"),
        "silence since does",
    ),
    (
        ObservedState((running(started=ago(1200)),), answered=NOW, earlier=EarlierAttempts(active_seconds=6000.0)),
        Assessment(),
        Terminate("DeadlineExceeded"),
        "attempts that are no longer listed count for the deadline: 6000 + 1200 s",
    ),
    (
        ObservedState((running(stop_cause="GangBroken", stop_time=ago(30)),), answered=NOW),
        Assessment(),
        Kill("GangBroken"),
        "who has lost a member cannot save, and has exit_seconds only",
    ),
    (
        ObservedState((running(stop_cause="GangBroken", stop_time=ago(1829)),), answered=NOW, members_serve=True),
        Assessment(),
        Wait(NOW + timedelta(seconds=1)),
        "a member that is drained serves until its coordinator has saved: 6 x 300 + 30 s",
    ),
    (
        ObservedState((running(stop_cause="Suspended", stop_time=ago(329)),), answered=NOW, member_ended=True),
        Assessment(),
        Wait(NOW + timedelta(seconds=1)),
        "a member that ended while the run stops leaves one model to write: 300 + 30 s",
    ),
    (
        ObservedState((running(stop_cause="Suspended", stop_time=ago(330)),), answered=NOW, member_ended=True),
        Assessment(),
        Kill("Suspended"),
        "after which a coordinator that waits for the dead member is killed",
    ),
    (
        ObservedState((running(stop_cause="Stuck", stop_time=ago(30)),), members_serve=True),
        Assessment(),
        Kill("Stuck"),
        "that its members serve does not help who is stuck",
    ),
    (
        ObservedState((running(),), progress=still(5), answered=NOW),
        Assessment(),
        Wait(),
        "a warning of the watchdog ends nothing",
    ),
    (
        ObservedState((running(),), progress=still(901), answered=NOW),
        Assessment(),
        Terminate("WatchdogRestart", "NoStep: no step has ended for 900 s; 7 are done"),
        "a coordinator that answers and stands still is asked to save and end",
    ),
    (
        ObservedState((running(),), progress=still(901, entropy=0.05), answered=NOW),
        Assessment(),
        Terminate("WatchdogStop", "EntropyLow: entropy below 0.1 nats, for 1 steps up to step 7"),
        "the gravest rule decides",
    ),
    (
        ObservedState((running(),), progress=still(901), answered=ago(601)),
        Assessment(),
        Terminate("Stuck"),
        "who is silent is stuck",
    ),
    (
        ObservedState((running(),), progress=still(901), answered=NOW),
        stop("Enforce"),
        Terminate("StoppedByPolicy"),
        "a policy goes before the watchdog",
    ),
    (
        ObservedState(
            (running(stop_cause="WatchdogRestart", stop_time=ago(1829)),), progress=still(1300), answered=NOW
        ),
        Assessment(),
        Wait(NOW + timedelta(seconds=1)),
        "whom the watchdog ends may save: 6 x 300 + 30 s",
    ),
    (
        ObservedState((running(stop_cause="PendingDeadline", stop_time=ago(30)),)),
        Assessment(),
        Kill("PendingDeadline"),
        "who has not begun has nothing to save",
    ),
    (ObservedState((running(),), answered=NOW), stop("Enforce"), Terminate("StoppedByPolicy"), "a policy ends the run"),
    (ObservedState((running(),), answered=NOW), stop("Observe"), Wait(), "an observing policy does not"),
    (
        ObservedState((running(),), answered=NOW, interrupts=1),
        Assessment(),
        Terminate("Interrupted"),
        "asked once: save and end",
    ),
    (
        ObservedState((running(),), answered=NOW, interrupts=2),
        Assessment(),
        Kill("Interrupted"),
        "asked twice: end now",
    ),
    (
        ObservedState((running(stop_cause="Interrupted", stop_time=ago(10)),), answered=NOW, interrupts=1),
        Assessment(),
        Wait(ago(10) + timedelta(seconds=1830)),
        "who saves has six times checkpointSeconds, for two checkpoints and models, and exit_seconds",
    ),
    (
        ObservedState((running(stop_cause="StoppedByPolicy", stop_time=ago(1830)),), answered=NOW),
        stop("Enforce"),
        Kill("StoppedByPolicy"),
        "who takes longer is killed",
    ),
    (
        ObservedState((running(stop_cause="Stuck", stop_time=ago(30)),)),
        Assessment(),
        Kill("Stuck"),
        "who is stuck will not save, and has exit_seconds only",
    ),
    (
        ObservedState((running(stop_cause="StoppedByPolicy", stop_time=ago(1)),), interrupts=2),
        Assessment(),
        Kill("StoppedByPolicy"),
        "asked twice while it saves: end now, for the first reason",
    ),
]


@pytest.mark.parametrize(
    ("observed", "assessment", "action"), [r[:3] for r in RUNNING_ROWS], ids=[r[3] for r in RUNNING_ROWS]
)
def test_while_the_coordinator_runs(
    run: RLRun, observed: ObservedState, assessment: Assessment, action: object
) -> None:
    assert decide(run, observed, add_alarms(assessment, run, observed), NOW, LIMITS) == action


EXIT_ROWS = [
    (
        ObservedState((over(1, 0, **termination("Finished", 120)),)),
        Assessment(),
        "Finished",
        "it says that it finished",
    ),
    (
        ObservedState((over(1, 0, **termination("AllPromptsSolved", 70)),)),
        Assessment(),
        "AllPromptsSolved",
        "no prompt is left to train on, long before the budget is spent",
    ),
    (
        ObservedState((over(1, 0, **termination("AllPromptsSolved", 70)),), first_attempt=2),
        Assessment(),
        "AllPromptsSolved",
        "a resumed run has no prompt either",
    ),
    (
        ObservedState((over(1, 64, **termination("Invalid")),)),
        Assessment(),
        "InvalidSpec",
        "a wrong spec is never tried again",
    ),
    (
        ObservedState((over(1, 1), over(2, 1), over(3, 1))),
        Assessment(),
        "RestartsExhausted",
        "three failures, two restarts",
    ),
    (
        ObservedState((over(1, 137), over(2, 139), over(3, 1))),
        Assessment(),
        "RestartsExhausted",
        "signals are failures too",
    ),
    (
        ObservedState(tuple(over(n, 75) for n in range(1, 12))),
        Assessment(),
        "RetriesExhausted",
        "eleven tries of the surroundings, ten allowed",
    ),
    (
        ObservedState((over(1, 0, **termination("Stopped")),), interrupts=1),
        Assessment(),
        "Interrupted",
        "ended on request",
    ),
    (
        ObservedState((over(1, 1),), interrupts=1),
        Assessment(),
        "Interrupted",
        "it crashed while it was asked: no new start",
    ),
    (
        ObservedState((over(1, 42, rule="data", ruled="FailRun"),)),
        Assessment(),
        "FailedByRule",
        "a user's rule ends it",
    ),
    (
        ObservedState((over(1, 42, rule="data", ruled="FailRun"),)),
        stop("Enforce"),
        "FailedByRule",
        "a failure that a rule names is no success of a policy",
    ),
    (ObservedState((over(1, 0, stop_cause="WatchdogStop"),)), Assessment(), "StoppedByWatchdog", "it saved and ended"),
    (
        ObservedState((over(1, 137, stop_cause="WatchdogStop"),)),
        Assessment(),
        "StoppedByWatchdog",
        "it was killed after its grace",
    ),
    (
        ObservedState(tuple(over(n, 65) for n in range(1, 4))),
        Assessment(),
        "RestartsExhausted",
        "NaN at the same step again and again: three failures, two restarts",
    ),
    (
        ObservedState(tuple(over(n, 1, rule="net", ruled="Ignore") for n in range(1, 12))),
        Assessment(),
        "RetriesExhausted",
        "what a rule ignores is tried ten times without a new checkpoint, not for ever",
    ),
    (
        ObservedState(tuple(over(n, 75, rule="net", ruled="Count") for n in range(1, 4))),
        Assessment(),
        "RestartsExhausted",
        "what a rule counts costs a restart, whatever it was",
    ),
    (
        ObservedState((over(1, 0, **termination("Stopped"), stop_cause="StoppedByPolicy"),)),
        stop("Enforce"),
        "StoppedByPolicy",
        "a policy ended it",
    ),
    (
        ObservedState((over(1, 0, **termination("Stopped"), stop_cause="StoppedByPolicy"),)),
        Assessment(),
        "StoppedByPolicy",
        "a last evaluation under way does not undo the stop",
    ),
    (
        ObservedState((over(1, 137, stop_cause="StoppedByPolicy"),)),
        stop("Enforce"),
        "StoppedByPolicy",
        "killed after its grace",
    ),
    (
        ObservedState((over(1, 1, started=ago(7200)),)),
        Assessment(),
        "DeadlineExceeded",
        "no restart past the run's deadline",
    ),
    (
        ObservedState((over(1, 0, **termination("Finished", 120)),), interrupts=1),
        Assessment(),
        "Finished",
        "it was quicker",
    ),
]


@pytest.mark.parametrize(
    ("observed", "assessment", "outcome"), [r[:3] for r in EXIT_ROWS], ids=[r[3] for r in EXIT_ROWS]
)
def test_after_an_exit_that_ends_the_run(
    run: RLRun, observed: ObservedState, assessment: Assessment, outcome: str
) -> None:
    action = decide(run, observed, add_alarms(assessment, run, observed), NOW, LIMITS)
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
    ((over(1, 0, **termination("Stopped")),), Wait(NOW + timedelta(seconds=10)), "stopped by somebody else: again"),
    ((over(1, 1), over(2, 75), over(3, 1)), Wait(NOW + timedelta(seconds=10)), "a retry between costs no restart"),
    (
        (over(1, 1), over(2, 1, checkpoint_step=50), over(3, 1, checkpoint_step=50)),
        Wait(NOW + timedelta(seconds=10)),
        "a new checkpoint restores the budget: two failures, not three",
    ),
    ((over(1, 0, stop_cause="Stuck"),), Start(2), "a stuck coordinator that obeys is a failure"),
    (
        tuple(over(n, 137, infrastructure=True) for n in range(1, 5)),
        Wait(NOW + timedelta(seconds=80)),
        "four lost nodes cost no restart, though two are allowed; 10, 20, 40, 80 s",
    ),
    (
        (over(1, 0, infrastructure=True),),
        Wait(NOW + timedelta(seconds=10)),
        "an evicted coordinator that left no word has not finished",
    ),
    ((over(1, 137, stop_cause="GangBroken"),), Start(2), "a member that was killed is a failure of the run"),
    ((over(1, 0, stop_cause="WatchdogRestart"),), Start(2), "whom the watchdog ended is a failure, and a first one"),
    (
        (over(1, 0, stop_cause="WatchdogRestart"), over(2, 75, stop_cause="WatchdogRestart")),
        Wait(NOW + timedelta(seconds=10)),
        "and a second one, whatever its coordinator says",
    ),
    (
        (over(1, 137, stop_cause="Stuck", infrastructure=True),),
        Wait(NOW + timedelta(seconds=10)),
        "silent since its node was lost: no failure of the run",
    ),
    (
        (over(1, None, stop_cause="PendingDeadline"),),
        Wait(NOW + timedelta(seconds=10)),
        "pods that did not begin cost no restart",
    ),
    (
        (over(1, 1), over(2, 1), over(3, 1, rule="net", ruled="Ignore")),
        Wait(NOW + timedelta(seconds=10)),
        "what a rule ignores costs no restart: two failures, two allowed",
    ),
    (
        (over(1, 1, rule="net", ruled="Ignore"), over(2, 139, rule="net", ruled="Ignore")),
        Wait(NOW + timedelta(seconds=20)),
        "and waits like a retry: 10, 20 s",
    ),
    ((over(1, 75, rule="net", ruled="Count"),), Start(2), "what a rule counts is a failure: the first at once"),
    (
        (over(1, 137, infrastructure=True, rule="spot", ruled="Count"), over(2, 1)),
        Wait(NOW + timedelta(seconds=10)),
        "an eviction that a rule counts is one",
    ),
    (
        (over(1, 1), over(2, 0, stop_cause="Suspended", **termination("Stopped"))),
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
def test_after_an_exit_that_does_not(run: RLRun, attempts: tuple[AttemptStatus, ...], action: object) -> None:
    assert decide(run, ObservedState(attempts), Assessment(), NOW, LIMITS) == action


def test_a_suspended_run_saves_and_is_not_over(make_run: Callable[..., RLRun]) -> None:
    run = make_run(suspend=True)
    assert decide(run, ObservedState((running(),), answered=NOW), Assessment(), NOW, LIMITS) == Terminate("Suspended")
    ended = ObservedState((over(1, 0, **termination("Stopped"), stop_cause="Suspended"),))
    conditions = {each.type: each for each in plan_run(run, ended, Assessment(), NOW).status.conditions}
    assert {kind: conditions[kind].status for kind in ("Suspended", "Progressing", "Complete", "Failed")} == {
        "Suspended": "True",
        "Progressing": "False",
        "Complete": "False",
        "Failed": "False",
    }


def test_failures_that_are_no_longer_listed_count() -> None:
    earlier = EarlierAttempts(failures=2, retries=1, checkpoint_step=40)
    assert count_failures(ObservedState((over(7, 1, checkpoint_step=40),), earlier=earlier)) == (3, 1)
    assert count_failures(ObservedState((over(7, 1, checkpoint_step=50),), earlier=earlier)) == (1, 0)


def test_a_checkpoint_of_the_watchdogs_making_restores_the_budget_only_with_real_progress() -> None:
    """Attempt after attempt makes 49 steps and stands still: of 50 that count as progress."""
    ends = tuple(over(n, 0, stop_cause="WatchdogRestart", checkpoint_step=49 * n) for n in range(1, 5))
    assert count_failures(ObservedState(ends), every_steps=50) == (4, 0)
    assert count_failures(ObservedState(ends), every_steps=49) == (1, 0)
    assert count_failures(ObservedState((*ends, over(5, 1, checkpoint_step=197))), every_steps=50) == (1, 0), (
        "196 was known"
    )
    assert count_failures(ObservedState((*ends, over(5, 1, checkpoint_step=196))), every_steps=50) == (5, 0)


def test_the_watchdog_counts_by_the_runs_own_checkpoints(make_run: Callable[..., RLRun]) -> None:
    ends = tuple(over(n, 0, stop_cause="WatchdogRestart", checkpoint_step=49 * n) for n in (1, 2))
    often, seldom = (make_run(failurePolicy={"maxRestarts": 1}, checkpoint={"everySteps": steps}) for steps in (49, 50))
    assert decide(often, ObservedState(ends), Assessment(), NOW, LIMITS) == Start(3)
    assert isinstance(decide(seldom, ObservedState(ends), Assessment(), NOW, LIMITS), Done)


def test_the_backoff_is_the_runs_own(make_run: Callable[..., RLRun]) -> None:
    run = make_run(failurePolicy={"maxRestarts": 9, "backoffSeconds": 7, "backoffMaxSeconds": 20})
    for failures, seconds in ((1, 0), (2, 7), (3, 14), (4, 20), (5, 20)):
        observed = ObservedState(tuple(over(n, 1) for n in range(1, failures + 1)))
        due = NOW + timedelta(seconds=seconds)
        wanted = Wait(due) if seconds else Start(failures + 1)
        assert decide(run, observed, Assessment(), NOW, LIMITS) == wanted
    assert decide(run, ObservedState((over(1, 75),)), Assessment(), NOW, LIMITS) == Wait(NOW + timedelta(seconds=7))


@pytest.mark.parametrize(("action", "wanted"), [("Stop", "StoppedByWatchdog"), ("Restart", None), ("Warn", None)])
def test_numbers_that_are_none(make_run: Callable[..., RLRun], action: str, wanted: str | None) -> None:
    run = make_run(watchdog={"nonFinite": {"action": action}})
    observed = ObservedState((over(1, 65, **termination("Failed", 56, "NonFinite: step 57: loss is nan")),))
    found = decide(run, observed, Assessment(), NOW, LIMITS)
    if wanted is None:
        assert found == Start(2)
    else:
        assert found == Done("StoppedByWatchdog", "NonFinite: step 57: loss is nan")


def test_the_end_of_an_attempt_is_described_with_its_evidence_and_its_rule() -> None:
    asked = over(3, 0, stop_cause="WatchdogRestart", stop_message="NoStep: no step has ended for 900 s; 7 are done")
    assert describe_exit(asked) == (
        "attempt 3 was ended by the watchdog: NoStep: no step has ended for 900 s; 7 are done"
    )
    ruled = over(4, 42, error="bad shard", rule="data", ruled="FailRun")
    assert describe_exit(ruled) == "attempt 4 ended with exit code 42: bad shard (rule data: FailRun)"
    waited = over(5, None, stop_cause="PendingDeadline", stop_message="1 of 2 trainer pods run")
    assert describe_exit(waited) == "attempt 5 did not begin in time and was ended: 1 of 2 trainer pods run"


def test_the_status_says_why_it_is_asked_to_end(run: RLRun) -> None:
    observed = ObservedState((running(),), progress=still(901), answered=NOW)
    conditions = {each.type: each for each in plan_run(run, observed, Assessment(), NOW, LIMITS).status.conditions}
    assert conditions["Progressing"].reason == "Stopping"
    assert conditions["Progressing"].message == (
        "asked to end: WatchdogRestart (NoStep: no step has ended for 900 s; 7 are done)"
    )
    assert (conditions["Healthy"].status, conditions["Healthy"].reason) == ("False", "NoStep")


def test_failures_of_an_earlier_invocation_are_forgiven() -> None:
    attempts = (over(1, 1), over(2, 1, checkpoint_step=40), over(3, 1, checkpoint_step=40))
    assert count_failures(ObservedState(attempts, first_attempt=3)) == (1, 0)
    # Attempt 2 made the checkpoint, so the count begins with its own end.
    assert count_failures(ObservedState(attempts)) == (2, 0)


BEFORE_ROWS = [
    ((), 0.0, Start(1), "the first start"),
    ((over(1, 1),), 0.0, Start(2), "resumed after a crash"),
    ((over(1, None),), 0.0, Start(2), "resumed after the driver was killed"),
    ((over(1, 0, **termination("Stopped", 30)),), 0.3, Start(2), "resumed after Ctrl-C"),
    ((over(1, 0, **termination("Finished", 80)),), 0.8, Start(2), "finished, but the budget is larger now"),
]


@pytest.mark.parametrize(("attempts", "hours", "action"), [r[:3] for r in BEFORE_ROWS], ids=[r[3] for r in BEFORE_ROWS])
def test_before_a_start(
    run: RLRun, point: Callable[..., EvalPoint], attempts: tuple[AttemptStatus, ...], hours: float, action: object
) -> None:
    observed = ObservedState(attempts, first_attempt=len(attempts) + 1, evals=(point(1, compute_gpu_hours=hours),))
    assert decide(run, observed, Assessment(), NOW, LIMITS) == action


def test_a_finished_run_is_not_started_again(make_run: Callable[..., RLRun], point: Callable[..., EvalPoint]) -> None:
    by_steps = ObservedState((over(1, 0, **termination("Finished", 120)),), first_attempt=2)
    action = decide(make_run(), by_steps, Assessment(), NOW, LIMITS)
    assert action == Done("Finished", "budget spent at step 120")
    by_hours = ObservedState(
        (over(1, 0, **termination("Finished", 70)),), first_attempt=2, evals=(point(7, compute_gpu_hours=0.5),)
    )
    run = make_run(budget={"steps": 120, "evalEverySteps": 10, "gpuHours": 0.5})
    assert decide(run, by_hours, Assessment(), NOW, LIMITS) == Done("Finished", "budget spent at step 70")


def test_a_policy_that_holds_forbids_a_start(run: RLRun) -> None:
    action = decide(run, ObservedState((over(1, 0),), first_attempt=2), stop("Enforce"), NOW, LIMITS)
    assert action == Done("StoppedByPolicy", "policy flat: the gain left is 0.004")


def test_deciding_twice_changes_nothing(run: RLRun) -> None:
    observed = ObservedState((running(),), answered=ago(1))
    first = plan_run(run, observed, Assessment(), NOW)
    again = plan_run(run.model_copy(update={"status": first.status}), observed, Assessment(), NOW)
    assert again == first


def test_the_status_says_why_it_waits(run: RLRun) -> None:
    observed = ObservedState((over(1, 1, **termination("Failed", 30, "out of memory")), over(2, 1)))
    conditions = {each.type: each for each in plan_run(run, observed, Assessment(), NOW).status.conditions}
    assert conditions["Progressing"].reason == "BackingOff"
    assert conditions["Progressing"].message == "attempt 2 ended with exit code 1; next try at 12:00:10"


def test_a_finished_run_says_where(run: RLRun) -> None:
    action = decide(run, ObservedState((over(1, 0, **termination("Finished", 97)),)), Assessment(), NOW, LIMITS)
    assert action == Done("Finished", "budget spent at step 97"), "gpuHours may end it before the last step"


def test_exit_code_0_without_a_word_is_the_end_only_if_nobody_asked(run: RLRun) -> None:
    assert isinstance(decide(run, ObservedState((over(1, 0),)), Assessment(), NOW, LIMITS), Done)
    asked = over(1, 0, stop_cause="DeadlineExceeded")
    assert decide(run, ObservedState((asked,)), Assessment(), NOW, LIMITS) == Wait(NOW + timedelta(seconds=10))
