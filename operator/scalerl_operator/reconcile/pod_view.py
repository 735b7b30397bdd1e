"""Pods and events as a person is shown them: where a pod is, what it waits for, what happened. PURE."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from scalerl_operator.reconcile.observed_pod import ContainerWait, ObservedPod, join_texts
from scalerl_operator.resources.names import ROLES, Role

Document = Mapping[str, Any]


@dataclass(frozen=True)
class PodView:
    """The row of a pod in a table."""

    name: str
    phase: str
    ready: bool
    node: str
    created: datetime
    restarts: int
    waits: str
    """The reason it waits, or how it ended; empty for one that is ready."""


def build_pod_view(pod: ObservedPod, warning: str = "") -> PodView:
    """Return the row of `pod`; `warning` is that of an event about it."""
    waits = "; ".join(text for text in (describe_wait(pod), warning) if text)
    return PodView(pod.name, pod.phase, pod.ready, pod.node, pod.created, pod.restarts, waits)


def describe_wait(pod: ObservedPod) -> str:
    """Return what `pod` waits for, or how it ended; empty for one that is ready."""
    if pod.deleting is not None:
        return f"is ending, has until {pod.deleting:%H:%M:%S}"
    if _is_finished(pod):
        return _describe_end(pod)
    if not pod.node:
        return pod.unscheduled or f"no word from the scheduler {pod.scheduler}"
    unusual = [each for each in pod.container_waits if not each.is_usual]
    waits = unusual or pod.container_waits[:1]
    if waits:
        return "; ".join(map(_describe_container, waits))
    if pod.phase == "Pending":
        return "the kubelet has not started it"
    return "" if pod.ready else "runs, is not ready"


def has_no_process(pod: ObservedPod) -> bool:
    """Whether no process of `pod` has begun: events may give the reason."""
    if pod.deleting is not None or _is_finished(pod):
        return False
    return not pod.node or bool(pod.container_waits) or pod.phase == "Pending"


def _is_finished(pod: ObservedPod) -> bool:
    return pod.phase in ("Succeeded", "Failed")


def _describe_container(wait: ContainerWait) -> str:
    """Return `runtime: ImagePullBackOff: Back-off pulling image`."""
    return join_texts(wait.container, wait.reason or "waiting", wait.message)


def _describe_end(pod: ObservedPod) -> str:
    code = f"exit code {pod.exit_code}" if pod.exit_code is not None else ""
    parts = dict.fromkeys((code, pod.reason, pod.pod_reason))
    return ", ".join(part for part in parts if part and part not in ("Completed", "Error")) or "ended"


def order_pods(
    pods: Iterable[ObservedPod], run: str, *, role: Role | None = None, index: int | None = None
) -> list[ObservedPod]:
    """Return the pods of `run` with that role and index (None: all), trainers first, by index."""
    chosen = [
        each
        for each in pods
        if each.run[1] == run and role in (None, each.pod_role.role) and index in (None, each.pod_role.index)
    ]
    return sorted(chosen, key=lambda each: (ROLES.index(each.pod_role.role), each.pod_role.index))


@dataclass(frozen=True)
class EventView:
    """Something that happened, perhaps several times."""

    time: datetime
    """The last time."""
    kind: str
    """Normal or Warning."""
    reason: str
    message: str
    count: int


def parse_event(document: Document) -> EventView:
    """Return an event in an API server's JSON, of the old kind or the new."""
    series = document.get("series") or {}
    times = (series.get("lastObservedTime"), document.get("lastTimestamp"), document.get("eventTime"))
    last_time = next((each for each in times if each), document["metadata"]["creationTimestamp"])
    return EventView(
        time=datetime.fromisoformat(last_time),
        kind=document.get("type", "Normal"),
        reason=document.get("reason", ""),
        message=document.get("message", "").strip(),
        count=series.get("count") or document.get("count") or 1,
    )


def last_events(documents: Iterable[Document], limit: int) -> list[EventView]:
    """Return the last `limit` events, oldest first."""
    return sorted(map(parse_event, documents), key=lambda each: each.time)[-limit:]
