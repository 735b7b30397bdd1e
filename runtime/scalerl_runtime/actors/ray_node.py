"""Runs this pod's Ray node, and copies the termination message to where Kubernetes reads it. I/O.

Ray's ports are fixed, so that two of its processes never choose the same one. The coordinator's pod holds Ray's head;
every other pod joins it over the run's headless Service and serves until SIGTERM.
"""

import asyncio
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scalerl_api import RLRun
from scalerl_api.wire import (
    ENV_COORDINATOR,
    ENV_POD_IP,
    ENV_ROLE,
    ENV_TERMINATION_FILE,
    ENV_TERMINATION_PATH,
    EXIT_FINISHED,
    EXIT_RETRY,
    PORT_RAY_AGENT,
    PORT_RAY_DASHBOARD_GRPC,
    PORT_RAY_DASHBOARD_HTTP,
    PORT_RAY_GCS,
    PORT_RAY_METRICS,
    PORT_RAY_NODE,
    PORT_RAY_OBJECTS,
    PORTS_RAY_WORKERS,
)
from scalerl_runtime.actors.ray_session import object_store_bytes

log = logging.getLogger(__name__)

FIND_COORDINATOR_SECONDS = (
    86_400.0  # a worker looks for its coordinator so long: the coordinator's pod may wait for a node for hours
)
JOIN_RETRY_SECONDS = 5.0
END_SECONDS = 20.0  # grace period of Ray's processes after SIGTERM
PROBE_SECONDS = 1.0  # timeout of a member's probe of Ray's head after SIGTERM, and the pause between two probes
PROBE_MISSES = 3  # consecutive: one failed connection does not count, and a dead head is still noticed in seconds


class JoinFailed(RuntimeError):
    """This pod could not start or join Ray's cluster."""


@dataclass(frozen=True)
class NodeRole:
    """This pod's role in the run."""

    role: str
    coordinator: str
    """DNS name."""
    address: str
    """This pod's own IP."""
    capacity: int
    """Number of actors of its role that fit: a trainer's ranks, or one engine."""
    save_seconds: float
    """Seconds for which it still serves after SIGTERM: all trainers write a checkpoint together. 0 for generators."""
    object_store_bytes: int
    """Of Ray's objects, in /dev/shm."""

    @classmethod
    def parse(cls, variables: Mapping[str, str], run: RLRun) -> "NodeRole":
        """Read the wire's variables. Raises KeyError with the missing one's name."""
        role = variables[ENV_ROLE]
        trains = role == "trainer"
        return cls(
            role=role,
            coordinator=variables[ENV_COORDINATOR],
            address=variables[ENV_POD_IP],
            capacity=max(1, run.spec.trainer.gpus_per_replica) if trains else 1,
            save_seconds=run.spec.deadlines.checkpoint_seconds if trains else 0.0,
            object_store_bytes=object_store_bytes(run.spec.resolved_recipe()),
        )


def build_node_command(node: NodeRole, *, head: bool, num_cpus: int, folder: str) -> list[str]:
    """Return the command of this pod's Ray node. The role is a Ray resource, so actors are scheduled by role."""
    where = (
        ["--head", f"--port={PORT_RAY_GCS}"] if head else [f"--address={node.coordinator}:{PORT_RAY_GCS}", "--block"]
    )
    first, last = PORTS_RAY_WORKERS
    return [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        *where,
        f"--node-ip-address={node.address}",
        f"--node-manager-port={PORT_RAY_NODE}",
        f"--object-manager-port={PORT_RAY_OBJECTS}",
        f"--runtime-env-agent-port={PORT_RAY_AGENT}",
        f"--dashboard-agent-grpc-port={PORT_RAY_DASHBOARD_GRPC}",
        f"--dashboard-agent-listen-port={PORT_RAY_DASHBOARD_HTTP}",
        f"--metrics-export-port={PORT_RAY_METRICS}",
        f"--min-worker-port={first}",
        f"--max-worker-port={last}",
        f"--num-cpus={num_cpus}",
        f"--resources={json.dumps({node.role: node.capacity})}",
        f"--object-store-memory={node.object_store_bytes}",
        # The monitor only scales clusters that Ray creates, and would log the same lines every 5 s.
        *(["--include-dashboard=false", "--no-monitor", f"--temp-dir={folder}"] if head else []),
        "--disable-usage-stats",
        "--no-redirect-output",  # output of engines and ranks goes to the pod's log
    ]


def _environment() -> dict[str, str]:
    """Return the environment of Ray's processes: they log warnings only, unless the level is set."""
    return {"RAY_BACKEND_LOG_LEVEL": "warning", **os.environ}


