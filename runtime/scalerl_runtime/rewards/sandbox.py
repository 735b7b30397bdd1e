"""Runs a program and its tests in a sandbox without network, processes, file writes or signals. I/O."""

import json
import math
import os
import secrets
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from scalerl_runtime.rewards import sandbox_child as confined

MAX_RESULT_BYTES = 4096  # READY, nonce or one line of error; a program that finds the pipe cannot flood this process
TRIAL_SECONDS, TRIAL_MEGABYTES = 60.0, 64  # a loaded machine starts an interpreter late


@dataclass(frozen=True)
class ProgramResult:
    """How a program ended."""

    kind: Literal["passed", "failed", "timeout", "unavailable"]  # `unavailable`: the sandbox itself did not start
    reason: str = ""  # why it is unavailable

    @property
    def right(self) -> bool | None:
        """Whether the program passed; None if the sandbox failed."""
        return None if self.kind == "unavailable" else self.kind == "passed"


class SandboxUnavailable(RuntimeError):
    """This machine cannot run a sandbox."""


class Sandbox:
    """Applies the same limits to every program; thread-safe."""

    def __init__(self, *, timeout_seconds: float, memory_megabytes: int):
        """For the limits see `run_program`. Raises SandboxUnavailable if a trial program does not pass."""
        self._timeout_seconds = timeout_seconds
        self._memory_megabytes = memory_megabytes
        trial = run_program("x = 1", "assert x == 1", timeout_seconds=TRIAL_SECONDS, memory_megabytes=TRIAL_MEGABYTES)
        if not trial.right:
            raise SandboxUnavailable(
                f"programs need Linux with seccomp on x86_64 or arm64: {trial.kind} {trial.reason}"
            )

    def check(self, program: str, tests: str) -> ProgramResult:
        """Run one program with its tests."""
        return run_program(
            program, tests, timeout_seconds=self._timeout_seconds, memory_megabytes=self._memory_megabytes
        )

    def close(self) -> None:
        """Do nothing: no process is kept between programs, and a running one ends by its timeout."""


def run_program(
    program: str,
    tests: str,
    *,
    timeout_seconds: float,
    memory_megabytes: int,
    clock: Callable[[], float] = time.monotonic,
) -> ProgramResult:
    """Run `program` and then `tests` in its namespace; passed if both end without an exception.

    Args:
        program, tests: Python source; the standard library is there, installed packages are not.
        timeout_seconds: wall clock, with the interpreter's start (about 0.05 s); processor time has the same bound.
        memory_megabytes: address space on top of the interpreter's.
        clock: seconds, monotonic.

    The tests share a process with the program. A program that inspects the tests' frames can cheat. One that ends
    early, crashes, hangs or prints without end cannot.
    """
    nonce = secrets.token_hex(16)
    limits = {"memory_bytes": memory_megabytes * 2**20, "cpu_seconds": math.ceil(timeout_seconds) + 1}
    request = {"program": program, "tests": tests, "nonce": nonce, **limits}
    deadline = clock() + timeout_seconds
    # A file, not a pipe: writing the request then cannot block. A folder of its own: nothing to read nearby.
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryDirectory(prefix="scalerl-sandbox-") as folder:
        stdin.write(json.dumps(request).encode())
        stdin.seek(0)
        try:
            process = _start(stdin, Path(folder))
        except OSError as error:
            return ProgramResult("unavailable", f"the sandbox did not start: {error}")
        with process:
            try:
                result, ended = _read_result(process, deadline, clock)
            finally:
                process.kill()  # it has no children: the filter forbids them
    return parse_result(result, ended=ended, nonce=nonce)


def parse_result(result: bytes, *, ended: bool, nonce: str) -> ProgramResult:
    """Return the outcome that the result bytes encode; `ended` is False if the time ran out."""
    if not result.startswith(confined.READY):
        shown = result.decode(errors="replace").strip() or "it wrote nothing"
        return ProgramResult("unavailable", f"the sandbox was not set up: {shown}")
    if result == confined.READY + nonce.encode():
        return ProgramResult("passed")
    return ProgramResult("failed" if ended else "timeout")


def _start(stdin: IO[bytes], folder: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-I", "-S", str(Path(confined.__file__))]
    return subprocess.Popen(
        command,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={},
        start_new_session=True,  # Ctrl-C goes to the coordinator, which shuts down in order
        close_fds=True,
    )


def _read_result(process: "subprocess.Popen[bytes]", deadline: float, clock: Callable[[], float]) -> tuple[bytes, bool]:
    """Return the result bytes, and whether the process closed them before the deadline."""
    assert process.stdout is not None, "opened as a pipe"
    descriptor = process.stdout.fileno()
    poll = select.poll()  # select() fails above descriptor 1023, which the coordinator can reach
    poll.register(descriptor, select.POLLIN)
    result = b""
    while len(result) < MAX_RESULT_BYTES:
        remaining = deadline - clock()
        if remaining <= 0 or not poll.poll(remaining * 1000):
            return result, False
        chunk = os.read(descriptor, MAX_RESULT_BYTES - len(result))
        if not chunk:
            return result, True
        result += chunk
    return result, True
