"""What the API server says, as values: a run, its pods, what its coordinator told. PURE.

Dicts end here: everything behind this module is typed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from scalerl_api import Fault, InvalidRun, RLRun, RLRunStatus, parse_run
from scalerl_api.wire import Checkpoint, EvalPoint, Progress, Termination
from scalerl_operator.decide.curve_samples import CurveSamples
from scalerl_operator.resources.names import CONTAINER, COORDINATOR, LABEL_RUN, PodRole, parse_pod_role
from scalerl_operator.resources.pod import check_pods
from scalerl_operator.run.observed import Assessment

Key = tuple[str, str]
"""(namespace, name) of a run."""

# A pod that Kubernetes ended without its container's doing: `status.reason`, where no DisruptionTarget says so.
_LOST_REASONS = ("Evicted", "NodeLost", "NodeShutdown", "Shutdown", "Terminated", "Preempting", "NodeAffinity")


@dataclass(frozen=True)
class ObservedRun:
    """An RLRun as it is stored."""

    key: Key
    uid: str
    version: int
    """resourceVersion: of two snapshots of an object the one with the larger number is the later."""
    generation: int
    managed_by: str
    deleting: bool
    annotations: Mapping[str, str]
    document: Mapping[str, Any]
    """Name, namespace and spec, as the coordinator reads them."""
    run: RLRun | None
    """None if it cannot be understood."""
    faults: tuple[Fault, ...] = ()
    """Why it cannot."""
    status: RLRunStatus | None = None
    """As it was written last; fields that a newer operator added are left out."""
    is_status_foreign: bool = False
    """The status is not empty and cannot be understood: to act without it could start a run that is over."""
    created: datetime | None = None
    """By the API server's clock."""


@dataclass(frozen=True)
class ObservedPod:
    """A pod of a run."""

    run: Key
    name: str
    uid: str
    owner: str
    """uid of its run: a run of the same name that is gone may still have pods."""
    version: int
    place: PodRole
    attempt: int | None
    """Of a trainer's pod."""
    created: datetime
    phase: str = "Pending"
    ready: bool = False
    ip: str = ""
    started: datetime | None = None
    """When the container `runtime` began."""
    exit_code: int | None = None
    """Of the container `runtime`, once it has ended for good."""
    last_words: str = ""
    """Its termination message."""
    reason: str = ""
    """The container's or pod's own word for its end: OOMKilled, Evicted."""
    reasons: frozenset[str] = frozenset()
    """Every word for its end: the container's, the pod's, those of its true conditions."""
    conditions: Mapping[str, str] = field(default_factory=dict)
    """Type -> status."""
    waiting: str = ""
    """What it waits for before it runs, by the scheduler's or the kubelet's word; empty if they say nothing."""
    silent: bool = False
    """All its containers have ended for good. The kubelet says its phase only later, when it has cleaned up."""
    lost: bool = False
    """A node, an eviction or a preemption ended it, not its process."""
    deleting: datetime | None = None
    """When its grace ends; None while nobody has deleted it."""
    gone: bool = False
    """It is no longer stored; this is the last that was seen of it."""

    @property
    def over(self) -> bool:
        """Whether its process has ended for good."""
        return self.ended or self.exit_code is not None

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs, a user's further containers included: it holds no device."""
        return self.gone or self.silent or self.phase in ("Succeeded", "Failed")

    @property
    def is_coordinator(self) -> bool:
        """Whether it drives the run."""
        return self.place == COORDINATOR


@dataclass(frozen=True)
class PollResult:
    """What the running coordinator has told this operator, and what that means."""

    watched: datetime | None = None
    """Since when it is asked; None before."""
    asked: bool = False
    """Whether it has been asked at least once, answered or not."""
    attempt: int = 0
    """Whom this is about."""
    progress: Progress | None = None
    heard: datetime | None = None
    """When it answered last."""
    heard_out: bool = False
    """Whether its last words have been judged: it may have measured once more after its last answer."""
    evals: tuple[EvalPoint, ...] = ()
    eta_seconds: float | None = None
    judged: Assessment | None = None
    """None until a point was judged by this operator."""
    trace: CurveSamples | None = None
    """Where the curve lies, for dashboards."""


@dataclass(frozen=True)
class Snapshot:
    """One run with everything of it, as of one moment."""

    run: ObservedRun
    pods: tuple[ObservedPod, ...] = ()
    told: PollResult = field(default_factory=PollResult)


def run_key(document: Mapping[str, Any]) -> Key:
    """Return which run an API server's JSON is."""
    return document["metadata"]["namespace"], document["metadata"]["name"]


def parse_observed_run(document: Mapping[str, Any], known: ObservedRun | None = None) -> ObservedRun:
    """Return the run in an API server's JSON.

    Args:
        known: an earlier snapshot of that name, if there is one: a spec that is still the same is not parsed again.
    """
    metadata = document["metadata"]
    uid, generation = metadata["uid"], int(metadata.get("generation", 1))
    if known is None or (known.uid, known.generation) != (uid, generation):
        known = _parse_spec(document, uid, generation)
    status = _parse_status(document.get("status"))
    return replace(
        known,
        version=int(metadata["resourceVersion"]),
        deleting="deletionTimestamp" in metadata,
        annotations=dict(metadata.get("annotations", {})),
        status=status,
        is_status_foreign=status is None and bool(document.get("status")),
    )


