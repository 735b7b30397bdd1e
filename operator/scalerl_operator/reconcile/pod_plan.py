"""The decision on a cluster: which pods a run needs now, and what its status says. PURE.

`plan.decide` decides about the run; this module says what that means for pods. Level-triggered: the same snapshot gives
the same plan. An intention (a new attempt, a reason to end) is in the status before any pod is made or deleted for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from scalerl_api import RLRun, RLRunStatus
from scalerl_api.rlrun import MANAGED_BY
from scalerl_api.status import AttemptStatus, EarlierAttempts, ProgressStatus
from scalerl_api.wire import Progress
from scalerl_operator.decide.lifecycle import (
    Action,
    Done,
    Kill,
    Limits,
    Start,
    Terminate,
    Wait,
    decide,
    describe_standing,
)
from scalerl_operator.decide.status import Standing, build_status, describe_invalid
from scalerl_operator.decide.watchdog import add_alarms, longest_step_seconds
from scalerl_operator.reconcile.gang import begin, find_broken, members_serve, refresh
from scalerl_operator.reconcile.observed_pod import ObservedPod, last_checkpoint, last_evals
from scalerl_operator.reconcile.pending import count_begun, describe_waits, pending_until
from scalerl_operator.reconcile.snapshot import Snapshot
from scalerl_operator.reconcile.status_write import NUMBERS_SECONDS
from scalerl_operator.resources.names import COORDINATOR, PodRole
from scalerl_operator.run.attempts import History, active_seconds, ask_to_end, load_history
from scalerl_operator.run.evals import merge_evals
from scalerl_operator.run.observed import Assessment, ObservedState
from scalerl_operator.run.state import is_over, over_since, state_word

GENERATOR_SECONDS = 15.0  # a generator's pod that fails at once is replaced no oftener than this
OVERDUE_SECONDS = 60.0  # a pod that is still stored so long after its grace is on a node that does not answer


@dataclass(frozen=True)
class Create:
    """Make the pod of `place`, for `attempt`."""

    place: PodRole
    attempt: int


@dataclass(frozen=True)
class Delete:
    """Delete a pod; `now` gives it no grace."""

    name: str
    uid: str
    now: bool = False


Change = Create | Delete


@dataclass(frozen=True)
class PodPlan:
    """What to do, in this order: write the status, make and delete pods, and look again."""

    status: RLRunStatus | None = None
    """To write, unless it is what is written; None: it is not ours to write."""
    changes: tuple[Change, ...] = ()
    delete_run: bool = False
    """Its time to live is over."""
    until: datetime | None = None
    """When to look again even if nothing happens."""
    action: Action | None = None
    """What was decided about the run; None where there was nothing to decide."""


@dataclass(frozen=True)
class _Pass:
    """What one decision looks at."""

    snapshot: Snapshot
    run: RLRun
    history: History
    """As the pods show it now."""
    observed: ObservedState
    assessment: Assessment
    now: datetime
    limits: Limits

    @property
    def pods(self) -> tuple[ObservedPod, ...]:
        return self.snapshot.pods


def plan_pods(snapshot: Snapshot, now: datetime, limits: Limits) -> PodPlan:
    """Return what the run needs now."""
    seen = snapshot.run
    if seen.deleting or seen.managed_by != MANAGED_BY or seen.is_status_foreign:
        return PodPlan()
    if is_over(seen.status):
        return _plan_rest(snapshot, now)
    if seen.run is None:
        return PodPlan(describe_invalid(seen.status, seen.generation, seen.faults, now))
    return _plan_living(snapshot, seen.run, now, limits)


def _plan_living(snapshot: Snapshot, run: RLRun, now: datetime, limits: Limits) -> PodPlan:
    known = load_history(snapshot.run.status)
    history = refresh(known, run, snapshot.pods, _checkpoint_step(snapshot), now)
    if _is_untold(history.running, snapshot) or _is_unjudged(known.running, snapshot):
        return PodPlan(until=now + timedelta(seconds=1.0))  # its answer decides; do not guess before
    observed = _observe(snapshot, history)
    assessment = add_alarms(_judged(snapshot), run, observed)
    look = _Pass(snapshot, run, history, observed, assessment, now, limits)
    action = _decide(look)
    history = _remember(look, action)
    status, until = _build_status(look, history, action), _until(look, history, action)
    if history.running is not None and history.running.started is None and status != look.snapshot.run.status:
        # What pods wait for is a sentence, which is not written at once; nothing else may happen for hours.
        due = look.now + timedelta(seconds=NUMBERS_SECONDS)
        until = due if until is None else min(until, due)
    return _with_changes(PodPlan(status, action=action, until=until), look, history)


def _coordinator(running: AttemptStatus | None, snapshot: Snapshot) -> ObservedPod | None:
    mine = (each for each in snapshot.pods if running is not None and each.attempt == running.number)
    return next((each for each in mine if each.is_coordinator), None)


def _is_untold(running: AttemptStatus | None, snapshot: Snapshot) -> bool:
    """Whether a coordinator may be answering that this operator has not asked yet, as after a start of the operator."""
    coordinator = _coordinator(running, snapshot)
    if coordinator is None or coordinator.over or coordinator.started is None or not coordinator.ip:
        return False
    return not (snapshot.told.asked and snapshot.told.attempt == coordinator.attempt)


def _is_unjudged(running: AttemptStatus | None, snapshot: Snapshot) -> bool:
    """Whether a coordinator's last words wait to be judged: the forecast must not lack the point in them."""
    coordinator = _coordinator(running, snapshot)
    if (
        coordinator is None
        or not coordinator.over
        or snapshot.told.attempt != coordinator.attempt
        or snapshot.told.heard_out
    ):
        return False
    return bool(last_evals([coordinator]))


