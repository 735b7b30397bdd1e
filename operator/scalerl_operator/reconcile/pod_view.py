"""Pods and events as a person is shown them: where a pod stands, what it waits for, what happened. PURE."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from scalerl_operator.resources.names import CONTAINER, LABEL_RUN, ROLES, PodRole, Role, parse_pod_role

Document = Mapping[str, Any]

# A kubelet says of every container that it is created; while an init container runs that says nothing.
_USUAL = ("ContainerCreating", "PodInitializing")


@dataclass(frozen=True)
class PodView:
    """One pod of a run."""

    name: str
    uid: str
    run: str
    place: PodRole
    phase: str
    ready: bool
    node: str
    created: datetime
    restarts: int
    """How often the kubelet has started its container again."""
    begun: bool
    """Its container has run: there is a log."""
    over: bool
    """Its container has ended: nothing more will come into that log."""
    waits: str
    """What it waits for, or how it ended; empty for one that is at work."""
    stuck: bool
    """It has no process yet: events may say why."""
    image: str = ""

    @property
    def life(self) -> tuple[str, int]:
        """Which life of which container: each has a log of its own."""
        return self.uid, self.restarts


def parse_pod(document: Document) -> PodView | None:
    """Return the pod in an API server's JSON; None for a pod that is not a run's."""
    metadata, status = document["metadata"], document.get("status", {})
    labels = metadata.get("labels", {})
    found = parse_pod_role(labels)
    if found is None or LABEL_RUN not in labels:
        return None
    container = _container(status.get("containerStatuses", []))
    state = container.get("state", {})
    conditions = _conditions(status)
    waits, stuck = _describe(document, conditions)
    return PodView(
        name=metadata["name"],
        uid=metadata["uid"],
        run=labels[LABEL_RUN],
        place=found[0],
        phase=status.get("phase", "Pending"),
        ready=conditions.get("Ready", {}).get("status") == "True",
        node=document.get("spec", {}).get("nodeName", ""),
        created=datetime.fromisoformat(metadata["creationTimestamp"]),
        restarts=container.get("restartCount", 0),
        begun="running" in state or "terminated" in state,
        over="terminated" in state,
        waits=waits,
        stuck=stuck,
        image=_container(document.get("spec", {}).get("containers", [])).get("image", ""),
    )


def _container(entries: Iterable[Document]) -> Document:
    return next((each for each in entries if each["name"] == CONTAINER), {})


def _conditions(status: Document) -> dict[str, Document]:
    return {each["type"]: each for each in status.get("conditions", [])}


def _describe(document: Document, conditions: Mapping[str, Document]) -> tuple[str, bool]:
    """Return (what it waits for or how it ended, whether it has no process yet)."""
    metadata, status = document["metadata"], document.get("status", {})
    if "deletionTimestamp" in metadata:
        until = datetime.fromisoformat(metadata["deletionTimestamp"])
        return f"is ending, has until {until:%H:%M:%S}", False
    if status.get("phase") in ("Succeeded", "Failed"):
        return _describe_end(status), False
    if not document.get("spec", {}).get("nodeName"):
        return _describe_placing(document, conditions), True
    waiting = [*_waiting(status.get("initContainerStatuses", [])), *_waiting(status.get("containerStatuses", []))]
    telling = [each for each in waiting if not each.endswith(_USUAL)] or waiting[:1]
    if telling:
        return "; ".join(telling), True
    if status.get("phase", "Pending") == "Pending":
        return "the kubelet has not started it", True
    return ("" if conditions.get("Ready", {}).get("status") == "True" else "runs, is not ready"), False


def _waiting(statuses: Sequence[Document]) -> list[str]:
    """What each container waits for: `runtime: ImagePullBackOff: Back-off pulling image`."""
    found = []
    for each in statuses:
        state = each.get("state", {}).get("waiting")
        if state is not None:
            parts = [each["name"], state.get("reason", "waiting"), state.get("message", "")]
            found.append(": ".join(part for part in parts if part))
    return found


def _describe_placing(document: Document, conditions: Mapping[str, Document]) -> str:
    placed = conditions.get("PodScheduled")
    if placed is not None and placed["status"] != "True":
        return ": ".join(part for part in (placed.get("reason", ""), placed.get("message", "")) if part)
    return f"no word from the scheduler {document.get('spec', {}).get('schedulerName', 'default-scheduler')}"


def _describe_end(status: Document) -> str:
    state = _container(status.get("containerStatuses", [])).get("state", {}).get("terminated", {})
    parts = [f"exit code {state['exitCode']}" if "exitCode" in state else "", state.get("reason", "")]
    parts.append(status.get("reason", ""))
    return ", ".join(part for part in parts if part and part not in ("Completed", "Error")) or "ended"


def order_pods(
    pods: Iterable[PodView], run: str, *, role: Role | None = None, index: int | None = None
) -> list[PodView]:
    """Return the pods of `run` that are meant, trainers first, by index."""
    chosen = [
        each
        for each in pods
        if each.run == run and role in (None, each.place.role) and index in (None, each.place.index)
    ]
    return sorted(chosen, key=lambda each: (ROLES.index(each.place.role), each.place.index))


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
    told = next((each for each in times if each), document["metadata"]["creationTimestamp"])
    return EventView(
        time=datetime.fromisoformat(told),
        kind=document.get("type", "Normal"),
        reason=document.get("reason", ""),
        message=document.get("message", "").strip(),
        count=series.get("count") or document.get("count") or 1,
    )


def last_events(documents: Iterable[Document], limit: int) -> list[EventView]:
    """Return the last `limit` events, oldest first."""
    return sorted(map(parse_event, documents), key=lambda each: each.time)[-limit:]
