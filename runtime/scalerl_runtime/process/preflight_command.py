"""`python -m scalerl_runtime preflight`: checks this machine or pod as the start of a run does. I/O."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from scalerl_api.policies import PreflightSpec
from scalerl_api.wire import ENV_NODE, ENV_TERMINATION_PATH, EXIT_FINISHED, EXIT_UNFIT, Termination
from scalerl_runtime.preflight.pod import read_pod
from scalerl_runtime.preflight.readings import GIB, NodeUnfit, PodLimits, PodReading, shorten
from scalerl_runtime.preflight.rules import judge_pod

SHARED_MEMORY_BYTES = GIB // 2  # the least that Ray's object store has; a run's recipe may need more


def run_preflight(variables: Mapping[str, str], stream: TextIO) -> int:
    """Check the devices that this process sees, and measure each; write JSON and return the exit code."""
    node = variables.get(ENV_NODE, "")
    reading = read_pod(node, devices_asked=_count_visible())
    findings = judge_pod(reading, PodLimits(SHARED_MEMORY_BYTES, PreflightSpec().min_free_memory_share))
    report: dict[str, Any] = {
        "fit": not findings.unfit,
        "reasons": [each.reason for each in findings.unfit],
        "warnings": list(findings.warnings),
        "teraflops": _measure(reading) if not findings.unfit else [],
        "reading": asdict(reading),
    }
    stream.write(json.dumps(report, indent=2) + "\n")
    return EXIT_UNFIT if findings.unfit else EXIT_FINISHED


def _count_visible() -> int:
    import torch

    return torch.cuda.device_count()


def _measure(reading: PodReading) -> list[float]:
    """Return the rate of a matrix product on each device, else on the CPU, in 1e12 operations per second."""
    from scalerl_runtime.preflight.rank import SIZES, measure_product

    if not reading.devices_asked:
        return [measure_product(SIZES["cpu"][0], "cpu")]
    return [measure_product(SIZES["cuda"][0], f"cuda:{index}") for index in range(reading.devices_asked)]


def report_unfit(variables: Mapping[str, str], error: NodeUnfit) -> int:
    """Write the termination message of a pod that has no coordinator; return its exit code."""
    message = Termination(reason="Unfit", error=f"NodeUnfit: {error}"[:1000], unfit_nodes=shorten(error.nodes))
    place = variables.get(ENV_TERMINATION_PATH)
    if place:
        Path(place).write_text(json.dumps(message.model_dump(by_alias=True, mode="json")))
    return EXIT_UNFIT
