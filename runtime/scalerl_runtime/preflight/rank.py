"""Measures a trainer rank: a matrix product, all-reduces over the gang and over its node. I/O."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from scalerl_api.wire import ENV_NODE
from scalerl_runtime.preflight.readings import PreflightFailed
from scalerl_runtime.preflight.readings import RankReading as RankReading
from scalerl_runtime.preflight.rules import parse_network

REPEATS = 5  # the best counts: another process of the machine only slows one down
# (rows of the square matrices, elements that are reduced) by device: some milliseconds each
SIZES = {"cpu": (256, 2**18), "cuda": (8192, 2**27)}
NCCL_LOG = ("NCCL_DEBUG", "NCCL_DEBUG_SUBSYS", "NCCL_DEBUG_FILE")


@dataclass(frozen=True)
class Rendezvous:
    """Where and until when the ranks meet."""

    address: str
    port: int
    rank: int
    world_size: int
    seconds: float


def measure_rank(place: Rendezvous, device: Literal["cpu", "cuda"]) -> RankReading:
    """Measure this rank; called on all ranks at once. Raises PreflightFailed with the ranks that did not join."""
    node = os.environ.get(ENV_NODE) or os.uname().nodename
    rows, elements = SIZES[device]
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    reading = RankReading(place.rank, node, name, measure_product(rows, device))
    if place.world_size == 1:
        return reading
    with logged_network(os.environ) as read_network:
        bandwidths = _measure_group(place, node, device, elements)
        network = read_network() if device == "cuda" else ""
    return RankReading(place.rank, node, name, reading.teraflops, *bandwidths, network)


def measure_product(rows: int, device: str) -> float:
    """Return the rate of a product of two square matrices, in 1e12 operations per second; bfloat16 on a GPU."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    left, right = (torch.randn(rows, rows, device=device, dtype=dtype) for _ in range(2))
    seconds = _best_seconds(lambda: left @ right, device)
    return 2.0 * rows**3 / seconds / 1e12


def _best_seconds(work: Callable[[], object], device: str) -> float:
    times = []
    for _ in range(1 + REPEATS):  # the first one also loads kernels
        began = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def _measure_group(place: Rendezvous, node: str, device: str, elements: int) -> tuple[float | None, float | None]:
    """Return the bus bandwidths (GB/s) over all ranks and over those of this node."""
    store = _meet(place, node)
    timeout = timedelta(seconds=place.seconds)
    backend = "nccl" if device == "cuda" else "gloo"
    nodes = [store.get(f"node/{rank}").decode() for rank in range(place.world_size)]
    dist.init_process_group(
        backend, store=PrefixStore("group", store), rank=place.rank, world_size=place.world_size, timeout=timeout
    )
    try:
        whole = _bandwidth(None, place.world_size, device, elements)
        own = None
        for each in dict.fromkeys(nodes):  # every rank takes part in the making of every group
            members = [rank for rank, where in enumerate(nodes) if where == each]
            group = dist.new_group(members, timeout=timeout) if len(members) > 1 else None
            if group is not None and each == node:
                own = _bandwidth(group, len(members), device, elements)
        dist.barrier()  # rank 0 has the store: it must not leave first
        return whole, own
    finally:
        dist.destroy_process_group()


def _meet(place: Rendezvous, node: str) -> TCPStore:
    """Wait until every rank has written its node. Raises PreflightFailed with those that have not."""
    waiting = timedelta(seconds=place.seconds)
    try:
        store = TCPStore(
            place.address,
            place.port,
            place.world_size,
            is_master=place.rank == 0,
            timeout=waiting,
            wait_for_workers=False,
        )
    except (RuntimeError, OSError) as error:
        raise PreflightFailed(
            f"rank {place.rank} on node {node} does not reach rank 0 at {place.address}:{place.port}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    store.set(f"node/{place.rank}", node)
    deadline = time.monotonic() + place.seconds
    while missing := [rank for rank in range(place.world_size) if not store.check([f"node/{rank}"])]:
        if time.monotonic() > deadline:
            names = ", ".join(map(str, missing))
            raise PreflightFailed(f"ranks that did not join the preflight within {place.seconds:g} s: {names}")
        time.sleep(0.01)
    return store


def _bandwidth(group: Any, size: int, device: str, elements: int) -> float:
    """Return the bus bandwidth of an all-reduce in GB/s: bytes * 2 (n - 1) / n over its time.

    Source: NCCL tests, doc/PERFORMANCE.md.
    """
    values = torch.ones(elements, device=device)
    seconds = _best_seconds(lambda: dist.all_reduce(values.fill_(1.0), group=group), device)
    if float(values[-1]) != size:
        raise PreflightFailed(f"an all-reduce of ones over {size} ranks is {float(values[-1])}")
    return elements * values.element_size() * 2.0 * (size - 1) / size / seconds / 1e9


@contextmanager
def logged_network(variables: MutableMapping[str, str]) -> Iterator[Callable[[], str]]:
    """Have NCCL write its choice of network into a file, unless the user reads its log; yield a reader of the name."""
    if any(name in variables for name in NCCL_LOG):
        yield lambda: ""
        return
    with tempfile.TemporaryDirectory(prefix="scalerl-nccl-") as folder:
        path = Path(folder) / "log"
        variables.update({"NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,NET", "NCCL_DEBUG_FILE": str(path)})
        yield lambda: parse_network(path.read_text()) if path.exists() else ""
        for name in NCCL_LOG:
            variables.pop(name)