def _checkpoint_step(snapshot: Snapshot) -> int | None:
    """The newest checkpoint that any coordinator has told of."""
    progress, status = snapshot.told.progress, snapshot.run.status
    told = progress.checkpoint.step if progress is not None and progress.checkpoint is not None else None
    written = status.checkpoint.step if status is not None and status.checkpoint is not None else None
    return max((each for each in (told, written) if each is not None), default=None)


def _judged(snapshot: Snapshot) -> Assessment:
    """What this operator has judged, else what the one before has written down."""
    status = snapshot.run.status
    if snapshot.told.judged is not None or status is None:
        return snapshot.told.judged or Assessment()
    return Assessment(status.forecast, status.stop)


def _observe(snapshot: Snapshot, history: History) -> ObservedState:
    told = snapshot.told
    mine = history.last is not None and told.attempt == history.last.number
    progress = told.progress
    # What the attempt before has reached, until the new one speaks: its coordinator is asked long before it answers.
    if progress is not None and not (mine and told.heard is not None):
        progress = _as_starting(progress)
    return ObservedState(
        attempts=history.listed,
        progress=progress,
        heard=told.heard if mine else None,
        watched=told.watched if mine else None,
        earlier=history.earlier,
        evals=merge_evals(told.evals, last_evals(snapshot.pods)),
        left=last_checkpoint(snapshot.pods, since=told.attempt or 0),
        eta_seconds=told.eta_seconds if mine else None,
        members_serve=history.running is not None and members_serve(history.running, snapshot.pods),
    )


def _as_starting(progress: Progress) -> Progress:
    return progress.model_copy(update={"phase": "starting", "detail": "", "generators_ready": 0})


def _advance(observed: ObservedState, history: History, action: Action) -> ObservedState:
    """The observed state once `action` is in the history: a new attempt has not answered yet."""
    advanced = replace(observed, attempts=history.listed, earlier=history.earlier)
    if not isinstance(action, Start):
        return advanced
    progress = _as_starting(observed.progress) if observed.progress is not None else None
    return replace(advanced, progress=progress, heard=None, watched=None, eta_seconds=None, members_serve=False)


def _decide(look: _Pass) -> Action:
    running = look.history.running
    if running is not None and running.stop_cause is None:
        lost = find_broken(running, look.pods)
        if lost is not None:
            return Terminate("GangBroken", f"{lost} is lost")
        due = pending_until(running, look.pods, look.run.spec.deadlines.pending_seconds)
        if due is not None and look.now >= due:
            return Terminate("PendingDeadline", _describe_pending(look, running))
    return decide(look.run, look.observed, look.assessment, look.now, look.limits)


