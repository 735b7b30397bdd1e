"""Every decision about a run's pods, from written-down snapshots."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from scalerl_api import RLRun, RLRunStatus
from scalerl_api.status import AttemptStatus, StopStatus
from scalerl_api.wire import EXIT_UNFIT, EvalPoint, Progress, Termination, UnfitNode
from scalerl_operator.decide.lifecycle import Limits
from scalerl_operator.reconcile.excluded_nodes import update_excluded
from scalerl_operator.reconcile.observed_pod import ObservedPod
from scalerl_operator.reconcile.observed_run import ObservedRun
from scalerl_operator.reconcile.pod_changes import Change, Create, Delete
from scalerl_operator.reconcile.pod_plan import PodPlan, plan_pods
from scalerl_operator.reconcile.snapshot import PollResult, Snapshot
from scalerl_operator.resources.names import PodRole
from scalerl_operator.run.observed import Assessment
from scalerl_operator.run.state import state_word

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
LIMITS = Limits(retries=10, exit_seconds=30, silence_seconds=600)
Changes = tuple[Change, ...]


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def pod(place: str, attempt: int | None = 4, **values: Any) -> ObservedPod:
    """A pod that runs since 500 s, as `trainer-0` or `generator-2`."""
    role, index = place.split("-")
    given = {"phase": "Running", "ready": True, "ip": "10.9.8.7", "created": ago(510), "started": ago(500), **values}
    where: Any = role
    return ObservedPod(
        run=("research", "tiny"),
        name=f"tiny-{place}",
        uid=f"uid-{place}",
        owner="5e7a",
        version=77,
        pod_role=PodRole(where, int(index)),
        attempt=attempt if role == "trainer" else None,
        **given,
    )


def ended(place: str, code: int, attempt: int = 4, **values: Any) -> ObservedPod:
    return pod(place, attempt, **{"phase": "Succeeded" if code == 0 else "Failed", "exit_code": code, **values})


def attempt(number: int = 4, **values: Any) -> AttemptStatus:
    given = {"replicas": 2, "created": ago(510), "started": ago(500), "seen": True, **values}
    return AttemptStatus.model_validate({"number": number, **given})


FRESH = attempt(started=None, seen=False)
GENERATORS = (pod("generator-0"), pod("generator-1"), pod("generator-2"))
ALL = (pod("trainer-0"), pod("trainer-1"), *GENERATORS)
ANSWERED = PollResult(
    watched=ago(490),
    polled=True,
    attempt=4,
    answered=ago(2),
    progress=Progress(
        run="tiny", attempt=4, phase="training", step=31, version=30, compute_gpu_hours=2.5, time=NOW.timestamp()
    ),
)


@pytest.fixture
def snapshot(make_run: Callable[..., RLRun]) -> Callable[..., Snapshot]:
    """A snapshot of a run with two trainers, three generators and 300 s to save."""

    def make(
        pods: Sequence[ObservedPod] = ALL,
        attempts: Sequence[AttemptStatus] = (attempt(),),
        poll: PollResult = ANSWERED,
        **spec: Any,
    ) -> Snapshot:
        given = {
            "trainer": {"replicas": 2, "gpusPerReplica": 0},
            "generator": {"minReplicas": 3, "maxReplicas": 3, "gpusPerReplica": 0},
            "deadlines": {"checkpointSeconds": 300, "startSeconds": 1700},
            "failurePolicy": {"maxRestarts": 1},
        }
        run = make_run(**{**given, **spec})
        stored_run = ObservedRun(
            key=("research", "tiny"),
            uid="5e7a",
            version=900,
            generation=6,
            managed_by=run.spec.managed_by,
            deleting=False,
            annotations={},
            document={},
            run=run,
            status=RLRunStatus(attempts=list(attempts)) if attempts else None,
        )
        return Snapshot(stored_run, tuple(pods), poll)

    return make


def create(*places: str, number: int = 4, replicas: int | None = None) -> Changes:
    found = [place.split("-") for place in places]
    roles: Any = [(role, int(index)) for role, index in found]
    return tuple(Create(PodRole(role, index), number, replicas if role == "trainer" else None) for role, index in roles)


def delete(*places: str, now: bool = False) -> Changes:
    return tuple(Delete(f"tiny-{place}", f"uid-{place}", now) for place in places)


def stopped(mode: str) -> PollResult:
    found = {"policy": "flat", "mode": mode, "reason": "the gain left is 0.004"}
    return replace(ANSWERED, assessment=Assessment(stop=StopStatus.model_validate(found)))


COORDINATOR_GONE = (pod("trainer-1"), *GENERATORS)
FULL = "Unschedulable: 0/2 nodes are available"
WAITING = (pod("trainer-0"), pod("trainer-1", phase="Pending", started=None, unscheduled=FULL), *GENERATORS)
STILL = replace(
    ANSWERED, progress=ANSWERED.progress.model_copy(update={"still_seconds": 901.0}) if ANSWERED.progress else None
)
PATIENT = {"watchdog": {"noStep": {"seconds": 900}}}
ON_LOST_NODE = attempt(stop_cause="Stuck", stop_time=ago(30))
NOT_BEGUN = attempt(stop_cause="PendingDeadline", stop_time=ago(3), ended=ago(1))
ASKED = attempt(stop_cause="StoppedByPolicy", stop_time=ago(20))
BROKEN_MEMBER = (pod("trainer-0"), ended("trainer-1", 137, reason="OOMKilled"), *GENERATORS)
DRAINED_MEMBER = (pod("trainer-0"), pod("trainer-1", deleting=NOW + timedelta(seconds=330)), *GENERATORS)
CRASHED = (ended("trainer-0", 1), pod("trainer-1"), *GENERATORS)

FOUR = {"trainer": {"replicas": 4, "minReplicas": 2, "gpusPerReplica": 0}}
NO_ROOM = (
    *(pod(f"trainer-{index}") for index in range(3)),
    pod("trainer-3", phase="Pending", started=None, unscheduled=FULL),
)


def restarted(seconds: int, least: int | None = 2, number: int = 4, **changes: Any) -> dict[str, Any]:
    """A gang of four, asked for 510 s ago, whose last pod has no node; `seconds`: how long it may wait for it."""
    trainer = {"replicas": 4, "gpusPerReplica": 0} | ({"minReplicas": least} if least is not None else {})
    pods = tuple(replace(each, attempt=number) for each in NO_ROOM)
    return {
        "trainer": trainer,
        "deadlines": {"checkpointSeconds": 300, "gangSeconds": seconds},
        "attempts": (attempt(number, replicas=4),),
        "pods": (*pods, *GENERATORS),
        "poll": replace(ANSWERED, attempt=number),
        **changes,
    }


NO_ROOM_ENDED = attempt(replicas=4, room=3, stop_cause="GangIncomplete", stop_time=ago(9), ended=ago(1))
SMALLER = attempt(5, replicas=3, started=ago(300), exit_code=75, ended=ago(99), checkpoint_step=9)

ROWS: list[tuple[str, dict[str, Any], Changes, str]] = [
    ("a new run is first written down, and its generators are made", {"pods": (), "attempts": (), "poll": PollResult()},
     create("trainer-1", "trainer-0", "generator-0", "generator-1", "generator-2", number=1), "Pending"),
    ("members before the coordinator, so that a coordinator's pod says that the gang is whole",
     {"pods": GENERATORS, "attempts": (FRESH,), "poll": PollResult()}, create("trainer-1", "trainer-0"), "Pending"),
    ("what was made before a crash of the operator is not made again",
     {"pods": (pod("trainer-1"), *GENERATORS), "attempts": (FRESH,), "poll": PollResult()},
     create("trainer-0"), "Pending"),
    ("a healthy run is left alone", {}, (), "Training"),
    ("a coordinator that this operator has not asked yet is not judged", {"poll": PollResult()}, (), "-"),
    ("a waiting coordinator has nothing to tell, and no deadline runs",
     {"attempts": (attempt(started=None, created=ago(9000)),), "poll": PollResult(),
      "pods": (pod("trainer-0", phase="Pending", started=None), pod("trainer-1"), *GENERATORS)}, (), "Pending"),
    ("a generator that is missing is made alone", {"pods": ALL[:-1]}, create("generator-2"), "Training"),
    ("a generator that was evicted goes, the trainers stay",
     {"pods": (*ALL[:3], pod("generator-1", phase="Failed", lost=True), ALL[4])}, delete("generator-1"), "Training"),
    ("one that fails at once is given 15 s", {"pods": (*ALL[:3], pod("generator-1", phase="Failed", created=ago(14)))},
     create("generator-2"), "Training"),
    ("a generator that goes is not made before it is gone", {"pods": (*ALL[:4], pod("generator-2", deleting=ago(3)))},
     (), "Training"),
    ("scaled down: the highest indices go", {"generator": {"minReplicas": 1, "maxReplicas": 1, "gpusPerReplica": 0}},
     delete("generator-1", "generator-2"), "Training"),
    ("scaled up", {"generator": {"minReplicas": 5, "maxReplicas": 5, "gpusPerReplica": 0}},
     create("generator-3", "generator-4"), "Training"),
    ("fewer trainers are for the next attempt", {"trainer": {"replicas": 1, "gpusPerReplica": 0}}, (), "Training"),
    ("more trainers are for the next attempt", {"trainer": {"replicas": 4, "gpusPerReplica": 0}}, (), "Training"),
    ("a policy asks the coordinator alone: its members save with it", {"poll": stopped("Enforce")}, delete("trainer-0"),
     "Stopping"),
    ("an observing policy does nothing", {"poll": stopped("Observe")}, (), "Training"),
    ("who was asked is not asked again",
     {"attempts": (ASKED,), "pods": (pod("trainer-0", deleting=NOW + timedelta(seconds=300)), *ALL[1:])}, (),
     "Stopping"),
    ("an operator that died after writing it down: the next one asks", {"attempts": (ASKED,)}, delete("trainer-0"),
     "Stopping"),
    ("who takes longer than the checkpoint may is killed",
     {"attempts": (attempt(stop_cause="StoppedByPolicy", stop_time=ago(1830)),)}, delete("trainer-0", now=True),
     "Stopping"),
    ("suspended: the coordinator saves", {"suspend": True}, delete("trainer-0"), "Stopping"),
    ("suspended and saved: all devices are free",
     {"suspend": True, "attempts": (attempt(stop_cause="Suspended", stop_time=ago(9)),), "pods": COORDINATOR_GONE},
     delete("trainer-1", "generator-0", "generator-1", "generator-2"), "Suspended"),
    ("suspended before anything was made", {"suspend": True, "attempts": (), "pods": (), "poll": PollResult()}, (),
     "Suspended"),
    ("resumed: the next attempt, at once",
     {"attempts": (attempt(stop_cause="Suspended", stop_time=ago(9), ended=ago(1)),), "pods": ()},
     create("trainer-1", "trainer-0", "generator-0", "generator-1", "generator-2", number=5), "Pending"),
    ("a first crash: at once, old pods first; generators stay", {"pods": CRASHED}, delete("trainer-0", "trainer-1"),
     "Pending"),
    ("names are taken: no two attempts at once",
     {"attempts": (attempt(ended=ago(1), exit_code=1), attempt(5, started=None, seen=False)),
      "pods": (pod("trainer-1", deleting=NOW + timedelta(seconds=5)), *GENERATORS)}, (), "Pending"),
    ("a second crash without a checkpoint: the budget of one is spent; the coordinator's log stays",
     {"pods": CRASHED, "attempts": (attempt(3, ended=ago(600), exit_code=1), attempt())},
     delete("trainer-1", "generator-0", "generator-1", "generator-2"), "RestartsExhausted"),
    ("a lost node costs none: it backs off",
     {"pods": (ended("trainer-0", 137, lost=True), pod("trainer-1"), *GENERATORS),
      "attempts": (attempt(3, ended=ago(600), exit_code=1), attempt())}, delete("trainer-1"), "BackingOff"),
    ("a coordinator that vanished was deleted by others: it backs off", {"pods": COORDINATOR_GONE}, delete("trainer-1"),
     "BackingOff"),
    ("a member that dies breaks the gang: the coordinator is ended", {"pods": BROKEN_MEMBER}, delete("trainer-0"),
     "Stopping"),
    ("a member that is drained: the coordinator is asked, and may save", {"pods": DRAINED_MEMBER}, delete("trainer-0"),
     "Stopping"),
    ("it is not hurried while the member serves",
     {"pods": (pod("trainer-0", deleting=NOW + timedelta(seconds=270)), *DRAINED_MEMBER[1:]),
      "attempts": (attempt(stop_cause="GangBroken", stop_time=ago(60)),)}, (), "Stopping"),
    ("once the member has gone there is nothing to save with",
     {"pods": BROKEN_MEMBER, "attempts": (attempt(stop_cause="GangBroken", stop_time=ago(60)),)},
     delete("trainer-0", now=True), "Stopping"),
    ("nor is there on a node that does not answer: no pod of it is ready",
     {"pods": (pod("trainer-0"), pod("trainer-1", ready=False, deleting=NOW + timedelta(seconds=270)), *GENERATORS),
      "attempts": (attempt(stop_cause="GangBroken", stop_time=ago(60)),)}, delete("trainer-0", now=True), "Stopping"),
    ("a coordinator that answers and stands still is asked to save", {"poll": STILL, **PATIENT}, delete("trainer-0"),
     "Stopping"),
    ("as long as a step may take", {"poll": STILL, "watchdog": {"noStep": {"seconds": 902}}}, (), "Training"),
    ("the watchdog's warning does nothing", {"poll": STILL, "watchdog": {"noStep": {"seconds": 900, "action": "Warn"}}},
     (), "Training"),
    ("the answer of the attempt before is not judged", {"poll": replace(STILL, attempt=3), "attempts": (attempt(),)},
     (), "-"),
    ("an attempt whose pods do not all begin in time is ended: 510 s since they were asked for",
     {"pods": WAITING, "poll": ANSWERED, "deadlines": {"checkpointSeconds": 300, "pendingSeconds": 510}},
     delete("trainer-0", "generator-0", "generator-1", "generator-2"), "Stopping"),
    ("a second earlier it is not", {"pods": WAITING, "deadlines": {"checkpointSeconds": 300, "pendingSeconds": 511}},
     (), "Training"),
    ("pods that all run have begun in time", {"deadlines": {"checkpointSeconds": 300, "pendingSeconds": 1}}, (),
     "Training"),
    ("who has waited too long holds nothing while it backs off", {"pods": GENERATORS, "attempts": (NOT_BEGUN,)},
     delete("generator-0", "generator-1", "generator-2"), "BackingOff"),
    ("and is tried again", {"pods": (), "attempts": (attempt(ended=ago(10), stop_cause="PendingDeadline"),)},
     create("trainer-1", "trainer-0", "generator-0", "generator-1", "generator-2", number=5), "Pending"),
    ("a restarted gang without room for all is given up", restarted(510), delete("trainer-0"), "Stopping"),
    ("a second earlier it is not", restarted(511), (), "Training"),
    ("the first attempt waits for all", restarted(510, number=1), (), "Training"),
    ("without minReplicas a restarted one does too", restarted(510, None), (), "Training"),
    ("with room for fewer than minReplicas it waits", restarted(510, 4), (), "Training"),
    ("a pod that has a node is waited for", restarted(510, pods=(
        *NO_ROOM[:3], pod("trainer-3", phase="Pending", started=None),
        *GENERATORS)), (), "Training"),
    ("the next attempt has as many as had room", restarted(510, attempts=(NO_ROOM_ENDED,), pods=GENERATORS),
     create("trainer-1", "trainer-2", "trainer-0", number=5, replicas=3), "Pending"),
    ("though never fewer than minReplicas is now", restarted(510, 4, attempts=(NO_ROOM_ENDED,), pods=GENERATORS),
     create("trainer-1", "trainer-2", "trainer-3", "trainer-0", number=5), "Pending"),
    ("the restart after that asks for all again",
     restarted(510, attempts=(NO_ROOM_ENDED, SMALLER), pods=GENERATORS),
     create("trainer-1", "trainer-2", "trainer-3", "trainer-0", number=6), "Pending"),
    ("a rule fails the run at the first crash",
     {"pods": (ended("trainer-0", 42), *ALL[1:]), "failurePolicy": {"maxRestarts": 9, "rules": [
         {"name": "data", "action": "FailRun", "onExitCodes": {"operator": "In", "values": [42]}}]}},
     delete("trainer-1", "generator-0", "generator-1", "generator-2"), "FailedByRule"),
    ("a rule looks at the member that broke the gang",
     {"pods": (ended("trainer-0", 75), ended("trainer-1", 7, conditions={"example.com/LinkDown": "True"}), *GENERATORS),
      "failurePolicy": {"maxRestarts": 9, "rules": [
          {"name": "link", "action": "FailRun", "onPodConditions": [{"type": "example.com/LinkDown"}]}]}},
     delete("trainer-1", "generator-0", "generator-1", "generator-2"), "FailedByRule"),
    ("a run that has finished is not failed by a rule",
     {"pods": (ended("trainer-0", 0, reasons=frozenset({"Evicted"}), lost=True,
                     termination_message='{"reason": "Finished"}'),
               *ALL[1:]),
      "failurePolicy": {"rules": [{"name": "spot", "action": "FailRun", "onReasons": ["Evicted"]}]}},
     delete("trainer-1", "generator-0", "generator-1", "generator-2"), "Finished"),
    ("a wrong spec is not tried again",
     {"pods": (ended("trainer-0", 64, termination_message='{"reason": "Invalid", "error": "spec.model: no"}'),
               *ALL[1:])},
     delete("trainer-1", "generator-0", "generator-1", "generator-2"), "InvalidSpec"),
    ("finished: workers and generators go",
     {"pods": (ended("trainer-0", 0, termination_message='{"reason": "Finished", "step": 120}'), *ALL[1:])},
     delete("trainer-1", "generator-0", "generator-1", "generator-2"), "Finished"),
    ("a pod on a node that does not answer is taken off the API server",
     {"pods": (*ALL[:4], pod("generator-2", deleting=ago(60)))}, delete("generator-2", now=True), "Training"),
    ("another manager's run is left alone", {"managedBy": "kueue.x-k8s.io/multikueue", "pods": (), "attempts": ()}, (),
     "-"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "changes", "state"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_what_a_run_needs(
    snapshot: Callable[..., Snapshot], case: dict[str, Any], changes: Changes, state: str
) -> None:
    plan = plan_pods(snapshot(**case), NOW, LIMITS)
    assert plan.changes == changes
    assert (state_word(plan.status) if plan.status is not None else "-") == state


def written(found: Snapshot, plan: PodPlan) -> Snapshot:
    """The same snapshot after the plan's status was written."""
    assert plan.status is not None
    return replace(found, run=replace(found.run, status=plan.status))


