"""The text of what pending pods wait for, and the end of their wait. PURE."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from scalerl_api import RLRun
from scalerl_api.status import AttemptStatus
from scalerl_operator.reconcile.observed_pod import ObservedPod

TEXT_LENGTH = 300  # of one wait; schedulers name every node


def count_begun(attempt: AttemptStatus, pods: Sequence[ObservedPod]) -> int:
    """Return how many of an attempt's trainer pods have begun to run."""
    return sum(each.attempt == attempt.number and each.started is not None for each in pods)


def describe_waits(pods: Sequence[ObservedPod]) -> str:
    """Return `trainer-1: Unschedulable: 0/2 nodes are available; generator-0, generator-1: ImagePullBackOff`.

    Pods that wait for the same are named together, in order of role and index; empty if none waits.
    """
    found: dict[str, list[str]] = {}
    for pod in sorted(pods, key=lambda each: (each.pod_role.role != "trainer", each.pod_role.index)):
        if pod.waiting and pod.started is None and not pod.over and pod.deleting is None:
            found.setdefault(pod.waiting[:TEXT_LENGTH], []).append(pod.pod_role.hostname)
    return "; ".join(f"{_name(hostnames)}: {what}" for what, hostnames in found.items())


def _name(hostnames: Sequence[str]) -> str:
    """Return the hostnames, or the first and how many more: a run may have thousands."""
    return ", ".join(hostnames) if len(hostnames) <= 3 else f"{hostnames[0]} and {len(hostnames) - 1} more"


def count_room(attempt: AttemptStatus, pods: Sequence[ObservedPod]) -> int:
    """Return how many of an attempt's trainer pods have a node, or may still get one."""
    mine = [each for each in pods if each.attempt == attempt.number]
    return attempt.replicas - sum(bool(each.unscheduled) and each.started is None for each in mine)


def gang_until(attempt: AttemptStatus, pods: Sequence[ObservedPod], run: RLRun) -> datetime | None:
    """Return when a gang without room for all its pods is given up for a smaller one; None: it is not."""
    least, seconds = run.spec.trainer.min_replicas, run.spec.deadlines.gang_seconds
    if attempt.number == 1 or least is None or not least <= count_room(attempt, pods) < attempt.replicas:
        return None
    return attempt.created + timedelta(seconds=seconds)


def pending_until(attempt: AttemptStatus, pods: Sequence[ObservedPod], pending_seconds: int | None) -> datetime | None:
    """Return when the wait for an attempt's pods is over; None if all have begun, or if it may last for ever."""
    if pending_seconds is None or count_begun(attempt, pods) >= attempt.replicas:
        return None
    return attempt.created + timedelta(seconds=pending_seconds)
