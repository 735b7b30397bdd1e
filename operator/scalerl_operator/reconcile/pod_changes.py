"""The changes of a run's pods: those that are missing, too many, or on a node that does not answer. PURE."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from scalerl_api.status import AttemptStatus
from scalerl_operator.reconcile.excluded_nodes import is_refused
from scalerl_operator.reconcile.observed_pod import ObservedPod
from scalerl_operator.resources.names import COORDINATOR, PodRole
from scalerl_operator.run.attempts import History

GENERATOR_SECONDS = 15.0  # least age of a failed generator's pod before it is replaced
OVERDUE_SECONDS = 60.0  # a pod still stored this long after its grace is on a node that does not answer


@dataclass(frozen=True)
class Create:
    """Create the pod of `pod_role`, for `attempt`."""

    pod_role: PodRole
    attempt: int
    replicas: int | None = None
    """Trainer pods of the attempt, where they are fewer than the spec has."""


@dataclass(frozen=True)
class Delete:
    """Delete a pod; `now`: without grace."""

    name: str
    uid: str
    now: bool = False


Change = Create | Delete


def missing_trainers(history: History, stored: Sequence[ObservedPod], wanted: int) -> list[Create]:
    """The running attempt's pods that were never created, the coordinator last: its pod proves that all others were."""
    running = history.running
    if running is None or running.seen or running.stop_cause is not None:
        return []
    if any(each.pod_role.role == "trainer" and each.attempt != running.number for each in stored):
        return []  # the names are in use: one pod a role and index, one attempt at a time
    there = {each.pod_role for each in stored}
    pod_roles = [*(PodRole("trainer", index) for index in range(1, running.replicas)), COORDINATOR]
    return [Create(each, running.number, _fewer(running, wanted)) for each in pod_roles if each not in there]


def _fewer(running: AttemptStatus, wanted: int) -> int | None:
    return running.replicas if running.replicas < wanted else None


def plan_generators(wanted: int, attempt: int, stored: Sequence[ObservedPod], now: datetime) -> Iterator[Change]:
    """Yield changes that keep the lowest `wanted` indices; a generator that ended is replaced alone."""
    there = {each.pod_role.index: each for each in stored if each.pod_role.role == "generator"}
    for index, pod in sorted(there.items()):
        dead = (pod.over or is_refused(pod)) and now >= generator_due(pod)
        if pod.deleting is None and (index >= wanted or dead):
            yield Delete(pod.name, pod.uid)
    for index in range(wanted):
        if index not in there:
            yield Create(PodRole("generator", index), attempt)


def generator_due(pod: ObservedPod) -> datetime:
    """Return when a generator's pod that failed may be replaced."""
    return pod.created + timedelta(seconds=GENERATOR_SECONDS)


def plan_overdue(stored: Sequence[ObservedPod], now: datetime) -> Iterator[Delete]:
    """Yield forced deletions of pods on nodes that do not answer: nothing else removes them from the API server."""
    for pod in stored:
        if pod.deleting is not None and now >= pod.deleting + timedelta(seconds=OVERDUE_SECONDS):
            yield Delete(pod.name, pod.uid, now=True)
