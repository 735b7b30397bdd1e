"""Checks the trainer ranks' nodes together, before the model is loaded. I/O."""

import logging
import time
from collections.abc import Awaitable, Sequence
from typing import Protocol

from scalerl_api import Fault, InvalidRun, RLRun
from scalerl_api.status import PreflightStatus
from scalerl_runtime.deadlines import within
from scalerl_runtime.preflight.readings import GangLimits, NodeUnfit, PreflightFailed, RankReading
from scalerl_runtime.preflight.rules import asks_rdma, is_all_on_sockets, judge_gang, summarize_gang

log = logging.getLogger(__name__)

JOIN_SHARE = 0.5  # of the deadline: ranks that do not meet are named before the whole check is late

RESOURCES_PATH = "spec.trainer.template.spec.containers[].resources.limits"
SOCKETS_REASON = "NCCL uses TCP on every rank: docs/gpu-cluster.md has what the pods lack; or ask for no such device"


class MeasuredRanks(Protocol):
    """The trainer ranks as this check sees them."""

    def measure_ranks(self, seconds: float) -> Awaitable[Sequence[RankReading]]:
        """Measure every rank; the ranks wait `seconds` for each other."""


async def check_gang(run: RLRun, ranks: MeasuredRanks) -> PreflightStatus | None:
    """Measure the trainer ranks and compare them; None if the run asks for no check.

    Raises NodeUnfit, InvalidRun for pods that NCCL uses over TCP although they have another network, PreflightFailed
    and DeadlineExceeded.
    """
    spec = run.spec.preflight
    if not spec.enabled:
        return None
    began, seconds = time.monotonic(), run.spec.deadlines.preflight_seconds
    found: Sequence[RankReading] = await within(
        seconds, "preflight: measuring the trainer ranks", ranks.measure_ranks(seconds * JOIN_SHARE)
    )
    limits = GangLimits(spec.max_slowdown, spec.min_bandwidth, asks_rdma(run.spec.trainer.template))
    findings = judge_gang(found, limits)
    status = summarize_gang(found, findings, time.monotonic() - began)
    log.info("%s", describe_gang(status))
    if is_all_on_sockets(found, limits):
        raise InvalidRun([Fault(RESOURCES_PATH, "a device of a fast network", SOCKETS_REASON)])
    if findings.unfit:
        raise NodeUnfit(findings.unfit)
    if findings.fault:
        raise PreflightFailed(findings.fault)
    return status


def describe_gang(status: PreflightStatus) -> str:
    """Return the one line of the log."""
    parts = [f"preflight: {status.ranks} trainer ranks on {status.nodes} nodes in {status.seconds:.2f} s"]
    parts.append(f"matrix product {status.teraflops:g} TFLOP/s, slowest {status.slowest_teraflops:g}")
    if status.bandwidth is not None:
        parts.append(f"all-reduce {status.bandwidth:g} GB/s")
    if status.node_bandwidth is not None:
        parts.append(f"within a node {status.node_bandwidth:g} GB/s")
    if status.network:
        parts.append(f"network {status.network}")
    return "; ".join([*parts, *(status.warnings or ["fit"])])
