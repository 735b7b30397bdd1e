"""The preflight's rules: readings in, findings out. PURE."""

import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from scalerl_api.passthrough import PodTemplate
from scalerl_api.status import PreflightStatus
from scalerl_api.wire import CONTAINER, UnfitNode
from scalerl_runtime.preflight.readings import (
    GIB,
    DeviceReading,
    Findings,
    GangLimits,
    PodLimits,
    PodReading,
    RankReading,
)

MAX_WARNINGS = 10
NETWORK_SHARE = 0.5  # a node whose own bandwidth is below this share of the other nodes' median is worth a warning
SOCKETS = "Socket"  # NCCL's name for TCP
_NETWORK_LINE = re.compile(r"NCCL INFO (?:.*?)Using network (.+?)\s*$", re.MULTILINE)
_RDMA_WORDS = ("rdma", "efa", "infiniband", "hca", "roce", "tcpx", "sriov")


def judge_pod(reading: PodReading, limits: PodLimits) -> Findings:
    """Return what is wrong with a pod's node. Host memory and disk only warn: a run may need less."""
    reasons = [*_device_faults(reading, limits), *_host_faults(reading, limits)]
    unfit = (UnfitNode(node=reading.node, reason="; ".join(reasons)),) if reasons else ()
    return Findings(unfit, tuple(_pod_warnings(reading, limits)))


def _device_faults(reading: PodReading, limits: PodLimits) -> Iterator[str]:
    asked, visible = reading.devices_asked, len(reading.devices)
    if asked and reading.device_fault:
        yield f"NVML does not work: {reading.device_fault}; need {asked} devices"
    elif visible < asked:
        yield f"{visible} devices are visible; need {asked}"
    driver, runtime = reading.driver_cuda, reading.runtime_cuda
    if driver is not None and runtime is not None and driver[0] < runtime[0]:
        yield f"the driver runs CUDA {_version(driver)}; need {_version(runtime)}"
    for device in reading.devices if asked else ():
        yield from (f"device {device.index} ({device.name}): {fault}" for fault in _faults_of(device, limits))


def _faults_of(device: DeviceReading, limits: PodLimits) -> Iterator[str]:
    share = device.free_bytes / max(1, device.total_bytes)
    if share < limits.min_free_memory_share:
        pids = f", processes {', '.join(map(str, device.processes))}" if device.processes else ""
        yield (
            f"{device.free_bytes / GIB:.1f} of {device.total_bytes / GIB:.1f} GiB are free{pids}; "
            f"need a share of {limits.min_free_memory_share:g}"
        )
    if device.uncorrected_errors:
        yield f"{device.uncorrected_errors} uncorrected ECC errors since the driver was loaded; need 0"
    if device.failed_repair:
        yield "a memory row could not be replaced: the device must be exchanged"
    elif device.pending_repair:
        yield "memory rows or pages wait for a reset of the device"
    if device.recovery:
        yield f"the driver asks for a recovery after an Xid error: {device.recovery}"


def _host_faults(reading: PodReading, limits: PodLimits) -> Iterator[str]:
    if reading.shared_memory_bytes < limits.shared_memory_bytes:
        yield (
            f"/dev/shm has {reading.shared_memory_bytes / GIB:.2f} GiB; "
            f"need {limits.shared_memory_bytes / GIB:.2f} GiB for Ray's objects"
        )


def _pod_warnings(reading: PodReading, limits: PodLimits) -> Iterator[str]:
    where = f"node {reading.node}: " if reading.node else ""
    if reading.disk_free_bytes < limits.disk_bytes:
        yield f"{where}{reading.disk_free_bytes / GIB:.1f} GiB of disk are free"
    if reading.memory_free_bytes < limits.memory_bytes:
        yield f"{where}{reading.memory_free_bytes / GIB:.1f} GiB of host memory are free"
    driver, runtime = reading.driver_cuda, reading.runtime_cuda
    if driver is not None and runtime is not None and driver[0] == runtime[0] and driver[1] < runtime[1]:
        pair = f"CUDA {_version(driver)}, torch is of {_version(runtime)}"
        yield f"{where}the driver runs {pair}: kernels that are compiled at run time may not load"
    if limits.asks_rdma and reading.lockable_bytes is not None:
        yield f"{where}{reading.lockable_bytes / 2**20:g} MiB of memory may be locked; RDMA needs LimitMEMLOCK=infinity"
    for device in reading.devices:
        if device.slowdowns:
            yield f"{where}device {device.index}: its clock is lowered ({', '.join(device.slowdowns)})"


def _version(pair: tuple[int, int]) -> str:
    return f"{pair[0]}.{pair[1]}"


