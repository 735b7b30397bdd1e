"""The decision on a cluster: the pods that a run needs now, and its status. PURE.

`lifecycle.decide` returns the run's next action; this module maps it to pods. Level-triggered: the same snapshot gives
the same plan. An intention (a new attempt, a cause to end) is in the status before any pod is created or deleted for
it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from scalerl_api import RLRun, RLRunStatus
from scalerl_api.evaluations import merge_evals
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
from scalerl_operator.reconcile.excluded_nodes import is_refused, update_excluded
from scalerl_operator.reconcile.gang import begin, find_broken, member_ended, members_serve, refresh
from scalerl_operator.reconcile.observed_pod import ObservedPod, last_checkpoint, last_evals
from scalerl_operator.reconcile.pending import count_begun, count_room, describe_waits, gang_until, pending_until
from scalerl_operator.reconcile.pod_changes import (
    OVERDUE_SECONDS,
    Change,
    Delete,
    generator_due,
    missing_trainers,
    plan_generators,
    plan_overdue,
)
from scalerl_operator.reconcile.snapshot import Snapshot
from scalerl_operator.reconcile.status_write import NUMBERS_SECONDS
from scalerl_operator.run.attempts import History, active_seconds, ask_to_end, load_history
from scalerl_operator.run.observed import Assessment, ObservedState
from scalerl_operator.run.state import is_over, over_since, state_word


@dataclass(frozen=True)
class PodPlan:
    """The actions, in this order: write the status, create and delete pods, reconcile again."""

    status: RLRunStatus | None = None
    """The desired status; None: this operator must not write it."""
    changes: tuple[Change, ...] = ()
    delete_run: bool = False
    """`spec.ttlSecondsAfterFinished` is over."""
    until: datetime | None = None
    """When to reconcile again without an event."""
    action: Action | None = None
    """The run's next action; None where there was nothing to decide."""


@dataclass(frozen=True)
class _Inputs:
    """The inputs of one decision."""

    snapshot: Snapshot
    run: RLRun
    history: History
    """Updated from the pods."""
    observed: ObservedState
    assessment: Assessment
    now: datetime
    limits: Limits

    @property
    def pods(self) -> tuple[ObservedPod, ...]:
        return self.snapshot.pods


def plan_pods(snapshot: Snapshot, now: datetime, limits: Limits) -> PodPlan:
    """Return what the run needs now."""
    stored = snapshot.run
    if stored.deleting or stored.managed_by != MANAGED_BY or stored.is_status_foreign:
        return PodPlan()
    if is_over(stored.status):
        return _plan_over(snapshot, now, limits)
    if stored.run is None:
        return PodPlan(describe_invalid(stored.status, stored.generation, stored.faults, now))
    return _plan_active(snapshot, stored.run, now, limits)


def _plan_over(snapshot: Snapshot, now: datetime, limits: Limits) -> PodPlan:
    """Return the plan of a run that is over; it goes on if it has refused changed data that are accepted now."""
    finished, run = _plan_finished(snapshot, now), snapshot.run.run
    last = load_history(snapshot.run.status).last
    if run is None or last is None or not last.refused_data or not snapshot.run.accepted_data:
        return finished
    active = _plan_active(snapshot, run, now, limits)
    # Not accepted, the status says why; suspended, it is no longer over.
    return active if isinstance(active.action, Start) else replace(finished, status=active.status)


def _plan_active(snapshot: Snapshot, run: RLRun, now: datetime, limits: Limits) -> PodPlan:
    known = load_history(snapshot.run.status)
    history = refresh(known, run, snapshot.pods, _checkpoint_step(snapshot), now)
    if _awaits_poll(history.running, snapshot) or _awaits_assessment(known.running, snapshot):
        return PodPlan(until=now + timedelta(seconds=1.0))  # the decision needs the answer
    observed = _observe(snapshot, history)
    assessment = add_alarms(_load_assessment(snapshot), run, observed)
    inputs = _Inputs(snapshot, run, history, observed, assessment, now, limits)
    action = _decide(inputs)
    history = _remember(inputs, action)
    status, until = _build_status(inputs, history, action), _until(inputs, history, action)
    if history.running is not None and history.running.started is None and status != inputs.snapshot.run.status:
        # The text of what pods wait for alone is written late, and hours may pass without another event.
        due = inputs.now + timedelta(seconds=NUMBERS_SECONDS)
        until = due if until is None else min(until, due)
    return _with_changes(PodPlan(status, action=action, until=until), inputs, history)


