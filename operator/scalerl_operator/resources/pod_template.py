"""A user's PodTemplateSpec and ours: what may be written, and one pod of both. PURE.

Ours wins nowhere silently: what the operator owns is refused by name, everything else of the user's passes through.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from scalerl_api import Fault
from scalerl_api.passthrough import PodTemplate
from scalerl_api.wire import PORT_HTTP
from scalerl_operator.resources.names import (
    CACHE_FOLDER,
    CONTAINER,
    OWNED_PREFIXES,
    PORT_NAME,
    RUN_FOLDER,
    SCRATCH_FOLDER,
    SHARED_MEMORY,
    SPEC_FOLDER,
    TOKEN_FOLDER,
    VOLUME_PREFIX,
)

Json = dict[str, Any]

GPU = "nvidia.com/gpu"
LABEL_HOSTNAME = "kubernetes.io/hostname"
PROTOCOLS = ("TCP", "UDP", "SCTP")
ENV_PREFIXES = ("SCALERL_", "RAY_AUTH_")  # Ray's: without the token, whoever reaches a pod runs code in it

# Fields that the operator sets in a pod, and the spec's fields to use instead.
_OWNED_IN_POD = {
    "restartPolicy": "set by the operator, by role",
    "hostname": "set by the operator: peers find each other by it",
    "subdomain": "set by the operator: peers find each other by it",
    "terminationGracePeriodSeconds": "follows from deadlines.checkpointSeconds",
    "activeDeadlineSeconds": "use deadlines.activeSeconds",
    "ephemeralContainers": "not part of a template",
    "hostNetwork": "Ray's ports are fixed, so that two pods on a node would clash; docs/gpu-cluster.md has other ways",
    "nodeName": "use nodeSelector or affinity: a run's pods are scheduled",
}
_OWNED_IN_CONTAINER = {
    "command": "set by the operator",
    "args": "set by the operator",
    "terminationMessagePath": "set by the operator: the coordinator's termination message goes there",
    "terminationMessagePolicy": "set by the operator: the coordinator's termination message goes there",
    "readinessProbe": "set by the operator",
    "livenessProbe": "set by the operator",
    "startupProbe": "set by the operator",
    "lifecycle": "set by the operator: SIGTERM saves a checkpoint",
}
_OWNED_PLACES = (SPEC_FOLDER, TOKEN_FOLDER, RUN_FOLDER, CACHE_FOLDER, SHARED_MEMORY, SCRATCH_FOLDER)
# The keys that identify a list's entries, as in Kubernetes' own server-side apply: a port need not have a name.
_BY_NAME = ("containers", "initContainers", "volumes", "env", "imagePullSecrets")
_KEYED_LISTS: dict[str, Sequence[str]] = {**dict.fromkeys(_BY_NAME, ["name"]), "volumeMounts": ["mountPath"]}
_KEYED_LISTS["ports"] = ["containerPort", "protocol"]
_KEY_DEFAULTS = {"protocol": "TCP"}


def check_template(template: PodTemplate, path: str) -> list[Fault]:
    """Return one fault for everything in `template` that the operator owns or cannot read; `path` is the template's."""
    spec = f"{path}.spec"
    return [
        *_check_metadata(template, f"{path}.metadata"),
        *(Fault(f"{spec}.{key}", "set", why) for key, why in _OWNED_IN_POD.items() if key in template.spec),
        *_check_volumes(template.spec.get("volumes"), f"{spec}.volumes"),
        *_check_containers(template.spec.get("containers"), f"{spec}.containers"),
    ]


def drop_variables(template: PodTemplate, variables: Collection[str]) -> PodTemplate:
    """Return `template` without these environment variables in any of its containers."""
    found: Any = template.spec.get("containers")
    if not found:
        return template
    containers = [
        {**each, "env": [entry for entry in each["env"] if entry["name"] not in variables]} if each.get("env") else each
        for each in found
    ]
    return template.model_copy(update={"spec": {**template.spec, "containers": containers}})


def _check_metadata(template: PodTemplate, path: str) -> Iterator[Fault]:
    for kind in ("labels", "annotations"):
        for key in getattr(template.metadata, kind):
            if key.startswith(OWNED_PREFIXES):
                yield Fault(f"{path}.{kind}", key, f"keys under {', '.join(OWNED_PREFIXES)} are the operator's")


def _check_volumes(value: object, path: str) -> Iterator[Fault]:
    for index, (volume, fault) in enumerate(_entries(value, path, "name")):
        if fault is not None:
            yield fault
        elif str(volume["name"]).startswith(VOLUME_PREFIX):
            yield Fault(f"{path}[{index}].name", volume["name"], f"names under {VOLUME_PREFIX} are the operator's")


def _check_containers(value: object, path: str) -> Iterator[Fault]:
    for index, (container, fault) in enumerate(_entries(value, path, "name")):
        if fault is not None:
            yield fault
        elif container["name"] == CONTAINER:
            yield from _check_container(container, f"{path}[{index}]")