@pytest.mark.parametrize("case", [row[1] for row in ROWS], ids=[row[0] for row in ROWS])
def test_an_intention_is_written_once(snapshot: Callable[..., Snapshot], case: dict[str, Any]) -> None:
    """A written status does not change the next one: an idle run is written once."""
    first = snapshot(**case)
    plan = plan_pods(first, NOW, LIMITS)
    if plan.status is not None:
        second = plan_pods(written(first, plan), NOW, LIMITS)
        assert second.status in (plan.status, None)


def test_a_deleted_run_is_left_to_the_garbage_collector(snapshot: Callable[..., Snapshot]) -> None:
    found = snapshot(attempts=(), pods=())
    assert plan_pods(replace(found, run=replace(found.run, deleting=True)), NOW, LIMITS) == PodPlan()


def test_a_status_of_a_newer_operator_is_not_overwritten(snapshot: Callable[..., Snapshot]) -> None:
    found = snapshot(attempts=(), pods=())
    assert (
        plan_pods(replace(found, run=replace(found.run, status_fault="conditions.0.type: Levitating")), NOW, LIMITS)
        == PodPlan()
    )


def test_time_to_live(snapshot: Callable[..., Snapshot]) -> None:
    done = snapshot(pods=(ended("trainer-0", 0, termination_message='{"reason": "Finished", "step": 120}'),))
    over = written(done, plan_pods(done, NOW, LIMITS))
    spec = snapshot(ttlSecondsAfterFinished=50).run.run
    over = replace(over, run=replace(over.run, run=spec))
    early, late = (plan_pods(over, NOW + timedelta(seconds=after), LIMITS) for after in (49, 50))
    assert (early.delete_run, early.until, early.changes) == (False, NOW + timedelta(seconds=50), ())
    assert late.delete_run