def _coordinator(running: AttemptStatus | None, snapshot: Snapshot) -> ObservedPod | None:
    mine = (each for each in snapshot.pods if running is not None and each.attempt == running.number)
    return next((each for each in mine if each.is_coordinator), None)


def _awaits_poll(running: AttemptStatus | None, snapshot: Snapshot) -> bool:
    """Whether a coordinator runs that this operator has not polled yet, as after a restart of the operator."""
    coordinator = _coordinator(running, snapshot)
    if coordinator is None or coordinator.over or coordinator.started is None or not coordinator.ip:
        return False
    return not (snapshot.poll.polled and snapshot.poll.attempt == coordinator.attempt)


def _awaits_assessment(running: AttemptStatus | None, snapshot: Snapshot) -> bool:
    """Whether the last evaluation is in a termination message and not yet in the assessment."""
    coordinator = _coordinator(running, snapshot)
    if (
        coordinator is None
        or not coordinator.over
        or snapshot.poll.attempt != coordinator.attempt
        or snapshot.poll.is_final
    ):
        return False
    return bool(last_evals([coordinator]))


def _checkpoint_step(snapshot: Snapshot) -> int | None:
    """The newest checkpoint that a coordinator has reported, or that the status has."""
    progress, status = snapshot.poll.progress, snapshot.run.status
    reported = progress.checkpoint.step if progress is not None and progress.checkpoint is not None else None
    written = status.checkpoint.step if status is not None and status.checkpoint is not None else None
    return max((each for each in (reported, written) if each is not None), default=None)


def _load_assessment(snapshot: Snapshot) -> Assessment:
    """This operator's assessment, else the one that the status has from the operator before."""
    status = snapshot.run.status
    if snapshot.poll.assessment is not None or status is None:
        return snapshot.poll.assessment or Assessment()
    return Assessment(status.forecast, status.stop, tuple(status.source_forecasts))


def _observe(snapshot: Snapshot, history: History) -> ObservedState:
    poll = snapshot.poll
    is_current = history.last is not None and poll.attempt == history.last.number
    progress = poll.progress
    # Until the new attempt answers, keep the progress of the attempt before: polls begin long before answers.
    if progress is not None and not (is_current and poll.answered is not None):
        progress = _as_starting(progress)
    return ObservedState(
        attempts=history.listed,
        progress=progress,
        answered=poll.answered if is_current else None,
        watched=poll.watched if is_current else None,
        earlier=history.earlier,
        evals=merge_evals(poll.evals, last_evals(snapshot.pods)),
        last_checkpoint=last_checkpoint(snapshot.pods, since=poll.attempt or 0),
        eta_seconds=poll.eta_seconds if is_current else None,
        accepted_data=snapshot.run.accepted_data,
        members_serve=history.running is not None and members_serve(history.running, snapshot.pods),
        member_ended=history.running is not None and member_ended(history.running, snapshot.pods),
    )


def _as_starting(progress: Progress) -> Progress:
    return progress.model_copy(update={"phase": "starting", "detail": "", "generators_ready": 0})


def _advance(observed: ObservedState, history: History, action: Action) -> ObservedState:
    """Return the observed state after `action` is in the history: a new attempt has not answered yet."""
    advanced = replace(observed, attempts=history.listed, earlier=history.earlier)
    if not isinstance(action, Start):
        return advanced
    progress = _as_starting(observed.progress) if observed.progress is not None else None
    return replace(
        advanced,
        progress=progress,
        answered=None,
        watched=None,
        eta_seconds=None,
        members_serve=False,
        member_ended=False,
    )


def _decide(inputs: _Inputs) -> Action:
    running = inputs.history.running
    if running is not None and running.stop_cause is None:
        lost = find_broken(running, inputs.pods)
        if lost is not None:
            return Terminate("GangBroken", f"{lost} is lost")
        due = gang_until(running, inputs.pods, inputs.run)
        if due is not None and inputs.now >= due:
            return Terminate("GangIncomplete", _describe_pending(inputs, running))
        due = pending_until(running, inputs.pods, inputs.run.spec.deadlines.pending_seconds)
        if due is not None and inputs.now >= due:
            return Terminate("PendingDeadline", _describe_pending(inputs, running))
    return decide(inputs.run, inputs.observed, inputs.assessment, inputs.now, inputs.limits)


