"""A pod of a run, from the API server's JSON, and what its coordinator's termination message holds. PURE."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pydantic import ValidationError

from scalerl_api.wire import EXIT_UNFIT, Checkpoint, EvalPoint, Termination, UnfitNode
from scalerl_operator.reconcile.observed_run import Key
from scalerl_operator.resources.names import CONTAINER, COORDINATOR, LABEL_RUN, PodRole, parse_pod_role

Document = Mapping[str, Any]
ContainerState = Literal["", "waiting", "running", "terminated"]

# `status.reason` of a pod that Kubernetes ended without its container's doing, where no DisruptionTarget reports it.
_LOST_REASONS = ("Evicted", "NodeLost", "NodeShutdown", "Shutdown", "Terminated", "Preempting", "NodeAffinity")
# A kubelet reports these for every container while it is being made, or while an init container runs.
_USUAL_WAITS = ("ContainerCreating", "PodInitializing")


@dataclass(frozen=True)
class ContainerWait:
    """Why a container does not run yet, as the kubelet reports it."""

    container: str
    reason: str
    message: str

    @property
    def is_usual(self) -> bool:
        """Whether the container is only being made."""
        return self.reason in _USUAL_WAITS


@dataclass(frozen=True)
class ObservedPod:
    """A pod of a run."""

    run: Key
    name: str
    uid: str
    owner: str
    """uid of its run: pods of a deleted run of the same name may still exist."""
    version: int
    """resourceVersion."""
    pod_role: PodRole
    attempt: int | None
    """Of a trainer's pod."""
    created: datetime
    phase: str = "Pending"
    ready: bool = False
    ip: str = ""
    node: str = ""
    """Empty until a scheduler has bound it."""
    scheduler: str = ""
    """Name of the scheduler that binds it."""
    unscheduled: str = ""
    """Why it is not bound, by the scheduler's condition; empty if there is none."""
    container_waits: tuple[ContainerWait, ...] = ()
    """Init containers first."""
    image: str = ""
    """Of the container `runtime`, as are the next six."""
    container_state: ContainerState = ""
    """Empty until a kubelet reports it."""
    restarts: int = 0
    """How often the kubelet has started it again."""
    started: datetime | None = None
    """When its process began."""
    exit_code: int | None = None
    """Once it has ended for good."""
    termination_message: str = ""
    """Its termination message."""
    unfit_nodes: tuple[UnfitNode, ...] = ()
    """Nodes that its process refused when it ended last, with EXIT_UNFIT."""
    reason: str = ""
    """Why it ended, else why the pod did: OOMKilled, Evicted."""
    pod_reason: str = ""
    """`status.reason`: why the pod ended."""
    reasons: frozenset[str] = frozenset()
    """Every reason of its end: the container's, the pod's, those of its true conditions."""
    conditions: Mapping[str, str] = field(default_factory=dict)
    """Type -> status."""
    containers_ended: bool = False
    """All its containers have ended for good. The kubelet sets the phase only later, after its clean-up."""
    lost: bool = False
    """A node, an eviction or a preemption ended it, not its process."""
    deleting: datetime | None = None
    """When its grace ends; None while it is not deleted."""
    gone: bool = False
    """It is no longer stored; this is its last state."""

    @property
    def over(self) -> bool:
        """Whether its process has ended for good."""
        return self.ended or self.exit_code is not None

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs, a user's further containers included: it holds no device."""
        return self.gone or self.containers_ended or self.phase in ("Succeeded", "Failed")

    @property
    def is_coordinator(self) -> bool:
        """Whether it drives the run."""
        return self.pod_role == COORDINATOR

    @property
    def waiting(self) -> str:
        """The reason it does not run yet: a node, else the first container that is not merely being made."""
        unusual = [each for each in self.container_waits if not each.is_usual]
        waits = (join_texts(each.reason, each.message) for each in [*unusual, *self.container_waits])
        return self.unscheduled or next(filter(None, waits), "")

    @property
    def has_log(self) -> bool:
        """Whether the container `runtime` has a log: it runs or has ended."""
        return self.container_state in ("running", "terminated")

    @property
    def log_key(self) -> tuple[str, int]:
        """(uid, restarts): each start of the container has a log of its own."""
        return self.uid, self.restarts


def join_texts(*texts: str) -> str:
    """Return the texts that are not empty, with colons between them."""
    return ": ".join(text for text in texts if text)