def test_a_run_that_is_over_stays_over_and_is_not_written(snapshot: Callable[..., Snapshot]) -> None:
    done = snapshot(pods=(ended("trainer-0", 0, termination_message='{"reason": "Finished", "step": 120}'), *ALL[1:]))
    over = written(done, plan_pods(done, NOW, LIMITS))
    again = plan_pods(over, NOW + timedelta(days=3), LIMITS)
    assert again.status is None
    assert again.changes == delete("trainer-1", "generator-0", "generator-1", "generator-2")


def test_a_members_death_is_the_attempts_end(snapshot: Callable[..., Snapshot]) -> None:
    """A member's own fault costs a restart, with its exit code; a lost member costs none."""
    asked = attempt(stop_cause="GangBroken", stop_time=ago(5))
    killed = ended("trainer-0", 137)
    for member, spent in ((ended("trainer-1", 139, reason="Error"), False), (ended("trainer-1", 137, lost=True), True)):
        plan = plan_pods(snapshot(pods=(killed, member, *GENERATORS), attempts=(asked,)), NOW, LIMITS)
        assert plan.status is not None
        closed = plan.status.attempts[0]
        assert (closed.exit_code, closed.infrastructure) == (member.exit_code, spent)


def test_the_termination_message_is_kept(snapshot: Callable[..., Snapshot], point: Callable[..., EvalPoint]) -> None:
    last = point(9, step=118, pass_rate=0.4375)
    words = f'{{"reason": "Failed", "step": 119, "checkpoint": {{"step": 110, "time": 1.5, "path": "/p"}}, "error": "no space", "lastEval": {last.model_dump_json(by_alias=True)}}}'  # noqa: E501
    pods = (ended("trainer-0", 1, termination_message=words), *ALL[1:])
    waits = plan_pods(snapshot(pods=pods), NOW, LIMITS)
    assert (waits.status, waits.changes) == (None, ()), "its point is judged first"
    plan = plan_pods(snapshot(pods=pods, poll=replace(ANSWERED, is_final=True)), NOW, LIMITS)
    assert plan.status is not None
    closed = plan.status.attempts[0]
    assert (closed.said, closed.step, closed.checkpoint_step, closed.error) == ("Failed", 119, 110, "no space")
    assert plan.status.checkpoint is not None
    assert (plan.status.checkpoint.step, plan.status.checkpoint.uri) == (110, "/p")
    assert plan.status.progress is not None
    assert (plan.status.progress.step, plan.status.progress.pass_rate) == (119, 0.4375)


