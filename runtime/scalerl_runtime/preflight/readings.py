"""The preflight's readings of a pod, measurements of a trainer rank, and findings. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass

from scalerl_api.wire import UnfitNode

GIB = 2**30


@dataclass(frozen=True)
class DeviceReading:
    """One NVIDIA device, by NVML; None: the device does not report it."""

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    processes: tuple[int, ...] = ()
    """Pids that hold memory on it, in the namespace that NVML sees."""
    uncorrected_errors: int | None = None
    """Uncorrected ECC errors since the driver was loaded."""
    pending_repair: bool | None = None
    """Rows or pages are to be replaced at the next reset."""
    failed_repair: bool | None = None
    """A row could not be replaced."""
    recovery: str = ""
    """Recovery that the driver asks for after an Xid error: `reset`, `reboot`, `drain`; empty: nothing."""
    slowdowns: tuple[str, ...] = ()
    """Reasons in the hardware for a lower clock: heat, power brake."""


@dataclass(frozen=True)
class PodReading:
    """One pod and its node."""

    node: str
    devices_asked: int
    devices: tuple[DeviceReading, ...]
    shared_memory_bytes: int
    """Size of /dev/shm."""
    disk_free_bytes: int
    """Of the folder for temporary files."""
    memory_free_bytes: int
    """Of the pod's limit, or of the host."""
    device_fault: str = ""
    """Why NVML could not be used."""
    driver_cuda: tuple[int, int] | None = None
    """Newest CUDA that the driver runs, (major, minor)."""
    runtime_cuda: tuple[int, int] | None = None
    """CUDA that torch was built with."""
    lockable_bytes: int | None = None
    """Memory that the process may lock for RDMA; None: no limit."""


@dataclass(frozen=True)
class RankReading:
    """One trainer rank."""

    rank: int
    node: str
    device: str
    teraflops: float
    """Matrix product, in 1e12 operations per second."""
    bandwidth: float | None = None
    """All-reduce over all ranks: bus bandwidth, GB/s; None with one rank."""
    node_bandwidth: float | None = None
    """All-reduce over the ranks of its node: bus bandwidth, GB/s; None where it is alone."""
    network: str = ""
    """NCCL's network between nodes; empty: not known."""


@dataclass(frozen=True)
class PodLimits:
    """Bounds for a pod's node."""

    shared_memory_bytes: int
    min_free_memory_share: float
    asks_rdma: bool = False
    """The pod asks for a device of the fast network."""
    disk_bytes: int = 1 * GIB
    memory_bytes: int = 1 * GIB


@dataclass(frozen=True)
class GangLimits:
    """Bounds for the trainer ranks."""

    max_slowdown: float
    min_bandwidth: float | None
    asks_rdma: bool
    """The pods ask for a device of the fast network."""


@dataclass(frozen=True)
class Findings:
    """The result of a check."""

    unfit: tuple[UnfitNode, ...] = ()
    warnings: tuple[str, ...] = ()
    fault: str = ""
    """Why the attempt must end where no node can be named."""


class NodeUnfit(RuntimeError):
    """The preflight refuses nodes: another attempt must avoid them."""

    def __init__(self, nodes: Sequence[UnfitNode]):
        super().__init__("; ".join(f"node {each.node or 'of this process'}: {each.reason}" for each in nodes))
        self.nodes = tuple(nodes)

    def __reduce__(self) -> tuple[type["NodeUnfit"], tuple[tuple[UnfitNode, ...]]]:
        return type(self), (self.nodes,)  # it crosses processes


MAX_UNFIT = 8  # nodes of one termination message, of which Kubernetes keeps 4,096 bytes
MAX_REASON = 200


def shorten(nodes: Sequence[UnfitNode]) -> list[UnfitNode]:
    """Return the nodes that fit into a termination message; those without a name cannot be avoided."""
    named = [each for each in nodes if each.node][:MAX_UNFIT]
    return [UnfitNode(node=each.node, reason=each.reason[:MAX_REASON]) for each in named]


class PreflightFailed(RuntimeError):
    """The preflight ended without a node to blame: a rank that never joined, too low a bandwidth."""