def _check_container(container: Mapping[str, Any], path: str) -> Iterator[Fault]:
    for key, why in _OWNED_IN_CONTAINER.items():
        if key in container:
            yield Fault(f"{path}.{key}", "set", why)
    yield from _check_env(container.get("env"), f"{path}.env")
    yield from _check_mounts(container.get("volumeMounts"), f"{path}.volumeMounts")
    yield from _check_ports(container.get("ports"), f"{path}.ports")
    resources = container.get("resources")
    for kind, amounts in resources.items() if isinstance(resources, Mapping) else ():
        if isinstance(amounts, Mapping) and GPU in amounts:
            yield Fault(f"{path}.resources.{kind}", GPU, "use gpusPerReplica")


def _check_env(value: object, path: str) -> Iterator[Fault]:
    for index, (variable, fault) in enumerate(_entries(value, path, "name")):
        if fault is not None:
            yield fault
            continue
        prefix = next((each for each in ENV_PREFIXES if variable["name"].startswith(each)), None)
        if prefix is not None:
            yield Fault(f"{path}[{index}].name", variable["name"], f"names under {prefix} are the operator's")


def _check_mounts(value: object, path: str) -> Iterator[Fault]:
    for index, (mount, fault) in enumerate(_entries(value, path, "mountPath")):
        if fault is not None:
            yield fault
        elif mount["mountPath"].rstrip("/") in _OWNED_PLACES:
            yield Fault(f"{path}[{index}].mountPath", mount["mountPath"], "mounted by the operator")


def _check_ports(value: object, path: str) -> Iterator[Fault]:
    """A pod with two ports of one name is refused, and what scrapes the coordinator finds its port by name."""
    for index, (port, fault) in enumerate(_entries(value, path, "containerPort", int)):
        if fault is not None:
            yield fault
        elif port.get("protocol", "TCP") not in PROTOCOLS:
            yield Fault(f"{path}[{index}].protocol", str(port["protocol"]), f"one of {', '.join(PROTOCOLS)}")
        elif port.get("name") == PORT_NAME and _identity(port, _KEYED_LISTS["ports"]) != (PORT_HTTP, "TCP"):
            yield Fault(f"{path}[{index}].name", PORT_NAME, f"the operator's name for port {PORT_HTTP}")


def _entries(
    value: object, path: str, key: str, kind: type[object] = str
) -> Iterator[tuple[Mapping[str, Any], Fault | None]]:
    """Yield every entry of a list of mappings that have `key`, of `kind`, or why it is none."""
    if value is None:
        return
    if not isinstance(value, list):
        yield {}, Fault(path, "not a list", "a list is needed")
        return
    for index, entry in enumerate(value):
        good = isinstance(entry, Mapping) and isinstance(entry.get(key), kind)
        yield (entry if good else {}), None if good else Fault(f"{path}[{index}]", "no entry", f"{key} is needed")


def merge_template(pod: Json, template: PodTemplate) -> Json:
    """Return our `pod` with everything of the user's that `check_template` lets pass.

    Lists whose entries have names, or ports, are merged by them, other lists are joined, ours first; a user's value
    wins where both are set: resources, image, security context.
    """
    metadata = {
        **pod["metadata"],
        "labels": {**template.metadata.labels, **pod["metadata"]["labels"]},
    }
    if template.metadata.annotations:
        metadata["annotations"] = dict(template.metadata.annotations)
    return {**pod, "metadata": metadata, "spec": _merge(pod["spec"], template.spec)}


def exclude_nodes(pod: Json, nodes: Sequence[str]) -> Json:
    """Return `pod`, which must not be scheduled on `nodes`.

    Terms of a node affinity are alternatives, so each of the user's gets the requirement. It is about the label that
    kubelets set to the node's name: cluster autoscalers take no requirement on the name itself.
    """
    if not nodes:
        return pod
    requirement = {"key": LABEL_HOSTNAME, "operator": "NotIn", "values": list(nodes)}
    affinity = pod["spec"].get("affinity") or {}
    node_affinity = affinity.get("nodeAffinity") or {}
    required = node_affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = [
        {**term, "matchExpressions": [*(term.get("matchExpressions") or []), requirement]}
        for term in required.get("nodeSelectorTerms") or [{}]
    ]
    required = {**required, "nodeSelectorTerms": terms}
    node_affinity = {**node_affinity, "requiredDuringSchedulingIgnoredDuringExecution": required}
    return {**pod, "spec": {**pod["spec"], "affinity": {**affinity, "nodeAffinity": node_affinity}}}


def _merge(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Json:
    merged = dict(ours)
    for key, value in theirs.items():
        before = ours.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            merged[key] = _merge(before, value)
        elif isinstance(before, list) and isinstance(value, list):
            # A variable has a value or a reference: of two of one name the user's replaces ours.
            merged[key] = _merge_lists(before, value, _KEYED_LISTS.get(key), is_replaced=key == "env")
        else:
            merged[key] = value
    return merged


def _merge_lists(
    ours: Sequence[Any], theirs: Sequence[Any], keys: Sequence[str] | None, *, is_replaced: bool
) -> list[Any]:
    if keys is None:
        return [*ours, *theirs]
    known = {_identity(entry, keys): entry for entry in ours}
    for entry in theirs:
        identity = _identity(entry, keys)
        known[identity] = _merge(known[identity], entry) if identity in known and not is_replaced else entry
    return list(known.values())


def _identity(entry: Mapping[str, Any], keys: Sequence[str]) -> tuple[object, ...]:
    return tuple(entry.get(key, _KEY_DEFAULTS.get(key)) for key in keys)