ENDS: list[tuple[dict[str, Any], str | None, bool]] = [
    ({"exit_code": 137, "reason": "OOMKilled"}, None, False),
    ({"exit_code": 139, "reason": "Error"}, None, False),
    ({"exit_code": 143, "lost": True}, None, True),
    ({"exit_code": 137, "deleting": ago(5)}, None, True),
    ({"phase": "Failed", "lost": True, "reason": "NodeLost"}, None, True),
    ({"gone": True}, None, True),
    ({"gone": True}, "Stuck", False),
    ({"gone": True, "lost": True, "deleting": ago(5)}, "Stuck", True),
    ({"exit_code": 137, "lost": True}, "Stuck", True),
    ({"exit_code": 137, "deleting": ago(5)}, "Stuck", False),
    ({"exit_code": 0, "deleting": ago(5)}, "WatchdogRestart", False),
]


@pytest.mark.parametrize(
    ("values", "cause", "spared"),
    ENDS,
    ids=[
        "an OOM kill is the run's own",
        "a crash is the run's own",
        "an eviction is not",
        "nor a deletion by others",
        "nor a lost node",
        "nor a pod that vanished",
        "a silent coordinator that we have deleted is its own",
        "a silent coordinator whose node was lost is not",
        "nor one that was evicted while it was silent",
        "the deletion is ours: it was asked for",
        "the watchdog's restart is the run's own",
    ],
)
def test_whose_fault_an_end_is(
    snapshot: Callable[..., Snapshot], values: dict[str, Any], cause: str | None, spared: bool
) -> None:
    asked = attempt(stop_cause=cause, stop_time=ago(5)) if cause is not None else attempt()
    plan = plan_pods(snapshot(pods=(pod("trainer-0", **values), *ALL[1:]), attempts=(asked,)), NOW, LIMITS)
    assert plan.status is not None
    assert plan.status.attempts[0].ended == NOW
    assert plan.status.attempts[0].infrastructure is spared