def judge_gang(ranks: Sequence[RankReading], limits: GangLimits) -> Findings:
    """Return which nodes the trainer must do without, compared with the other ranks.

    A slow link has two ends, so too low a bandwidth of the whole gang names a node only where that node's own ranks are
    slow among themselves.
    """
    unfit = [*_slow_devices(ranks, limits), *_on_sockets(ranks, limits)]
    slow_nodes = dict(_slow_nodes(ranks))
    bandwidth = min((each.bandwidth for each in ranks if each.bandwidth is not None), default=None)
    missed = limits.min_bandwidth is not None and bandwidth is not None and bandwidth < limits.min_bandwidth
    if missed:
        unfit += [UnfitNode(node=node, reason=reason) for node, reason in slow_nodes.items()]
    warnings = [] if missed else [f"node {node}: {reason}" for node, reason in slow_nodes.items()]
    fault = ""
    if missed and not unfit:
        fault = f"an all-reduce over all {len(ranks)} ranks reaches {bandwidth:.2f} GB/s; need {limits.min_bandwidth:g}"
    return Findings(tuple(_by_node(unfit)), tuple(warnings[:MAX_WARNINGS]), fault)


def _slow_devices(ranks: Sequence[RankReading], limits: GangLimits) -> Iterator[UnfitNode]:
    if len(ranks) < 3:  # of two, either may be the usual one
        return
    usual = median(each.teraflops for each in ranks)
    for each in ranks:
        if each.teraflops < usual * (1.0 - limits.max_slowdown):
            yield UnfitNode(
                node=each.node,
                reason=f"rank {each.rank} ({each.device}) computes {each.teraflops:.3g} TFLOP/s; the median of "
                f"{len(ranks)} ranks is {usual:.3g}, and at most {limits.max_slowdown:g} less is allowed",
            )


def _on_sockets(ranks: Sequence[RankReading], limits: GangLimits) -> Iterator[UnfitNode]:
    """Yield the nodes on TCP where others are not; on all of them the pods are wrong, not a node."""
    if limits.asks_rdma and not is_all_on_sockets(ranks, limits):
        for each in ranks:
            if each.network == SOCKETS:
                yield UnfitNode(node=each.node, reason=f"rank {each.rank}: NCCL uses TCP, other nodes do not")


def is_all_on_sockets(ranks: Sequence[RankReading], limits: GangLimits) -> bool:
    """Whether NCCL uses TCP on every rank although the pods ask for a device of the fast network."""
    return limits.asks_rdma and bool(ranks) and all(each.network == SOCKETS for each in ranks)


def _slow_nodes(ranks: Sequence[RankReading]) -> Iterator[tuple[str, str]]:
    """Yield (node, reason) of nodes whose own ranks are slow among themselves, beside at least two others."""
    found: dict[str, float] = {}
    for each in ranks:
        if each.node_bandwidth is not None:
            found[each.node] = min(found.get(each.node, each.node_bandwidth), each.node_bandwidth)
    if len(found) < 3:
        return
    usual = median(found.values())
    for node, bandwidth in found.items():
        if bandwidth < usual * NETWORK_SHARE:
            yield node, f"an all-reduce within it reaches {bandwidth:.2f} GB/s; the median of nodes is {usual:.2f}"


def _by_node(found: Sequence[UnfitNode]) -> Iterator[UnfitNode]:
    for node in dict.fromkeys(each.node for each in found):
        yield UnfitNode(node=node, reason="; ".join(each.reason for each in found if each.node == node))


def summarize_gang(ranks: Sequence[RankReading], findings: Findings, seconds: float) -> PreflightStatus:
    """Return the numbers that progress, status and metrics have; `ranks` is not empty."""
    slowest = min(ranks, key=lambda each: each.teraflops)
    bandwidths = [each.bandwidth for each in ranks if each.bandwidth is not None]
    node_bandwidths = [each.node_bandwidth for each in ranks if each.node_bandwidth is not None]
    return PreflightStatus(
        ranks=len(ranks),
        nodes=len({each.node for each in ranks}),
        seconds=round(seconds, 3),
        teraflops=_digits(median(each.teraflops for each in ranks)),
        slowest_teraflops=_digits(slowest.teraflops),
        slowest_node=slowest.node,
        bandwidth=_digits(min(bandwidths)) if bandwidths else None,
        node_bandwidth=_digits(min(node_bandwidths)) if node_bandwidths else None,
        network=next((each.network for each in ranks if each.network), ""),
        warnings=list(findings.warnings),
    )


def _digits(value: float) -> float:
    return float(f"{value:.3g}")


def parse_network(log: str) -> str:
    """Return the network that NCCL's log names last; empty if it names none."""
    found = _NETWORK_LINE.findall(log)
    return str(found[-1]) if found else ""


def asks_rdma(template: PodTemplate) -> bool:
    """Whether the template's container of our processes has a device of a fast network: `rdma/hca`, `.../efa`."""
    containers: Any = template.spec.get("containers") or []
    found: Mapping[str, Any] = next((each for each in containers if each["name"] == CONTAINER), {})
    limits: Mapping[str, object] = (found.get("resources") or {}).get("limits") or {}
    return any(word in name.lower() for name in limits for word in _RDMA_WORDS)