def _describe_pending(inputs: _Inputs, running: AttemptStatus) -> str:
    """Return how many of an attempt's pods run, and what the run's other pods wait for."""
    begun, waits = count_begun(running, inputs.pods), describe_waits(inputs.pods)
    return f"{begun} of {running.replicas} trainer pods run" + (f"; {waits}" if waits else "")


def _remember(inputs: _Inputs, action: Action) -> History:
    """Return the history with the intention of `action`."""
    history = inputs.history
    match action:
        case Start(number):
            accepted = inputs.observed.accepted_data if inputs.observed.is_data_accepted else ""
            return begin(history, number, inputs.run, inputs.now, accepted)
        case Terminate(cause, message):
            asked = ask_to_end(history, cause, message, inputs.now)
            return _note_room(asked, inputs) if cause == "GangIncomplete" else asked
        case Kill(cause):
            return ask_to_end(history, cause, "", inputs.now)
    return history


def _note_room(history: History, inputs: _Inputs) -> History:
    """The size of the next attempt is written with the intention: the pods are gone when it begins."""
    running = history.running
    assert running is not None, "it was just asked to end"
    return history.replace_last(running.model_copy(update={"room": count_room(running, inputs.pods)}))


def _build_status(inputs: _Inputs, history: History, action: Action) -> RLRunStatus:
    written = inputs.snapshot.run.status or RLRunStatus()
    old = written.model_copy(update={"observed_generation": inputs.snapshot.run.generation})
    observed, run = _advance(inputs.observed, history, action), inputs.run.model_copy(update={"status": old})
    excluded = update_excluded(old.excluded_nodes, inputs.pods, inputs.snapshot.run.annotations, inputs.now)
    run = run.model_copy(update={"status": old.model_copy(update={"excluded_nodes": excluded})})
    status = build_status(run, observed, inputs.assessment, _standing(inputs, history, action, observed), inputs.now)
    progress = status.progress or ProgressStatus(phase="", step=0, version=0, compute_gpu_hours=0.0)
    poll = inputs.snapshot.poll
    reported_attempt = poll.attempt if poll.answered is not None or poll.progress is None else poll.progress.attempt
    last_step = max((each.step for each in history.listed if each.number == reported_attempt), default=0)
    num_pods = {"trainer": run.spec.trainer.replicas, "generator": run.spec.generator.max_replicas}  # as pods are made
    shown = {"phase": state_word(status), "step": max(last_step, progress.step)}
    return status.model_copy(
        update={
            "roles": [each.model_copy(update={"desired": num_pods[each.name]}) for each in status.roles],
            "attempts": list(history.listed),
            "earlier": history.earlier if history.earlier != EarlierAttempts() else None,
            "progress": progress.model_copy(update=shown),
        }
    )


def _standing(inputs: _Inputs, history: History, action: Action, observed: ObservedState) -> Standing:
    """Return (reason, message): Pending while trainers' pods wait; pods that wait later are named in the message."""
    reason, message = describe_standing(action, observed)
    running = history.running
    if reason in ("Running", "Restarting") and running is not None and running.started is None:
        return "Pending", f"attempt {running.number}: {_describe_pending(inputs, running)}"
    return reason, message or (_describe_running(inputs, running) if reason == "Running" else "")


def _describe_running(inputs: _Inputs, running: AttemptStatus | None) -> str:
    """Return that the gang is smaller than the spec has it, and what pods wait for."""
    wanted = inputs.run.spec.trainer.replicas
    smaller = running is not None and 0 < running.replicas < wanted
    size = f"{running.replicas} of {wanted} trainer pods until the next restart" if running and smaller else ""
    return "; ".join(each for each in (size, describe_waits(inputs.pods)) if each)


