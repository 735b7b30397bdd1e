"""Pods are placed on nodes that select them; what no empty cluster could hold is refused by its field."""

from typing import Any

import pytest
from large_run import make_run

from scalerl_operator.capacity.devices import DEVICES
from scalerl_operator.capacity.placement import ClusterNode, GroupPlace, parse_node, place_run, with_used

TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


def make_node(name: str, gpus: int = 8, product: str = "NVIDIA-H100-80GB-HBM3", **others: Any) -> ClusterNode:
    labels = {"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": "81559", **others.pop("labels", {})}
    return ClusterNode(name=name, labels=labels, taints=others.pop("taints", ()), gpus=gpus, **others)


def place(nodes: list[ClusterNode], **changes: Any) -> list[GroupPlace]:
    return place_run(make_run(**changes), nodes, DEVICES, is_use_known=True)


def faults(places: list[GroupPlace]) -> list[str]:
    return [str(fault) for each in places for fault in each.faults]


def test_ten_nodes_hold_the_example() -> None:
    nodes = [make_node(f"n{index}", used=2) for index in range(10)]
    trainer, generator = place(nodes)
    assert not trainer.faults
    assert not generator.faults
    assert trainer.device is not None
    assert trainer.device.name == "H100"
    assert trainer.notes == ("2 pods of 8 GPUs; the nodes have room for 10, 0 free now",)
    assert generator.notes == ("16 pods of 4 GPUs; the nodes have room for 20, 10 free now",)


@pytest.mark.parametrize(
    ("nodes", "changes", "message"),
    [
        ([], {}, "spec.trainer.gpusPerReplica: 8, and none of the 0 nodes has an allocatable nvidia.com/gpu"),
        ([make_node("a", gpus=4)] * 2, {}, "spec.trainer.gpusPerReplica: 8, at most 4, the most GPUs of a node"),
        ([make_node("a")], {}, "spec.trainer.replicas: 2 pods of 8 GPUs, at most 1 on the 1 nodes (a 8 GPUs)"),
        ([make_node("a"), make_node("b")], {"generator__minReplicas": 9}, "spec.generator.minReplicas: 9 pods of 4"),
        ([make_node("a"), make_node("b")], {"generator__minReplicas": 1, "generator__maxReplicas": 1},
         "spec.generator.minReplicas: 1 pods of 4 GPUs beside the trainer's 16 GPUs, at most 16 GPUs in all"),
        ([make_node("a", taints=(TAINT,))], {}, "a has the taint nvidia.com/gpu=present:NoSchedule"),
        ([make_node("a", is_schedulable=False)], {}, "a is cordoned or not ready"),
        ([make_node("a")], {"trainer__template": {"spec": {"nodeSelector": {"pool": "big"}}}},
         "spec.trainer.template.spec: matches none of the 1 nodes with GPUs"),
    ],
)  # fmt: skip
def test_what_cannot_be_placed_is_refused_by_its_field(
    nodes: list[ClusterNode], changes: dict[str, Any], message: str
) -> None:
    assert any(message in fault for fault in faults(place(nodes, **changes)))


