"""Where the pods of a run can be placed: nodes with GPUs, what selects and what repels, and what is free."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from scalerl_api import Fault, RLRun
from scalerl_api.rlrun import GeneratorSpec
from scalerl_api.trainer_spec import TrainerSpec
from scalerl_operator.capacity.devices import MIB, Device

Json = Mapping[str, Any]
GPU = "nvidia.com/gpu"
PRODUCT, MEMORY, COUNT = f"{GPU}.product", f"{GPU}.memory", f"{GPU}.count"  # labels of GPU feature discovery
Group = Literal["trainer", "generator"]
REPELLING = ("NoSchedule", "NoExecute")
INTEGER = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True)
class ClusterNode:
    """A node as the scheduler sees it, as far as a run's pods are concerned."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Json, ...]
    gpus: int
    """Allocatable."""
    used: int = 0
    """GPUs that pods on it request."""
    is_schedulable: bool = True


@dataclass(frozen=True)
class GroupPlace:
    """Where the pods of one group may go."""

    group: Group
    nodes: tuple[ClusterNode, ...]
    device: Device | None
    """The one with the least memory among them; None where no label says."""
    devices: tuple[str, ...]
    """Names of all kinds, each once."""
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]


def parse_node(document: Json) -> ClusterNode:
    """Return a node of the API server's JSON."""
    spec, status = document.get("spec", {}), document.get("status", {})
    conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
    return ClusterNode(
        name=document["metadata"]["name"],
        labels=document["metadata"].get("labels") or {},
        taints=tuple(spec.get("taints") or ()),
        gpus=_count((status.get("allocatable") or {}).get(GPU)),
        is_schedulable=not spec.get("unschedulable") and conditions.get("Ready", "True") == "True",
    )


def with_used(nodes: Sequence[ClusterNode], pods: Sequence[Json]) -> list[ClusterNode]:
    """Return the nodes with the GPUs that pods on them request; pods that are over hold none."""
    used: dict[str, int] = {}
    for pod in pods:
        if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            continue
        name = pod["spec"].get("nodeName")
        if name:
            used[name] = used.get(name, 0) + _pod_gpus(pod["spec"])
    return [replace(node, used=used.get(node.name, 0)) for node in nodes]


def _pod_gpus(spec: Json) -> int:
    def requested(containers: Sequence[Json]) -> list[int]:
        return [_count((each.get("resources", {}).get("requests") or {}).get(GPU)) for each in containers]

    return max(sum(requested(spec.get("containers", []))), max(requested(spec.get("initContainers") or []), default=0))


def _count(value: object) -> int:
    return int(value) if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()) else 0


def place_run(
    run: RLRun, nodes: Sequence[ClusterNode], devices: Mapping[str, Device], *, is_use_known: bool
) -> list[GroupPlace]:
    """Return where trainer and generators may go, and what is refused: what no empty cluster of these nodes could hold.

    Args:
        run: its groups with GPUs are placed.
        nodes: all of the cluster.
        devices: by name, the user's and the table's.
        is_use_known: the nodes' `used` is right; otherwise all their GPUs count as free.
    """
    found = []
    groups: list[tuple[Group, TrainerSpec | GeneratorSpec, int]] = [
        ("trainer", run.spec.trainer, run.spec.trainer.replicas),
        ("generator", run.spec.generator, run.spec.generator.min_replicas),
    ]
    for group, spec, replicas in groups:
        if spec.gpus_per_replica:
            found.append(_place_group(group, spec, replicas, (nodes, devices), is_use_known=is_use_known))
    if len(found) == 2 and not any(each.faults for each in found):
        found[1] = _check_together(found, groups)
    return found