def _describe_pending(look: _Pass, running: AttemptStatus) -> str:
    """How many of an attempt's pods run, and what all others of the run wait for."""
    begun, waits = count_begun(running, look.pods), describe_waits(look.pods)
    return f"{begun} of {running.replicas} trainer pods run" + (f"; {waits}" if waits else "")


def _remember(look: _Pass, action: Action) -> History:
    history = look.history
    match action:
        case Start(number):
            return begin(history, number, look.run, look.now)
        case Terminate(cause, message):
            return ask_to_end(history, cause, message, look.now)
        case Kill(cause):
            return ask_to_end(history, cause, "", look.now)
    return history


def _build_status(look: _Pass, history: History, action: Action) -> RLRunStatus:
    written = look.snapshot.run.status or RLRunStatus()
    old = written.model_copy(update={"observed_generation": look.snapshot.run.generation})
    seen, run = _advance(look.observed, history, action), look.run.model_copy(update={"status": old})
    status = build_status(run, seen, look.assessment, _standing(look, history, action, seen), look.now)
    progress = status.progress or ProgressStatus(phase="", step=0, version=0, compute_gpu_hours=0.0)
    told = look.snapshot.told
    about = told.attempt if told.heard is not None or told.progress is None else told.progress.attempt
    said = max((each.step for each in history.listed if each.number == about), default=0)
    most = {"trainer": run.spec.trainer.replicas, "generator": run.spec.generator.max_replicas}  # as pods are made
    return status.model_copy(
        update={
            "roles": [each.model_copy(update={"desired": most[each.name]}) for each in status.roles],
            "attempts": list(history.listed),
            "earlier": history.earlier if history.earlier != EarlierAttempts() else None,
            "progress": progress.model_copy(update={"phase": state_word(status), "step": max(said, progress.step)}),
        }
    )


def _standing(look: _Pass, history: History, action: Action, seen: ObservedState) -> Standing:
    """The run's one word; while pods wait for a node, that. Pods that wait later are named beside what goes on."""
    reason, message = describe_standing(action, seen)
    running = history.running
    if reason in ("Running", "Restarting") and running is not None and running.started is None:
        return "Pending", f"attempt {running.number}: {_describe_pending(look, running)}"
    return reason, message or (describe_waits(look.pods) if reason == "Running" else "")


def _until(look: _Pass, history: History, action: Action) -> datetime | None:
    """When time alone changes the decision."""
    running, deadlines, now = history.running, look.run.spec.deadlines, look.now
    due: list[datetime] = []
    if isinstance(action, Wait) and action.until is not None:
        due.append(action.until)
    elif isinstance(action, (Start, Terminate, Kill)):
        due.append(now + timedelta(seconds=1.0))
    if running is not None and running.stop_cause is None:
        pending = pending_until(running, look.pods, deadlines.pending_seconds)
        due += [pending] if pending is not None else []
    if running is not None and running.started is not None and running.stop_cause is None:
        due += _step_due(look, running)
        due.append(now + timedelta(seconds=min(look.limits.silence_seconds, deadlines.start_seconds)))
        if deadlines.active_seconds is not None:
            used = history.earlier.active_seconds + active_seconds(history.listed, now)
            due.append(now + timedelta(seconds=deadlines.active_seconds - used))
    return min((each for each in due if each > now), default=None)


def _step_due(look: _Pass, running: AttemptStatus) -> Iterator[datetime]:
    """When a coordinator that answers, but makes no step, has stood still for too long."""
    told = look.snapshot.told
    still = told.progress.still_seconds if told.progress is not None and told.attempt == running.number else None
    if still is not None and told.heard is not None:
        yield told.heard + timedelta(seconds=longest_step_seconds(look.run) - still + 1.0)