def parse_observed_pod(document: Document, *, gone: bool = False) -> ObservedPod | None:
    """Return the pod in an API server's JSON; None for a pod that is not a run's."""
    metadata, spec, status = document["metadata"], document.get("spec", {}), document.get("status", {})
    labels = metadata.get("labels", {})
    found = parse_pod_role(labels)
    if found is None or LABEL_RUN not in labels:
        return None
    conditions = {each["type"]: each for each in status.get("conditions", [])}
    statuses = {name: each["status"] for name, each in conditions.items()}
    scheduled = conditions.get("PodScheduled", {"status": "True"})
    return ObservedPod(
        run=(metadata["namespace"], labels[LABEL_RUN]),
        name=metadata["name"],
        uid=metadata["uid"],
        owner=next((each["uid"] for each in metadata.get("ownerReferences", []) if each.get("controller")), ""),
        version=int(metadata["resourceVersion"]),
        pod_role=found[0],
        attempt=found[1],
        created=_time(metadata["creationTimestamp"]),
        phase=status.get("phase", "Pending"),
        ready=statuses.get("Ready") == "True",
        ip=status.get("podIP", ""),
        node=spec.get("nodeName", ""),
        scheduler=spec.get("schedulerName", "default-scheduler"),
        unscheduled=_reason_and_message(scheduled) if scheduled["status"] != "True" else "",
        container_waits=tuple(_container_waits(status)),
        image=_runtime(spec.get("containers", [])).get("image", ""),
        conditions=statuses,
        lost=statuses.get("DisruptionTarget") == "True" or status.get("reason", "") in _LOST_REASONS,
        deleting=_time(metadata["deletionTimestamp"]) if "deletionTimestamp" in metadata else None,
        gone=gone,
        **_container_fields(spec, status),
    )


def _container_fields(spec: Document, status: Document) -> dict[str, Any]:
    """The fields about the container `runtime`, and about its end."""
    statuses = status.get("containerStatuses", [])
    container = _runtime(statuses)
    state = container.get("state", {})
    ended = state.get("terminated") or {}
    running = state.get("running") or ended
    is_restarted = spec.get("restartPolicy") == "Always" and status.get("phase") not in ("Succeeded", "Failed")
    is_over = bool(ended) and not is_restarted
    reasons = [ended.get("reason", ""), status.get("reason", "")]
    true = [each.get("reason", "") for each in status.get("conditions", []) if each["status"] == "True"]
    known: tuple[ContainerState, ...] = ("waiting", "running", "terminated")
    return {
        "container_state": next((each for each in known if each in state), ""),
        "restarts": container.get("restartCount", 0),
        "started": _time(running["startedAt"]) if running.get("startedAt") else None,
        "exit_code": int(ended["exitCode"]) if is_over else None,
        "termination_message": ended.get("message", ""),
        "unfit_nodes": _unfit_nodes(ended or (container.get("lastState") or {}).get("terminated") or {}),
        "reason": reasons[0] or reasons[1],
        "pod_reason": reasons[1],
        "reasons": frozenset([*reasons, *true]) - {""},
        "containers_ended": is_over and all("terminated" in each.get("state", {}) for each in statuses),
    }


def _unfit_nodes(ended: Document) -> tuple[UnfitNode, ...]:
    if ended.get("exitCode") != EXIT_UNFIT:
        return ()
    try:
        return tuple(Termination.model_validate_json(ended.get("message", "")).unfit_nodes)
    except ValidationError:
        return ()


def _runtime(entries: Iterable[Document]) -> Document:
    return next((each for each in entries if each["name"] == CONTAINER), {})


def _container_waits(status: Document) -> Iterator[ContainerWait]:
    for each in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        wait = each.get("state", {}).get("waiting")
        if wait is not None:
            yield ContainerWait(each["name"], wait.get("reason", ""), wait.get("message", ""))


def _reason_and_message(condition: Document) -> str:
    return join_texts(condition.get("reason", ""), condition.get("message", ""))


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def last_evals(pods: Sequence[ObservedPod]) -> list[EvalPoint]:
    """Return the evaluations in coordinators' termination messages: they may be newer than the last poll."""
    return [each.last_eval for each in _terminations(pods) if each.last_eval is not None]


def last_checkpoint(pods: Sequence[ObservedPod], *, since: int) -> Checkpoint | None:
    """Return the newest checkpoint in coordinators' termination messages: the last one is saved after the last poll.

    Args:
        since: attempt that answered last; checkpoints of those before it may be damaged by now.
    """
    recent = [each for each in pods if each.attempt is not None and each.attempt >= since]
    found = [each.checkpoint for each in _terminations(recent) if each.checkpoint is not None]
    return max(found, key=lambda each: each.step, default=None)


def _terminations(pods: Sequence[ObservedPod]) -> Iterator[Termination]:
    found = (parse_termination(each) for each in pods if each.is_coordinator and each.termination_message)
    return (each for each in found if each is not None)


def parse_termination(pod: ObservedPod) -> Termination | None:
    """Return the coordinator's termination message; None if there is none, or it cannot be parsed."""
    try:
        return Termination.model_validate_json(pod.termination_message)
    except ValidationError:
        return None
