"""Checks a pod's node at the pod's start: reads it, logs one line, refuses it. I/O."""

import asyncio
import logging
import os
import resource
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from scalerl_api import RLRun
from scalerl_runtime.deadlines import within
from scalerl_runtime.preflight.devices import load_nvml, read_devices
from scalerl_runtime.preflight.readings import GIB, Findings, NodeUnfit, PodLimits, PodReading
from scalerl_runtime.preflight.rules import asks_rdma, judge_pod

log = logging.getLogger(__name__)

T = TypeVar("T")

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 # its size is read
MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
MEMORY_USED = Path("/sys/fs/cgroup/memory.current")
MEMORY_OF_HOST = Path("/proc/meminfo")


async def check_pod(run: RLRun, *, node: str, role: str | None, shared_memory_bytes: int) -> None:
    """Check this process's node as `run` asks. Raises NodeUnfit, DeadlineExceeded.

    Args:
        node: its name; empty: not known.
        role: of the pod; None: this machine runs all processes of the run.
        shared_memory_bytes: what Ray's objects need of /dev/shm.
    """
    if not run.spec.preflight.enabled:
        return
    template = run.spec.generator.template if role == "generator" else run.spec.trainer.template
    limits = PodLimits(shared_memory_bytes, run.spec.preflight.min_free_memory_share, asks_rdma(template))
    devices = count_devices(run, role)
    reading = await within(
        run.spec.deadlines.preflight_seconds,
        f"preflight: reading node {node or 'of this process'}",
        _in_daemon_thread(lambda: read_pod(node, devices_asked=devices)),
    )
    findings = judge_pod(reading, limits)
    log.info("%s", describe_pod(reading, findings))
    if findings.unfit:
        raise NodeUnfit(findings.unfit)


def _in_daemon_thread(work: Callable[[], T]) -> "asyncio.Future[T]":
    """Run `work` in a thread that holds no exit: NVML hangs for ever on a device that fell off the bus."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():  # cancelled at its deadline
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type] # a T where there is no error

    def run() -> None:
        try:
            result = work()
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            loop.call_soon_threadsafe(settle, None, error)
        else:
            loop.call_soon_threadsafe(settle, result, None)

    Thread(target=run, daemon=True, name="preflight").start()
    return future


def count_devices(run: RLRun, role: str | None) -> int:
    """Return how many devices this pod's processes use; without a role those of all processes of the run."""
    trainer, generator = run.spec.trainer, run.spec.generator
    if role is not None:
        return trainer.gpus_per_replica if role == "trainer" else generator.gpus_per_replica
    if generator.colocated:
        return 1
    return trainer.replicas * trainer.gpus_per_replica + generator.min_replicas * generator.gpus_per_replica


def read_pod(node: str, *, devices_asked: int) -> PodReading:
    """Read this pod. Devices are read where some are asked for."""
    shared = shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.exists() else 0
    devices, driver, fault = _find_devices() if devices_asked else ((), None, "")
    return PodReading(
        node=node,
        devices_asked=devices_asked,
        devices=devices,
        shared_memory_bytes=shared,
        disk_free_bytes=shutil.disk_usage(tempfile.gettempdir()).free,
        memory_free_bytes=read_free_memory(MEMORY_LIMIT, MEMORY_USED, MEMORY_OF_HOST),
        device_fault=fault,
        driver_cuda=driver,
        runtime_cuda=_runtime_cuda() if devices_asked else None,
        lockable_bytes=_lockable_bytes(),
    )


def _lockable_bytes() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY or os.getuid() == 0 else soft


def _find_devices() -> tuple[Any, tuple[int, int] | None, str]:
    try:
        nvml = load_nvml()
    except ImportError as error:
        return (), None, f"the package nvidia-ml-py is missing: {error}"
    return read_devices(nvml)


def _runtime_cuda() -> tuple[int, int] | None:
    from torch.version import cuda  # no device is touched

    if cuda is None:
        return None
    major, minor = cuda.split(".")[:2]
    return int(major), int(minor)


def read_free_memory(limit: Path, used: Path, host: Path) -> int:
    """Return the bytes of memory that a process can still take: the smaller of the cgroup's rest and the host's."""
    amounts = {line.split(":")[0]: line.split()[1] for line in host.read_text().splitlines()}
    free = int(amounts["MemAvailable"]) * 1024
    try:
        return min(free, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):  # no cgroup of version 2, or `max`: no limit
        return free


def describe_pod(reading: PodReading, findings: Findings) -> str:
    """Return the one line of the log."""
    devices = ", ".join(
        f"{each.name} {each.free_bytes / GIB:.1f} of {each.total_bytes / GIB:.1f} GiB free" for each in reading.devices
    )
    verdict = "; ".join([*(each.reason for each in findings.unfit), *findings.warnings])
    return (
        f"preflight: node {reading.node or '-'}: {len(reading.devices)} devices seen, {reading.devices_asked} asked"
        f"{': ' + devices if devices else ''}; /dev/shm {reading.shared_memory_bytes / GIB:.1f} GiB, "
        f"disk {reading.disk_free_bytes / GIB:.1f} GiB free, memory {reading.memory_free_bytes / GIB:.1f} GiB free; "
        f"{verdict or 'fit'}"
    )
