"""`scalerl validate --cluster` reads the nodes of a real API server: two with GPUs are too few, ten more are enough."""

from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from scalerl_api.wire import RunVerdict
from scalerl_operator.cli.commands import CliDeps, run_command
from scalerl_operator.cli.parser import parse_arguments

pytestmark = pytest.mark.cluster
EXAMPLE = Path(__file__).parents[2] / "examples" / "qwen3-8b-math.yaml"
LABELS = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory": "81559"}


def validate(*arguments: str) -> int:
    deps = CliDeps(fetch_verdicts=lambda files, _scope: [RunVerdict() for _ in files])
    return run_command(parse_arguments(["validate", str(EXAMPLE), "--cluster", *arguments]), deps)


def test_nodes_of_the_api_server_hold_the_run_or_not(
    cluster: Any, api: client.ApiClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", cluster.kubeconfig)
    core = client.CoreV1Api(api)
    assert validate() == 64
    assert "spec.generator.minReplicas: 16 pods of 4 GPUs, at most 4 on the 2 nodes" in capsys.readouterr().err
    names = [f"gpu-{index}" for index in range(10)]
    try:
        for name in names:
            core.create_node({"metadata": {"name": name, "labels": LABELS}})
            core.patch_node_status(name, {"status": {"allocatable": {"nvidia.com/gpu": "8"}}})
            core.patch_node(name, {"spec": {"taints": None}})
        code = validate()
        printed = capsys.readouterr()
        assert code == 0, printed.err
        assert "trainer: 12 nodes with H100; 2 nodes have no label nvidia.com/gpu.memory" in printed.out
        assert "2 pods of 8 GPUs; the nodes have room for 12, 12 free now" in printed.out
        assert "memory fits: trainer 41.1 of 79.6 GiB of H100" in printed.out
    finally:
        for node in core.list_node().items:
            if node.metadata.name in names:
                core.delete_node(node.metadata.name)
