"""Runs a program that nobody trusts: no network, little memory and time, nothing left behind. I/O.

The program gets its own network, process and mount namespace where the kernel allows it (`unshare`); elsewhere sockets
are refused inside its interpreter, which stops a careless program, not a clever one. Limits of the kernel hold in both.
Real isolation of hostile code takes a machine or pod of its own.
"""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

MAX_FILE_BYTES = 16 * 2**20
MAX_PROCESSES = 64  # of the namespace's user; bounds a fork bomb
GRACE_SECONDS = 1.0  # the kernel's CPU limit is a whole number of seconds, the wall's is not

# Runs before the program where there is no namespace; `socket` is what every network module is built on.
NO_SOCKETS = """
import socket as _socket
def _refuse(*_a, **_k): raise PermissionError("no network in the sandbox")
_socket.socket.connect = _socket.socket.bind = _socket.socket.sendto = _refuse
_socket.create_connection = _socket.getaddrinfo = _refuse
del _socket
"""


class SandboxFault(RuntimeError):
    """The sandbox could not be set up; nothing is known about the program."""


@dataclass(frozen=True)
class Limits:
    """What a program may use."""

    wall_seconds: float
    memory_megabytes: int


def run_program(source: str, limits: Limits) -> bool:
    """Run Python `source`; return whether it ended by itself, in time, with exit code 0. Raises SandboxFault."""
    folder = tempfile.mkdtemp(prefix="scalerl-sandbox-")
    try:
        prefix = isolation()
        program = Path(folder) / "program.py"
        program.write_text(source if prefix else NO_SOCKETS + source)
        return _run([*prefix, sys.executable, "-I", str(program)], folder, limits)
    except OSError as error:
        raise SandboxFault(f"the sandbox could not start: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@lru_cache(maxsize=1)
def isolation() -> tuple[str, ...]:
    """The command that puts a program into namespaces of its own; empty where that is not allowed."""
    program = shutil.which("unshare")
    if program is None:
        return ()
    mapped = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    command = (program, *mapped, "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
    tried = subprocess.run([*command, "true"], capture_output=True, timeout=30, check=False)
    return command if tried.returncode == 0 else ()


def _run(command: Sequence[str], folder: str, limits: Limits) -> bool:
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: _limit(limits),  # noqa: PLW1509 # no thread of ours holds a lock that it takes
    )
    try:
        return process.wait(limits.wall_seconds) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the program's children too; with a namespace all die with it
        process.wait()


def _limit(limits: Limits) -> None:
    """Set the kernel's limits; runs in the child."""
    seconds = int(limits.wall_seconds + GRACE_SECONDS)
    memory = limits.memory_megabytes * 2**20
    for kind, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, MAX_FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 256),
    ):
        resource.setrlimit(kind, (value, value))
    if os.geteuid() != 0:  # root is not bound by it; there the memory and time limits bound a fork bomb
        resource.setrlimit(resource.RLIMIT_NPROC, (MAX_PROCESSES, MAX_PROCESSES))