def test_what_pods_wait_for_is_said(snapshot: Callable[..., Snapshot]) -> None:
    unborn = attempt(started=None, seen=False, created=ago(40))
    pulls = pod("generator-1", phase="Pending", started=None, unscheduled="ImagePullBackOff")
    found = snapshot(pods=(WAITING[1], GENERATORS[0], pulls), attempts=(unborn,), poll=PollResult())
    plan = plan_pods(found, NOW, LIMITS)
    assert plan.status is not None
    progressing = next(each for each in plan.status.conditions if each.type == "Progressing")
    assert (progressing.reason, progressing.message) == (
        "Pending",
        f"attempt 4: 0 of 2 trainer pods run; trainer-1: {FULL}; generator-1: ImagePullBackOff",
    )
    assert plan.until == NOW + timedelta(seconds=30), "a sentence is not written at once, and pods may wait for days"
    again = plan_pods(written(found, plan), NOW, LIMITS)
    assert again.until is None, "nothing is new: nobody looks again"


def test_a_generator_that_waits_is_named_beside_what_the_coordinator_does(snapshot: Callable[..., Snapshot]) -> None:
    poll = replace(
        ANSWERED,
        progress=Progress(
            run="tiny", attempt=4, phase="starting", detail="waiting for a generator", step=0, version=0,
            compute_gpu_hours=0.0, time=1.0,
        ),
    )  # fmt: skip
    crashing = pod("generator-2", started=None, unscheduled="CrashLoopBackOff: back-off 5m0s")
    plan = plan_pods(snapshot(pods=(*ALL[:4], crashing), poll=poll), NOW, LIMITS)
    assert plan.status is not None
    progressing = next(each for each in plan.status.conditions if each.type == "Progressing")
    assert (progressing.reason, progressing.message) == (
        "Starting",
        "waiting for a generator; generator-2: CrashLoopBackOff: back-off 5m0s",
    )