@pytest.mark.parametrize(
    ("toleration", "is_placed"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "nvidia.com/gpu", "operator": "Exists"}, True),
        ({"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}, True),
        ({"key": "nvidia.com/gpu", "value": "absent"}, False),
        ({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoExecute"}, False),
    ],
)
def test_a_toleration_opens_a_tainted_node(toleration: dict[str, str], *, is_placed: bool) -> None:
    template = {"spec": {"tolerations": [toleration]}}
    places = place([make_node(f"n{i}", taints=(TAINT,)) for i in range(10)], trainer__template=template)
    assert (not places[0].faults) == is_placed


def test_the_smallest_gpu_of_a_mixed_cluster_counts() -> None:
    small = make_node("small", product="NVIDIA-L40S", labels={"nvidia.com/gpu.memory": "46068"})
    trainer, _ = place([*(make_node(f"n{i}") for i in range(10)), small])
    assert trainer.device is not None
    assert trainer.device.name == "L40S"
    assert set(trainer.devices) == {"H100", "L40S"}
    chosen = {"spec": {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}}}
    selected, _ = place([*(make_node(f"n{i}") for i in range(10)), small], trainer__template=chosen)
    assert selected.devices == ("H100",)


def test_labels_that_are_absent_are_said() -> None:
    bare = ClusterNode(name="a", labels={}, taints=(), gpus=8)
    trainer, _ = place([bare] * 10)
    assert trainer.device is None
    assert trainer.notes[0] == "10 nodes have no label nvidia.com/gpu.memory or nvidia.com/gpu.product"
    unknown = make_node("b", product="NVIDIA-X900", labels={"nvidia.com/gpu.memory": "1024"})
    trainer, _ = place([unknown] * 10)
    assert trainer.device is not None
    assert (trainer.device.name, trainer.device.memory_bytes) == ("NVIDIA-X900", 2**30)


def test_nodes_and_pods_are_read_as_the_api_server_writes_them() -> None:
    node = parse_node(
        {
            "metadata": {"name": "a", "labels": {"x": "y"}},
            "spec": {"taints": [TAINT]},
            "status": {
                "allocatable": {"nvidia.com/gpu": "8", "cpu": "64"},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
    )
    assert (node.name, node.gpus, node.taints, node.is_schedulable) == ("a", 8, (TAINT,), True)
    container = {"resources": {"requests": {"nvidia.com/gpu": "3"}}}
    running = {"spec": {"nodeName": "a", "containers": [container]}, "status": {"phase": "Running"}}
    over = {"spec": {"nodeName": "a", "containers": [container]}, "status": {"phase": "Succeeded"}}
    assert with_used([node], [running, over])[0].used == 3


H100 = {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-H100-80GB-HBM3"]}
L40S = {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-L40S"]}


def expression(operator: str, *values: str, key: str = "rank") -> dict[str, Any]:
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}


def require(*terms: dict[str, Any]) -> dict[str, Any]:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return {"spec": {"affinity": {"nodeAffinity": required}}}


@pytest.mark.parametrize(
    ("label", "rule", "is_met"),
    [
        ("7", expression("In", "5", "7"), True),
        ("8", expression("In", "5", "7"), False),
        (None, expression("In", "5"), False),
        ("7", expression("NotIn", "5"), True),
        ("5", expression("NotIn", "5"), False),
        (None, expression("NotIn", "5"), True),
        ("", expression("Exists"), True),
        (None, expression("Exists"), False),
        ("7", expression("DoesNotExist"), False),
        (None, expression("DoesNotExist"), True),
        ("7", expression("Gt", "6"), True),
        ("7", expression("Gt", "7"), False),
        ("6", expression("Lt", "7"), True),
        ("7", expression("Lt", "7"), False),
        ("10", expression("Lt", "9"), False),
        ("many", expression("Gt", "6"), False),
        (None, expression("Lt", "6"), False),
        ("7", expression("Near", "7"), False),
    ],
)  # fmt: skip
def test_each_operator_of_a_required_node_affinity(label: str | None, rule: dict[str, Any], *, is_met: bool) -> None:
    labels = {} if label is None else {"rank": label}
    nodes = [make_node(f"n{i}", labels=labels) for i in range(10)]
    trainer, _ = place(nodes, trainer__template=require({"matchExpressions": [rule]}))
    assert bool(trainer.nodes) == is_met
    if not is_met:
        assert "n0 meets no term of the required node affinity" in faults([trainer])[0]


@pytest.mark.parametrize(
    ("terms", "names"),
    [
        ([{"matchExpressions": [H100]}], ["h0", "h1"]),
        ([{"matchExpressions": [H100]}, {"matchExpressions": [L40S]}], ["h0", "h1", "l"]),
        ([{"matchExpressions": [H100, L40S]}], []),
        ([{"matchFields": [expression("In", "h1", key="metadata.name")]}], ["h1"]),
        ([{"matchExpressions": [H100], "matchFields": [expression("NotIn", "h1", key="metadata.name")]}], ["h0"]),
        ([{}], []),
        ([], []),
    ],
)
def test_a_node_meets_all_expressions_of_one_term(terms: list[dict[str, Any]], names: list[str]) -> None:
    nodes = [make_node("h0"), make_node("h1"), make_node("l", product="NVIDIA-L40S")]
    trainer, generator = place(nodes, trainer__template=require(*terms))
    assert [node.name for node in trainer.nodes] == names
    assert len(generator.nodes) == 3, "the trainer's affinity is not the generators'"


def test_selector_affinity_and_taints_all_count() -> None:
    template = require({"matchExpressions": [H100]})
    template["spec"] |= {"nodeSelector": {"pool": "a"}, "tolerations": [{"operator": "Exists"}]}
    nodes = [
        make_node("chosen", labels={"pool": "a"}, taints=(TAINT,)),
        make_node("other pool", labels={"pool": "b"}),
        make_node("other kind", product="NVIDIA-L40S", labels={"pool": "a"}),
    ]
    trainer, _ = place(nodes, trainer__template=template)
    assert [node.name for node in trainer.nodes] == ["chosen"]


@pytest.mark.parametrize(
    "rules",
    [
        {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}}},
        {"topologySpreadConstraints": [{"maxSkew": 1}]},
    ],
)
def test_rules_between_pods_are_said_not_to_count(rules: dict[str, Any]) -> None:
    trainer, generator = place([make_node(f"n{i}") for i in range(10)], trainer__template={"spec": rules})
    assert "the template's pod affinity and spread constraints were not considered" in trainer.notes
    assert len(generator.notes) == 1
