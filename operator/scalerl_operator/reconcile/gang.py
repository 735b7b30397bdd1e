"""A run's attempts on a cluster: what the status remembers, what pods say of them now. PURE."""

from collections.abc import Sequence
from datetime import datetime

from scalerl_api import RLRun
from scalerl_api.status import AttemptStatus, EarlierAttempts
from scalerl_api.wire import EXIT_RETRY
from scalerl_operator.decide.failure_policy import Ending, find_rule
from scalerl_operator.decide.restart_budget import count_failures
from scalerl_operator.reconcile.observed_pod import ObservedPod, parse_last_words
from scalerl_operator.run.attempts import MAX_MESSAGE_LENGTH, History, active_seconds, termination_fields
from scalerl_operator.run.observed import ObservedState

LISTED = 10  # attempts in the status; what older ones cost is summed


def trim(history: History, run: RLRun, now: datetime) -> History:
    """Return the history with its oldest attempts summed, so that the status stays small."""
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


def begin(history: History, number: int, run: RLRun, now: datetime) -> History:
    """Return the history with a new attempt, whose pods are to be made."""
    new = AttemptStatus(number=number, replicas=run.spec.trainer.replicas, created=now)
    return trim(History((*history.listed, new), history.earlier), run, now)


def refresh(
    history: History, run: RLRun, pods: Sequence[ObservedPod], checkpoint_step: int | None, now: datetime
) -> History:
    """Return the history as the pods show it: whether the newest attempt has begun, and how it has ended.

    Args:
        checkpoint_step: newest durable checkpoint that the coordinator has told of, for one that leaves no word.
    """
    running = history.running
    if running is None:
        return history
    mine = [each for each in pods if each.attempt == running.number]
    coordinator = next((each for each in mine if each.is_coordinator), None)
    if coordinator is None and not running.seen:
        stopped = {"ended": now}  # before it had begun
        return history if running.stop_cause is None else history.replace_last(running.model_copy(update=stopped))
    if coordinator is None:  # nobody saw its end; if we did not ask for it, somebody else did
        closed = {"ended": now, "infrastructure": running.stop_cause is None, "checkpoint_step": checkpoint_step}
        return history.replace_last(running.model_copy(update=closed))
    running = running.model_copy(update={"seen": True, "started": running.started or coordinator.started})
    if coordinator.over:
        told = {"checkpoint_step": checkpoint_step}
        running = running.model_copy(update={"ended": now, **told, **_close(running, coordinator, mine)})
        running = running.model_copy(update=_rule(run, running, _culprit(running, coordinator, mine) or coordinator))
    return history.replace_last(running)


def _culprit(attempt: AttemptStatus, coordinator: ObservedPod, mine: Sequence[ObservedPod]) -> ObservedPod | None:
    """The member whose end was the coordinator's; None where the coordinator ended by itself."""
    if coordinator.exit_code != EXIT_RETRY and attempt.stop_cause != "GangBroken":
        return None
    return next((each for each in mine if is_broken(each) and not each.is_coordinator), None)


def _rule(run: RLRun, attempt: AttemptStatus, pod: ObservedPod) -> dict[str, object]:
    """What the user's rules say of `pod`, which ended the attempt. It is written down: later rules change no past."""
    if attempt.said == "Finished":
        return {}
    ending = Ending(attempt.stop_cause, pod.exit_code, pod.conditions, pod.reasons)
    rule = find_rule(run.spec.failure_policy, ending)
    return {"rule": rule.name, "ruled": rule.action} if rule is not None else {}


def _close(attempt: AttemptStatus, coordinator: ObservedPod, mine: Sequence[ObservedPod]) -> dict[str, object]:
    """How an attempt ended: by the coordinator's own word, unless that is that it has lost a member."""
    words = parse_last_words(coordinator)
    found = termination_fields(words)
    if words is not None:
        found["error"] = words.error[:MAX_MESSAGE_LENGTH]
    if words is not None and words.checkpoint is not None:
        found["checkpoint_step"] = words.checkpoint.step
    member = _culprit(attempt, coordinator, mine)
    if member is not None:
        lost = member.lost or member.deleting is not None or member.exit_code is None
        error = f"{member.place.hostname} ended: {member.reason or member.phase}"
        return found | {"exit_code": member.exit_code, "infrastructure": lost, "error": error}
    if words is None and coordinator.reason not in ("Completed", "Error"):
        found["error"] = coordinator.reason
    by_others = coordinator.deleting is not None or coordinator.exit_code is None
    # A coordinator on a lost node falls silent first: that it was then asked to end is no fault of its own.
    lost = coordinator.lost or attempt.stop_cause == "GangBroken" or (attempt.stop_cause is None and by_others)
    return found | {"exit_code": coordinator.exit_code, "infrastructure": lost}


def is_broken(pod: ObservedPod) -> bool:
    """Whether a trainer's pod is of no more use."""
    return pod.over or pod.deleting is not None


def members_serve(attempt: AttemptStatus, pods: Sequence[ObservedPod]) -> bool:
    """Whether all of the gang but its coordinator run. A member that is deleted serves until its coordinator has saved.

    On a node that does not answer no pod is ready, by Kubernetes' own word.
    """
    serving = {each.place.index for each in pods if each.attempt == attempt.number and each.ready and not each.over}
    return serving.issuperset(range(1, attempt.replicas))


def find_broken(attempt: AttemptStatus, pods: Sequence[ObservedPod]) -> str | None:
    """Return which member the running gang has lost; None for a whole gang, or one that is not complete yet.

    The coordinator's pod is made last: when it has been seen, every member has been made.
    """
    if not attempt.seen:
        return None
    mine = {each.place.index: each for each in pods if each.attempt == attempt.number}
    for index in range(attempt.replicas):
        if index not in mine or (index > 0 and is_broken(mine[index])):
            return f"trainer-{index}"
    return None