def test_a_coordinator_that_has_not_answered_is_not_said_to_train(snapshot: Callable[..., Snapshot]) -> None:
    """It is asked from its pod's start on; until it answers only what the attempt before has reached is known."""
    before = attempt(3, started=ago(900), ended=ago(520), stop_cause="Suspended", said="Stopped", step=33, exit_code=0)
    assert ANSWERED.progress is not None
    earlier = ANSWERED.progress.model_copy(update={"attempt": 3, "generators_ready": 3})
    poll = replace(ANSWERED, answered=None, progress=earlier)
    status = plan_pods(snapshot(attempts=(before, attempt()), poll=poll), NOW, LIMITS).status
    assert status is not None
    assert status.progress is not None
    assert (state_word(status), status.progress.step) == ("Starting", 33)
    assert [each.ready for each in status.roles] == [0, 0]


def test_why_it_is_ended_is_written_with_the_intention(snapshot: Callable[..., Snapshot]) -> None:
    pending = snapshot(pods=WAITING, deadlines={"checkpointSeconds": 300, "pendingSeconds": 510})
    for found, cause, message in (
        (snapshot(poll=STILL, **PATIENT), "WatchdogRestart", "NoStep: no step has ended for 900 s; 31 are done"),
        (pending, "PendingDeadline", f"1 of 2 trainer pods run; trainer-1: {FULL}"),
        (snapshot(pods=BROKEN_MEMBER), "GangBroken", "trainer-1 is lost"),
    ):
        plan = plan_pods(found, NOW, LIMITS)
        assert plan.status is not None
        assert (plan.status.attempts[-1].stop_cause, plan.status.attempts[-1].stop_message) == (cause, message)