def _until(inputs: _Inputs, history: History, action: Action) -> datetime | None:
    """Return when time alone changes the decision; None: only an event does."""
    running, deadlines, now = history.running, inputs.run.spec.deadlines, inputs.now
    due: list[datetime] = []
    if isinstance(action, Wait) and action.until is not None:
        due.append(action.until)
    elif isinstance(action, (Start, Terminate, Kill)):
        due.append(now + timedelta(seconds=1.0))
    if running is not None and running.stop_cause is None:
        waits = (
            pending_until(running, inputs.pods, deadlines.pending_seconds),
            gang_until(running, inputs.pods, inputs.run),
        )
        due += [each for each in waits if each is not None]
    if running is not None and running.started is not None and running.stop_cause is None:
        due += _step_due(inputs, running)
        due.append(now + timedelta(seconds=min(inputs.limits.silence_seconds, deadlines.start_seconds)))
        if deadlines.active_seconds is not None:
            used = history.earlier.active_seconds + active_seconds(history.listed, now)
            due.append(now + timedelta(seconds=deadlines.active_seconds - used))
    return min((each for each in due if each > now), default=None)


def _step_due(inputs: _Inputs, running: AttemptStatus) -> Iterator[datetime]:
    """Yield when `watchdog.noStep` is due for a coordinator that answers but completes no step."""
    poll = inputs.snapshot.poll
    still = poll.progress.still_seconds if poll.progress is not None and poll.attempt == running.number else None
    if still is not None and poll.answered is not None:
        yield poll.answered + timedelta(seconds=longest_step_seconds(inputs.run) - still + 1.0)


def _with_changes(plan: PodPlan, inputs: _Inputs, history: History) -> PodPlan:
    stored, now = [each for each in inputs.pods if not each.gone], inputs.now
    last = history.last
    # On a pending timeout, release all pods: two half-scheduled gangs would deadlock.
    rests = isinstance(plan.action, Done) or (last is not None and last.stop_cause == "PendingDeadline")
    wanted = 0 if rests else inputs.run.spec.generator.max_replicas
    changes = [
        *_plan_trainers(plan.action, history, stored),
        *missing_trainers(history, stored, inputs.run.spec.trainer.replicas),
        *plan_generators(wanted, last.number if last is not None else 1, stored, now),
        *plan_overdue(stored, now),
    ]
    waits = [
        generator_due(each) for each in stored if each.pod_role.role == "generator" and (each.over or is_refused(each))
    ]
    waits += [each.deleting + timedelta(seconds=OVERDUE_SECONDS) for each in stored if each.deleting is not None]
    until = min((each for each in [plan.until, *waits] if each is not None and each > now), default=None)
    return replace(plan, changes=tuple(changes), until=until)


def _plan_trainers(action: Action | None, history: History, stored: Sequence[ObservedPod]) -> Iterator[Delete]:
    """Yield the trainers' pods to delete. Of a running attempt only the coordinator's: its members save with it."""
    running = history.running
    trainers = [each for each in stored if each.pod_role.role == "trainer"]
    coordinator = next((each for each in trainers if each.is_coordinator), None)
    if running is not None and running.stop_cause is not None and coordinator is not None:
        if isinstance(action, Kill):
            yield Delete(coordinator.name, coordinator.uid, now=True)
        elif coordinator.deleting is None and not coordinator.over:
            yield Delete(coordinator.name, coordinator.uid)
    for each in trainers:
        old = running is None or each.attempt != running.number
        # An ended coordinator's pod is kept for its log until the next attempt needs its name.
        kept = each.ended and each.is_coordinator and running is None and not _is_suspended(action)
        if old and not kept and each.deleting is None:
            yield Delete(each.name, each.uid)


def _is_suspended(action: Action | None) -> bool:
    return isinstance(action, Done) and action.outcome == "Suspended"


def _plan_finished(snapshot: Snapshot, now: datetime) -> PodPlan:
    """Return the plan of a finished run: free its devices, keep its coordinator's log, delete it after its TTL."""
    stored = [each for each in snapshot.pods if not each.gone]
    changes = [
        Delete(each.name, each.uid)
        for each in stored
        if each.deleting is None and not (each.is_coordinator and each.ended)
    ]
    run, ended = snapshot.run.run, over_since(snapshot.run.status)
    lifetime = run.spec.ttl_seconds_after_finished if run is not None else None
    if lifetime is None or ended is None:
        return PodPlan(changes=(*changes, *plan_overdue(stored, now)))
    due = ended + timedelta(seconds=lifetime)
    return PodPlan(
        changes=(*changes, *plan_overdue(stored, now)), delete_run=now >= due, until=due if due > now else None
    )
