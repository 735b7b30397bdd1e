"""A run's attempts on a cluster: those in the status, updated from the pods of its trainers. PURE."""

from collections.abc import Sequence
from datetime import datetime

from scalerl_api import RLRun
from scalerl_api.status import AttemptStatus, EarlierAttempts
from scalerl_api.wire import EXIT_RETRY, EXIT_UNFIT
from scalerl_operator.decide.failure_policy import Ending, find_rule
from scalerl_operator.decide.restart_budget import count_failures
from scalerl_operator.reconcile.observed_pod import ObservedPod, parse_termination
from scalerl_operator.run.attempts import MAX_MESSAGE_LENGTH, History, active_seconds, termination_fields
from scalerl_operator.run.observed import ObservedState

LISTED = 10  # attempts in the status; older ones are summed


def trim(history: History, run: RLRun, now: datetime) -> History:
    """Return the history with at most LISTED attempts; older ones are summed, so that the status stays small."""
    if len(history.listed) <= LISTED:
        return history
    old, earlier = history.listed[:-LISTED], history.earlier
    failures, retries = count_failures(ObservedState(old, earlier=earlier), every_steps=run.spec.checkpoint.every_steps)
    summed = EarlierAttempts(
        active_seconds=earlier.active_seconds + active_seconds(old, now),
        failures=failures,
        retries=retries,
        checkpoint_step=max([earlier.checkpoint_step or 0, *(each.checkpoint_step or 0 for each in old)]) or None,
    )
    return History(history.listed[-LISTED:], summed)


def begin(history: History, number: int, run: RLRun, now: datetime, accepted_data: str = "") -> History:
    """Return the history with a new attempt, of which no pod exists yet; `accepted_data`: what it was begun for."""
    replicas = plan_replicas(history.last, run)
    new = AttemptStatus(number=number, replicas=replicas, created=now, accepted_data=accepted_data)
    return trim(History((*history.listed, new), history.earlier), run, now)


def plan_replicas(last: AttemptStatus | None, run: RLRun) -> int:
    """Return the number of trainer pods of the attempt after `last`: all, or those that had room a moment ago.

    Ranks that share rows are whole groups: see `sequenceParallel`.
    """
    trainer = run.spec.trainer
    if last is None or last.stop_cause != "GangIncomplete" or last.room is None or trainer.min_replicas is None:
        return trainer.replicas
    room = last.room // trainer.replicas_step * trainer.replicas_step
    return min(max(room, trainer.min_replicas), trainer.replicas)


def refresh(
    history: History, run: RLRun, pods: Sequence[ObservedPod], checkpoint_step: int | None, now: datetime
) -> History:
    """Return the history with the start and the end of the newest attempt, as its pods report them.

    Args:
        checkpoint_step: newest durable checkpoint that was reported, for an attempt without a termination message.
    """
    running = history.running
    if running is None:
        return history
    members = [each for each in pods if each.attempt == running.number]
    coordinator = next((each for each in members if each.is_coordinator), None)
    if coordinator is None and not running.seen:
        stopped = {"ended": now}  # before its coordinator was created
        return history if running.stop_cause is None else history.replace_last(running.model_copy(update=stopped))
    if coordinator is None:  # its end was missed; without a stop cause something else deleted it
        closed = {"ended": now, "infrastructure": running.stop_cause is None, "checkpoint_step": checkpoint_step}
        return history.replace_last(running.model_copy(update=closed))
    running = running.model_copy(update={"seen": True, "started": running.started or coordinator.started})
    if coordinator.over:
        known = {"ended": now, "checkpoint_step": checkpoint_step}
        running = running.model_copy(update={**known, **_close(running, coordinator, members)})
        running = running.model_copy(update=_rule(run, running, _culprit(running, coordinator, members) or coordinator))
    return history.replace_last(running)


def _culprit(attempt: AttemptStatus, coordinator: ObservedPod, members: Sequence[ObservedPod]) -> ObservedPod | None:
    """Return the member whose end made the coordinator end; None where the coordinator ended by itself."""
    if coordinator.exit_code != EXIT_RETRY and attempt.stop_cause != "GangBroken":
        return None
    return next((each for each in members if is_broken(each) and not each.is_coordinator), None)


def _rule(run: RLRun, attempt: AttemptStatus, pod: ObservedPod) -> dict[str, object]:
    """Return the fields of the rule that fits `pod`, which ended the attempt.

    Stored: later rules change no past end.
    """
    if attempt.said in ("Finished", "AllPromptsSolved"):
        return {}
    ending = Ending(attempt.stop_cause, pod.exit_code, pod.conditions, pod.reasons)
    rule = find_rule(run.spec.failure_policy, ending)
    return {"rule": rule.name, "ruled": rule.action} if rule is not None else {}


def _close(attempt: AttemptStatus, coordinator: ObservedPod, members: Sequence[ObservedPod]) -> dict[str, object]:
    """Return the fields of an attempt's end: from the coordinator, or from the member that it lost."""
    termination = parse_termination(coordinator)
    found = termination_fields(termination)
    if termination is not None:
        found["error"] = termination.error[:MAX_MESSAGE_LENGTH]
    if termination is not None and termination.checkpoint is not None:
        found["checkpoint_step"] = termination.checkpoint.step
    member = _culprit(attempt, coordinator, members)
    if member is not None:
        lost = member.lost or member.deleting is not None or member.exit_code is None
        error = f"{member.pod_role.hostname} ended: {_why(member)}"
        return found | {"exit_code": member.exit_code, "infrastructure": lost, "error": error}
    if termination is None and coordinator.reason not in ("Completed", "Error"):
        found["error"] = coordinator.reason
    by_others = coordinator.deleting is not None or coordinator.exit_code is None
    # A coordinator on a lost node first stops answering; the stop that follows is not its own failure.
    lost = coordinator.lost or attempt.stop_cause == "GangBroken" or (attempt.stop_cause is None and by_others)
    return found | {"exit_code": coordinator.exit_code, "infrastructure": lost}


def _why(member: ObservedPod) -> str:
    refusal = parse_termination(member) if member.exit_code == EXIT_UNFIT else None
    return refusal.error[:MAX_MESSAGE_LENGTH] if refusal is not None else member.reason or member.phase


def is_broken(pod: ObservedPod) -> bool:
    """Whether a trainer's pod has ended or is being deleted."""
    return pod.over or pod.deleting is not None


def members_serve(attempt: AttemptStatus, pods: Sequence[ObservedPod]) -> bool:
    """Whether all members but the coordinator run. A member that is deleted serves until its coordinator has saved.

    Kubernetes sets no pod ready on a node that does not answer.
    """
    serving = {each.pod_role.index for each in pods if each.attempt == attempt.number and each.ready and not each.over}
    return serving.issuperset(range(1, attempt.replicas))


def member_ended(attempt: AttemptStatus, pods: Sequence[ObservedPod]) -> bool:
    """Whether a member of the attempt but the coordinator has ended. One that is deleted still serves."""
    return any(each.over and not each.is_coordinator for each in pods if each.attempt == attempt.number)


def find_broken(attempt: AttemptStatus, pods: Sequence[ObservedPod]) -> str | None:
    """Return the member that the running gang has lost; None for a whole gang, or one that is not complete yet.

    The coordinator's pod is created last: once it has existed, every member has.
    """
    if not attempt.seen:
        return None
    members = {each.pod_role.index: each for each in pods if each.attempt == attempt.number}
    for index in range(attempt.replicas):
        if index not in members or (index > 0 and is_broken(members[index])):
            return f"trainer-{index}"
    return None