async def start_head(node: NodeRole, *, num_cpus: int, folder: str, seconds: float) -> str:
    """Start Ray's head in the coordinator's pod within `seconds`; return the address that a driver joins.

    Raises JoinFailed.
    """
    command = build_node_command(node, head=True, num_cpus=num_cpus, folder=folder)
    process = await asyncio.create_subprocess_exec(*command, env=_environment(), stdin=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(seconds):
            await process.wait()  # its daemons keep running and write to our log
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise JoinFailed(f"starting Ray's head took longer than {seconds:g} s") from error
    if process.returncode:
        raise JoinFailed(f"Ray's head ended with {process.returncode}; see the log")
    return f"{node.address}:{PORT_RAY_GCS}"


async def run_worker_node(node: NodeRole, *, num_cpus: int) -> int:
    """Run a Ray node until SIGTERM; return the exit code.

    A trainer pod ends with its coordinator: its attempt is over. A generator pod waits for the next coordinator and
    keeps its node, image and files.

    When a run is deleted or a node drained, a member may get SIGTERM with its coordinator or alone. A trainer then
    continues to serve until the coordinator has saved and ended.
    """
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    command = build_node_command(node, head=False, num_cpus=num_cpus, folder="")
    while (head := await _find(node.coordinator, stopping)) is not None:
        code = await serve(node, command, stopping, partial(_is_there, head))
        if not stopping.is_set():
            log.warning("Ray's node ended with %d", code)
            if node.role == "trainer":
                return EXIT_RETRY
            await _pause(JOIN_RETRY_SECONDS, stopping)
    if not stopping.is_set():
        log.error("no coordinator at %s after %g s", node.coordinator, FIND_COORDINATOR_SECONDS)
        return EXIT_RETRY
    return EXIT_FINISHED


async def _find(coordinator: str, stopping: asyncio.Event) -> str | None:
    """Return the IP of the coordinator's head once it takes connections; None after FIND_COORDINATOR_SECONDS."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + FIND_COORDINATOR_SECONDS
    while not stopping.is_set() and loop.time() < deadline:
        head = await _reach(coordinator, JOIN_RETRY_SECONDS)
        if head is not None:
            return head
        await _pause(1.0, stopping)
    return None


async def _reach(host: str, seconds: float) -> str | None:
    """Return the IP at which Ray's head at `host` takes a connection within `seconds`; None if it takes none."""
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host, PORT_RAY_GCS)
    except (OSError, TimeoutError, socket.gaierror):
        return None
    address = str(writer.get_extra_info("peername")[0])
    writer.close()
    return address


async def _is_there(head: str) -> bool:
    """Whether the head takes connections at its IP; its name ends with the Service, which is deleted with the run."""
    return await _reach(head, PROBE_SECONDS) is not None


async def _pause(seconds: float, stopping: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return


def is_still_needed(node: NodeRole, *, seconds_since_signal: float, misses: int) -> bool:
    """Whether a pod that got SIGTERM `seconds_since_signal` ago must still serve for a checkpoint.

    `misses`: consecutive probes that did not reach Ray's head.
    """
    return seconds_since_signal < node.save_seconds and misses < PROBE_MISSES


async def serve(
    node: NodeRole,
    command: Sequence[str],
    stopping: asyncio.Event,
    is_head_there: Callable[[], Awaitable[bool]],
    *,
    probe_seconds: float = PROBE_SECONDS,
) -> int:
    """Run the node until it exits, or until `stopping` is set and no checkpoint needs it; return its exit code.

    None of its processes is left afterwards.
    """
    process = await asyncio.create_subprocess_exec(*command, env=_environment(), stdin=subprocess.DEVNULL)
    ended, stopped = asyncio.create_task(process.wait()), asyncio.create_task(stopping.wait())
    await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    clock = asyncio.get_running_loop().time
    signalled_at, misses = clock(), 0
    while not ended.done() and is_still_needed(node, seconds_since_signal=clock() - signalled_at, misses=misses):
        misses = 0 if await is_head_there() else misses + 1
        await asyncio.wait([ended], timeout=probe_seconds)
    if not ended.done():
        process.terminate()
        await asyncio.wait([ended], timeout=END_SECONDS)
    if not ended.done():
        process.kill()
    return await ended


def write_termination_message(variables: Mapping[str, str]) -> None:
    """Copy the coordinator's termination message to where Kubernetes reads it.

    A mounted file, so a rename cannot replace it.
    """
    place = variables.get(ENV_TERMINATION_PATH)
    words = Path(variables.get(ENV_TERMINATION_FILE, ""))
    if place and words.is_file():
        shutil.copyfile(words, place)