def test_a_smaller_gang_is_written_down(snapshot: Callable[..., Snapshot]) -> None:
    """With the intention to end the one before, in its own entry, and in the message of the run that trains."""
    status = plan_pods(snapshot(**restarted(510)), NOW, LIMITS).status
    assert status is not None
    (given_up,) = status.attempts
    assert (given_up.stop_cause, given_up.room) == ("GangIncomplete", 3)
    assert given_up.stop_message == f"3 of 4 trainer pods run; trainer-3: {FULL}"
    status = plan_pods(snapshot(**restarted(510, attempts=(NO_ROOM_ENDED,), pods=GENERATORS)), NOW, LIMITS).status
    assert status is not None
    assert [each.replicas for each in status.attempts] == [4, 3]
    smaller = snapshot(**FOUR, attempts=(attempt(replicas=2),))
    status = plan_pods(smaller, NOW, LIMITS).status
    assert status is not None
    progressing = next(each for each in status.conditions if each.type == "Progressing")
    assert progressing.message == "2 of 4 trainer pods until the next restart"
    trainer = next(each for each in status.roles if each.name == "trainer")
    assert (trainer.desired, trainer.ready) == (4, 2)


def test_a_rule_is_written_down_with_the_end_that_it_fits(snapshot: Callable[..., Snapshot]) -> None:
    """Rules that are changed later do not change what an old end has cost."""
    rules = [{"name": "spot", "action": "Count", "onReasons": ["PreemptionByScheduler"]}]
    evicted = ended("trainer-0", 143, lost=True, reasons=frozenset({"Error", "PreemptionByScheduler"}))
    found = snapshot(pods=(evicted, *ALL[1:]), failurePolicy={"maxRestarts": 1, "rules": rules})
    plan = plan_pods(found, NOW, LIMITS)
    assert plan.status is not None
    assert (plan.status.attempts[0].rule, plan.status.attempts[0].ruled) == ("spot", "Count")
    assert [each.number for each in plan.status.attempts] == [4, 5], "the first failure: at once"
    second = attempt(5, rule="spot", ruled="Count", infrastructure=True, ended=ago(1), exit_code=143)
    later = snapshot(pods=(), attempts=(plan.status.attempts[0], second))  # no rule any more
    assert state_word(plan_pods(later, NOW, LIMITS).status) == "RestartsExhausted"


def test_old_attempts_are_summed(snapshot: Callable[..., Snapshot]) -> None:
    old = [
        attempt(n, created=ago(5000), started=ago(5000 - n), ended=ago(4990 - n), infrastructure=True)
        for n in range(1, 11)
    ]
    plan = plan_pods(snapshot(pods=(), attempts=old), NOW, replace(LIMITS, retries=99))
    assert plan.status is not None
    assert [each.number for each in plan.status.attempts] == list(range(2, 12))
    assert plan.status.earlier is not None
    assert (plan.status.earlier.active_seconds, plan.status.earlier.retries) == (10.0, 1)


def test_when_to_look_again(snapshot: Callable[..., Snapshot]) -> None:
    deadlines = {"activeSeconds": 560, "startSeconds": 1700, "checkpointSeconds": 300}
    assert plan_pods(snapshot(deadlines=deadlines), NOW, LIMITS).until == NOW + timedelta(seconds=60)
    assert plan_pods(snapshot(), NOW, LIMITS).until == NOW + timedelta(seconds=600)
    lost = (ended("trainer-0", 137, lost=True), *GENERATORS)
    assert plan_pods(snapshot(pods=lost), NOW, LIMITS).until == NOW + timedelta(seconds=10)
    # Heard 2 s ago, 860 s after the last step: 900 s are over in 38 s, and a second later that is sure.
    standing = ANSWERED.progress.model_copy(update={"still_seconds": 860.0}) if ANSWERED.progress is not None else None
    assert plan_pods(snapshot(poll=replace(ANSWERED, progress=standing), **PATIENT), NOW, LIMITS).until == (
        NOW + timedelta(seconds=39)
    )
    short = {"checkpointSeconds": 300, "startSeconds": 1700, "pendingSeconds": 560}
    assert plan_pods(snapshot(pods=WAITING, deadlines=short), NOW, LIMITS).until == NOW + timedelta(seconds=50)