def _place_group(
    group: Group,
    spec: TrainerSpec | GeneratorSpec,
    replicas: int,
    cluster: tuple[Sequence[ClusterNode], Mapping[str, Device]],
    *,
    is_use_known: bool,
) -> GroupPlace:
    nodes, devices = cluster
    with_gpus = [node for node in nodes if node.gpus]
    usable = tuple(node for node in with_gpus if not _refusal(node, spec.template.spec))
    faults = _check_nodes(group, spec, replicas, (nodes, with_gpus, usable))
    kinds = [_device_of(node, devices) for node in usable]
    known = [each for each in kinds if each is not None]
    notes = [] if len(known) == len(kinds) else [f"{len(kinds) - len(known)} nodes have no label {MEMORY} or {PRODUCT}"]
    if _has_pod_rules(spec.template.spec):
        notes.append("the template's pod affinity and spread constraints were not considered")
    free = sum((node.gpus - node.used) // spec.gpus_per_replica for node in usable)
    total = sum(node.gpus // spec.gpus_per_replica for node in usable)
    if not faults:
        state = (
            f"{min(free, total)} free now"
            if is_use_known
            else "pods may not be listed, so how many are free is unknown"
        )
        notes.append(f"{replicas} pods of {spec.gpus_per_replica} GPUs; the nodes have room for {total}, {state}")
    return GroupPlace(
        group,
        usable,
        min(known, key=lambda each: each.memory_bytes, default=None),
        tuple(dict.fromkeys(each.name for each in known)),
        tuple(faults),
        tuple(notes),
    )


def _check_nodes(
    group: Group,
    spec: TrainerSpec | GeneratorSpec,
    replicas: int,
    nodes: tuple[Sequence[ClusterNode], Sequence[ClusterNode], Sequence[ClusterNode]],
) -> list[Fault]:
    everything, with_gpus, usable = nodes
    path, gpus = f"spec.{group}", spec.gpus_per_replica
    if not with_gpus:
        found = f"{gpus}, and none of the {len(everything)} nodes has an allocatable {GPU}"
        return [Fault(f"{path}.gpusPerReplica", found, "nodes with GPUs and NVIDIA's device plugin, or 0")]
    if not usable:
        reasons = list(dict.fromkeys(_refusal(node, spec.template.spec) for node in with_gpus))
        found = f"matches none of the {len(with_gpus)} nodes with GPUs"
        return [Fault(f"{path}.template.spec", found, f"a template for one of them: {'; '.join(reasons[:3])}")]
    largest = max(node.gpus for node in usable)
    if gpus > largest:
        allowed = f"at most {largest}, the most GPUs of a node that the template selects"
        return [Fault(f"{path}.gpusPerReplica", str(gpus), allowed)]
    room = sum(node.gpus // gpus for node in usable)
    if replicas > room:
        name = "replicas" if group == "trainer" else "minReplicas"
        sizes = ", ".join(f"{node.name} {node.gpus}" for node in usable[:5]) + (", ..." if len(usable) > 5 else "")
        found = f"{replicas} pods of {gpus} GPUs"
        return [
            Fault(f"{path}.{name}", found, f"at most {room} on the {len(usable)} nodes ({sizes} GPUs), even if empty")
        ]
    return []


def _check_together(
    found: Sequence[GroupPlace], groups: Sequence[tuple[Group, TrainerSpec | GeneratorSpec, int]]
) -> GroupPlace:
    """Refuse generators for which trainer pods leave too few GPUs; packings are not tried, so only sums are refused."""
    total = sum(node.gpus for node in {node.name: node for each in found for node in each.nodes}.values())
    wanted = [spec.gpus_per_replica * replicas for _, spec, replicas in groups]
    if sum(wanted) <= total:
        return found[1]
    value = f"{groups[1][2]} pods of {groups[1][1].gpus_per_replica} GPUs beside the trainer's {wanted[0]} GPUs"
    fault = Fault("spec.generator.minReplicas", value, f"at most {total} GPUs in all on the selected nodes")
    return replace(found[1], faults=(fault,))


def _refusal(node: ClusterNode, template: Json) -> str:
    """Return why the scheduler keeps a pod of the template from the node; empty: it does not."""
    selector = template.get("nodeSelector")
    for key, value in (selector if isinstance(selector, Mapping) else {}).items():
        if node.labels.get(key) != value:
            return f"{node.name} has {key}={node.labels.get(key, 'unset')}, not {value}"
    terms = _required_terms(template)
    if terms is not None and not any(_is_term_met(term, node) for term in terms):
        return f"{node.name} meets no term of the required node affinity"
    tolerations = template.get("tolerations")
    for taint in node.taints:
        if taint.get("effect") in REPELLING and not _is_tolerated(
            taint, tolerations if isinstance(tolerations, list) else []
        ):
            return f"{node.name} has the taint {taint['key']}={taint.get('value', '')}:{taint['effect']}"
    return "" if node.is_schedulable else f"{node.name} is cordoned or not ready"


def _as_mapping(value: object) -> Json:
    return value if isinstance(value, Mapping) else {}


def _as_list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _has_pod_rules(template: Json) -> bool:
    affinity = _as_mapping(template.get("affinity"))
    return bool(
        affinity.get("podAffinity") or affinity.get("podAntiAffinity") or template.get("topologySpreadConstraints")
    )


def _required_terms(template: Json) -> Sequence[Any] | None:
    """Return the terms of which a node must meet one; None: the template requires none."""
    affinity = _as_mapping(_as_mapping(template.get("affinity")).get("nodeAffinity"))
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    return None if required is None else _as_list(_as_mapping(required).get("nodeSelectorTerms"))


def _is_term_met(term: object, node: ClusterNode) -> bool:
    """Whether a node meets all expressions of a term, as the scheduler reads them; an empty term matches no node."""
    labels = _as_list(_as_mapping(term).get("matchExpressions"))
    fields = _as_list(_as_mapping(term).get("matchFields"))
    return bool(labels or fields) and (
        all(_is_expression_met(_as_mapping(each), node.labels) for each in labels)
        and all(_is_expression_met(_as_mapping(each), {"metadata.name": node.name}) for each in fields)
    )


def _is_expression_met(expression: Json, values: Mapping[str, str]) -> bool:
    """Whether labels meet one expression. `NotIn` and `DoesNotExist` are met by a label that is absent."""
    value, allowed = values.get(expression.get("key", "")), _as_list(expression.get("values"))
    match expression.get("operator"):
        case "In":
            return value in allowed
        case "NotIn":
            return value not in allowed
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            numbers = [each for each in (value, *allowed) if isinstance(each, str) and INTEGER.fullmatch(each)]
            if len(numbers) != 2:
                return False
            return (int(numbers[0]) > int(numbers[1])) == (operator == "Gt") and int(numbers[0]) != int(numbers[1])
    return False  # the API server refuses such a template


def _is_tolerated(taint: Json, tolerations: Sequence[Json]) -> bool:
    for each in tolerations:
        if each.get("effect") not in (None, "", taint["effect"]):
            continue
        if each.get("operator", "Equal") == "Exists":
            if each.get("key") in (None, "", taint["key"]):
                return True
        elif each.get("key") == taint["key"] and each.get("value", "") == taint.get("value", ""):
            return True
    return False


def _device_of(node: ClusterNode, devices: Mapping[str, Device]) -> Device | None:
    """Return the device of a node's labels; its memory label comes before the table's number. None: no label."""
    product, memory = node.labels.get(PRODUCT, ""), _count(node.labels.get(MEMORY))
    named = next((each for each in devices.values() if product in each.products), None)
    if named is None and not memory:
        return None
    if named is None:
        unknown = next(iter(devices.values()))
        named = replace(unknown, name=product or "a GPU without a product label", source="the node's labels")
    return replace(named, memory_bytes=memory * MIB or named.memory_bytes, gpus_per_node=max(node.gpus, 1))
