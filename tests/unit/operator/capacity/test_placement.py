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