SLOW = UnfitNode(node="gpu-3", reason="rank 7 computes 480 TFLOP/s")
REFUSED = (ended("trainer-0", EXIT_UNFIT, unfit_nodes=(SLOW,)), pod("trainer-1"), *GENERATORS)


def test_an_unfit_node_ends_the_attempt_at_no_cost_and_is_excluded(snapshot: Callable[..., Snapshot]) -> None:
    plan = plan_pods(snapshot(pods=REFUSED, failurePolicy={"maxRestarts": 0}), NOW, LIMITS)
    assert plan.status is not None
    assert state_word(plan.status) == "BackingOff", "no restart is left, and none is needed"
    (found,) = plan.status.excluded_nodes
    assert (found.name, found.reason, found.time) == ("gpu-3", SLOW.reason, NOW)
    condition = next(each for each in plan.status.conditions if each.type == "NodesFit")
    assert (condition.status, condition.reason) == ("False", "NodesExcluded")
    assert condition.message == "gpu-3: rank 7 computes 480 TFLOP/s"


def test_a_member_that_refuses_its_node_costs_no_restart_either(snapshot: Callable[..., Snapshot]) -> None:
    words = Termination(reason="Unfit", error="NodeUnfit: node gpu-3: 2 devices are visible; need 8")
    member = ended("trainer-1", EXIT_UNFIT, unfit_nodes=(SLOW,), termination_message=words.model_dump_json())
    stopped_by_it = attempt(stop_cause="GangBroken", stop_time=ago(5))
    pods = (ended("trainer-0", 0), member, *GENERATORS)
    found = snapshot(pods=pods, attempts=(stopped_by_it,), failurePolicy={"maxRestarts": 0})
    plan = plan_pods(found, NOW, LIMITS)
    assert plan.status is not None
    assert state_word(plan.status) == "BackingOff"
    assert [each.name for each in plan.status.excluded_nodes] == ["gpu-3"]
    last = plan.status.attempts[-1]
    assert (last.exit_code, last.infrastructure) == (EXIT_UNFIT, False)
    assert last.error == "trainer-1 ended: NodeUnfit: node gpu-3: 2 devices are visible; need 8"


def test_an_excluded_node_stays_so_until_the_annotation_names_it(snapshot: Callable[..., Snapshot]) -> None:
    later = plan_pods(snapshot(pods=REFUSED), NOW, LIMITS).status
    assert later is not None

    def excluded(annotation: str | None, pods: Sequence[ObservedPod] = ALL) -> list[str]:
        found = snapshot(pods=pods)
        annotations = {} if annotation is None else {"scalerl.io/fit-nodes": annotation}
        run = replace(found.run, status=later.model_copy(update={"attempts": [attempt()]}), annotations=annotations)
        plan = plan_pods(replace(found, run=run), NOW + timedelta(seconds=60), LIMITS)
        assert plan.status is not None
        return [each.name for each in plan.status.excluded_nodes]

    assert excluded(None) == excluded("gpu-30, gpu-4") == ["gpu-3"]
    assert excluded("gpu-4, gpu-3") == excluded("*") == excluded("*", REFUSED) == []


def test_a_generator_that_refuses_its_node_is_made_again_elsewhere(snapshot: Callable[..., Snapshot]) -> None:
    values = {"unfit_nodes": (SLOW,), "started": None, "restarts": 1}
    waiting = pod("generator-1", container_state="waiting", **values)
    plan = plan_pods(snapshot(pods=(*ALL[:3], waiting, ALL[4])), NOW, LIMITS)
    assert plan.changes == delete("generator-1")
    assert plan.status is not None
    assert [each.name for each in plan.status.excluded_nodes] == ["gpu-3"]
    again = pod("generator-1", container_state="running", **values)
    assert plan_pods(snapshot(pods=(*ALL[:3], again, ALL[4])), NOW, LIMITS).changes == (), "it tries once more"


def test_the_list_of_excluded_nodes_is_bounded() -> None:
    pods = [pod(f"generator-{n}", unfit_nodes=(UnfitNode(node=f"gpu-{n}", reason="hot"),)) for n in range(20)]
    found = update_excluded([], pods, {}, NOW)
    assert [each.name for each in found] == [f"gpu-{n}" for n in range(4, 20)]
    again = update_excluded(found, pods[4:], {}, NOW + timedelta(seconds=9))
    assert again == found, "the first time and reason stay"