def _with_changes(plan: PodPlan, look: _Pass, history: History) -> PodPlan:
    stored, now = [each for each in look.pods if not each.gone], look.now
    last = history.last
    # Who has waited for its trainers too long lets go of everything: two runs that each hold half would wait for ever.
    rests = isinstance(plan.action, Done) or (last is not None and last.stop_cause == "PendingDeadline")
    wanted = 0 if rests else look.run.spec.generator.max_replicas
    changes = [
        *_plan_trainers(plan.action, history, stored),
        *_missing_trainers(history, stored),
        *_plan_generators(wanted, last.number if last is not None else 1, stored, now),
        *_plan_overdue(stored, now),
    ]
    waits = [_generator_due(each) for each in stored if each.place.role == "generator" and each.over]
    waits += [each.deleting + timedelta(seconds=OVERDUE_SECONDS) for each in stored if each.deleting is not None]
    until = min((each for each in [plan.until, *waits] if each is not None and each > now), default=None)
    return replace(plan, changes=tuple(changes), until=until)


def _plan_trainers(action: Action | None, history: History, stored: Sequence[ObservedPod]) -> Iterator[Delete]:
    """Which trainers' pods go. While an attempt runs only its coordinator is asked: its members save with it."""
    running = history.running
    trainers = [each for each in stored if each.place.role == "trainer"]
    coordinator = next((each for each in trainers if each.is_coordinator), None)
    if running is not None and running.stop_cause is not None and coordinator is not None:
        if isinstance(action, Kill):
            yield Delete(coordinator.name, coordinator.uid, now=True)
        elif coordinator.deleting is None and not coordinator.over:
            yield Delete(coordinator.name, coordinator.uid)
    for each in trainers:
        old = running is None or each.attempt != running.number
        # An ended coordinator's pod is kept while nothing takes its place, for its log.
        kept = each.ended and each.is_coordinator and running is None and not _is_suspended(action)
        if old and not kept and each.deleting is None:
            yield Delete(each.name, each.uid)


def _is_suspended(action: Action | None) -> bool:
    return isinstance(action, Done) and action.outcome == "Suspended"


def _missing_trainers(history: History, stored: Sequence[ObservedPod]) -> list[Create]:
    """The running attempt's pods that were never made, the coordinator last: its pod says that all others were made."""
    running = history.running
    if running is None or running.seen or running.stop_cause is not None:
        return []
    if any(each.place.role == "trainer" and each.attempt != running.number for each in stored):
        return []  # names are taken: no two pods of one place, and no two attempts at once
    there = {each.place for each in stored}
    places = [*(PodRole("trainer", index) for index in range(1, running.replicas)), COORDINATOR]
    return [Create(place, running.number) for place in places if place not in there]


def _plan_generators(wanted: int, attempt: int, stored: Sequence[ObservedPod], now: datetime) -> Iterator[Change]:
    """The lowest indices stay; a dead one is replaced alone."""
    there = {each.place.index: each for each in stored if each.place.role == "generator"}
    for index, pod in sorted(there.items()):
        dead = pod.over and now >= _generator_due(pod)
        if pod.deleting is None and (index >= wanted or dead):
            yield Delete(pod.name, pod.uid)
    for index in range(wanted):
        if index not in there:
            yield Create(PodRole("generator", index), attempt)


def _generator_due(pod: ObservedPod) -> datetime:
    return pod.created + timedelta(seconds=GENERATOR_SECONDS)


def _plan_overdue(stored: Sequence[ObservedPod], now: datetime) -> Iterator[Delete]:
    """Pods whose node does not answer: nothing else would ever take them off the API server."""
    for pod in stored:
        if pod.deleting is not None and now >= pod.deleting + timedelta(seconds=OVERDUE_SECONDS):
            yield Delete(pod.name, pod.uid, now=True)


def _plan_rest(snapshot: Snapshot, now: datetime) -> PodPlan:
    """A run that is over: free what it holds, keep its coordinator's log, delete it when its time has come."""
    stored = [each for each in snapshot.pods if not each.gone]
    changes = [
        Delete(each.name, each.uid)
        for each in stored
        if each.deleting is None and not (each.is_coordinator and each.ended)
    ]
    run, ended = snapshot.run.run, over_since(snapshot.run.status)
    lifetime = run.spec.ttl_seconds_after_finished if run is not None else None
    if lifetime is None or ended is None:
        return PodPlan(changes=(*changes, *_plan_overdue(stored, now)))
    due = ended + timedelta(seconds=lifetime)
    return PodPlan(
        changes=(*changes, *_plan_overdue(stored, now)), delete_run=now >= due, until=due if due > now else None
    )