def _parse_spec(document: Mapping[str, Any], uid: str, generation: int) -> ObservedRun:
    """What stays the same until the spec is edited."""
    metadata, key = document["metadata"], run_key(document)
    bare = {
        "apiVersion": document["apiVersion"],
        "kind": document["kind"],
        "metadata": {"name": key[1], "namespace": key[0]},
        "spec": document.get("spec", {}),
    }
    run, faults = _understand(bare)
    return ObservedRun(
        key=key,
        uid=uid,
        version=0,
        generation=generation,
        managed_by=bare["spec"].get("managedBy", ""),
        deleting=False,
        annotations={},
        document=bare,
        run=run,
        faults=faults,
        created=_time(metadata["creationTimestamp"]) if "creationTimestamp" in metadata else None,
    )


def _understand(bare: Mapping[str, Any]) -> tuple[RLRun | None, tuple[Fault, ...]]:
    try:
        run = parse_run(bare)
    except InvalidRun as error:
        return None, error.faults
    faults = tuple(check_pods(run))
    return (None, faults) if faults else (run, ())


def _parse_status(value: object) -> RLRunStatus | None:
    """A field that a newer operator added is passed over."""
    if not value:
        return None
    try:
        return RLRunStatus.model_validate(value, extra="ignore")
    except ValidationError:
        return None


def parse_observed_pod(document: Mapping[str, Any], *, gone: bool = False) -> ObservedPod | None:
    """Return the pod in an API server's JSON; None for a pod that is not a run's."""
    metadata, status = document["metadata"], document.get("status", {})
    labels = metadata.get("labels", {})
    found = parse_pod_role(labels)
    if found is None or LABEL_RUN not in labels:
        return None
    place, attempt = found
    state = _container_state(status)
    ended = state.get("terminated") or {}
    running = state.get("running") or ended
    conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
    for_good = bool(ended) and document.get("spec", {}).get("restartPolicy") != "Always"
    said = [ended.get("reason", ""), status.get("reason", "")]
    true = [each.get("reason", "") for each in status.get("conditions", []) if each["status"] == "True"]
    return ObservedPod(
        run=(metadata["namespace"], labels[LABEL_RUN]),
        name=metadata["name"],
        uid=metadata["uid"],
        owner=next((each["uid"] for each in metadata.get("ownerReferences", []) if each.get("controller")), ""),
        version=int(metadata["resourceVersion"]),
        place=place,
        attempt=attempt,
        created=_time(metadata["creationTimestamp"]),
        silent=for_good and all("terminated" in each.get("state", {}) for each in status["containerStatuses"]),
        phase=status.get("phase", "Pending"),
        ready=conditions.get("Ready") == "True",
        ip=status.get("podIP", ""),
        started=_time(running["startedAt"]) if running.get("startedAt") else None,
        exit_code=int(ended["exitCode"]) if for_good else None,
        last_words=ended.get("message", ""),
        reason=said[0] or said[1],
        reasons=frozenset([*said, *true]) - {""},
        conditions=conditions,
        waiting=_waiting(status),
        lost=conditions.get("DisruptionTarget") == "True" or status.get("reason", "") in _LOST_REASONS,
        deleting=_time(metadata["deletionTimestamp"]) if "deletionTimestamp" in metadata else None,
        gone=gone,
    )


def _container_state(status: Mapping[str, Any]) -> Mapping[str, Any]:
    found = [each for each in status.get("containerStatuses", []) if each["name"] == CONTAINER]
    state: Mapping[str, Any] = found[0].get("state", {}) if found else {}
    return state


# What a kubelet says of every container for a moment: that it is being made.
_USUAL_WAITS = ("ContainerCreating", "PodInitializing")


def _waiting(status: Mapping[str, Any]) -> str:
    """Why the pod does not run: no node, else the first container that says more than that it is being made."""
    for each in status.get("conditions", []):
        if each["type"] == "PodScheduled" and each["status"] == "False":
            return _reason_and_message(each)
    containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    waits = [each["state"]["waiting"] for each in containers if each.get("state", {}).get("waiting")]
    unusual = [each for each in waits if each.get("reason") not in _USUAL_WAITS]
    return next((_reason_and_message(each) for each in [*unusual, *waits]), "")


def _reason_and_message(value: Mapping[str, Any]) -> str:
    return ": ".join(each for each in (value.get("reason", ""), value.get("message", "")) if each)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def last_evals(pods: Sequence[ObservedPod]) -> list[EvalPoint]:
    """Return the evaluations in coordinators' last words, which were perhaps made after their last answers."""
    return [each.last_eval for each in _coordinators_words(pods) if each.last_eval is not None]


def last_checkpoint(pods: Sequence[ObservedPod], *, since: int) -> Checkpoint | None:
    """Return the newest checkpoint in coordinators' last words: who is asked to end saves after its last answer.

    Args:
        since: attempt that has answered last; what those before it have left may be damaged by now.
    """
    recent = [each for each in pods if each.attempt is not None and each.attempt >= since]
    told = [each.checkpoint for each in _coordinators_words(recent) if each.checkpoint is not None]
    return max(told, key=lambda each: each.step, default=None)


def _coordinators_words(pods: Sequence[ObservedPod]) -> Iterator[Termination]:
    words = (parse_last_words(each) for each in pods if each.is_coordinator and each.last_words)
    return (each for each in words if each is not None)


def parse_last_words(pod: ObservedPod) -> Termination | None:
    """Return the coordinator's Termination; None if it left none that can be read."""
    try:
        return Termination.model_validate_json(pod.last_words)
    except ValidationError:
        return None
