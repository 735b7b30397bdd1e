"""Runs programs against their tests in a sandbox without network, processes, file writes or signals. I/O."""

import importlib.util
import json
import math
import os
import re
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from scalerl_api.validation import Fault, InvalidRun
from scalerl_runtime.rewards.code_reference import CodeReference, parse_code_reference
from scalerl_runtime.rewards.confined import child as confined
from scalerl_runtime.rewards.output_match import is_same_output
from scalerl_runtime.rewards.program import find_program

MAX_RESULT_BYTES = 4096  # READY, nonce or one line of error; a program that finds the pipe cannot flood this process
START_SECONDS = 60.0  # a loaded machine starts an interpreter late; the program's time begins after that
TRIAL_SECONDS, TRIAL_MEGABYTES = 60.0, 64
TRIAL = CodeReference("tests", tests="assert x == 1", names=("x",))
ROOT = str(Path(__file__).parents[2])  # where the child finds its own modules
# One thread: the filter's limits are for one program, and many programs run at once.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


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


@dataclass(frozen=True)
class SandboxLimits:
    """Limits of one program."""

    timeout_seconds: float  # wall clock of all its tests, without the interpreter's start; processor time too
    memory_megabytes: int  # address space on top of the interpreter's
    packages: dict[str, str] = field(default_factory=dict)  # installed packages that it may import -> their folder


class Sandbox:
    """Applies the same limits to every program; thread-safe."""

    def __init__(self, *, timeout_seconds: float, memory_megabytes: int, packages: Sequence[str] = ()):
        """For the limits see SandboxLimits.

        Raises SandboxUnavailable if a trial program does not pass, InvalidRun for a package that cannot be imported.
        """
        trial = run_program("x = 1", TRIAL, SandboxLimits(TRIAL_SECONDS, TRIAL_MEGABYTES))
        if not trial.right:
            raise SandboxUnavailable(
                f"programs need Linux with seccomp on x86_64 or arm64: {trial.kind} {trial.reason}"
            )
        self._limits = SandboxLimits(timeout_seconds, memory_megabytes, find_packages(packages))
        for index, name in enumerate(packages):
            limits = SandboxLimits(TRIAL_SECONDS, memory_megabytes, self._limits.packages)
            if not run_program(f"import {name}\nx = 1", TRIAL, limits).right:
                fault = Fault(f"spec.reward.packages[{index}]", name, "a package that can be imported in the sandbox")
                raise InvalidRun([fault])

    def check(self, answer: str, reference: str) -> ProgramResult:
        """Run the program in an answer with the tests of a reference; `unavailable` for a reference that is none."""
        try:
            tests = parse_code_reference(reference)
        except ValueError as error:
            return ProgramResult("unavailable", f"the reference is no test: {error}")
        return run_program(find_program(answer, tests.wanted_names), tests, self._limits)

    def close(self) -> None:
        """Do nothing: no process is kept between programs, and a running one ends by its timeout."""


def find_packages(names: Sequence[str]) -> dict[str, str]:
    """Return each package's folder; empty for one of the standard library. Raises InvalidRun."""
    folders = {}
    for index, name in enumerate(names):
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise InvalidRun(
                [Fault(f"spec.reward.packages[{index}]", name, "a package that the trainer has installed")]
            )
        standard = name in sys.stdlib_module_names or spec.origin is None
        path = Path(spec.origin or "")
        folders[name] = "" if standard else str(path.parents[1] if path.name == "__init__.py" else path.parent)
    return folders


def run_program(
    program: str, reference: CodeReference, limits: SandboxLimits, clock: Callable[[], float] = time.monotonic
) -> ProgramResult:
    """Run `program` against its tests, in a process of its own.

    Args:
        program: Python source; the standard library is there, and the packages of `limits`.
        reference: the tests.
        limits: what it may use.
        clock: seconds, monotonic.

    The tests, and what they expect, are in other processes than the program. docs/judges.md lists what stays open.
    """
    nonce = secrets.token_hex(16)
    # A file, not a pipe: writing the request then cannot block. A folder of its own: nothing to read nearby.
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryDirectory(prefix="scalerl-sandbox-") as folder:
        for section in build_request(program, reference, limits, nonce):
            content = json.dumps(section).encode()
            stdin.write(len(content).to_bytes(8, "big") + content)
        stdin.seek(0)
        try:
            process = _start(stdin, Path(folder))
        except OSError as error:
            return ProgramResult("unavailable", f"the sandbox did not start: {error}")
        with process:
            pipe = _Pipe(process, clock)
            pipe.allow(START_SECONDS)
            try:
                started = pipe.read_line()
                if started != confined.READY:
                    return parse_result(started, ended=not pipe.is_late, nonce=nonce)
                pipe.allow(limits.timeout_seconds)
                return _judge_outputs(pipe, reference) if reference.kind == "stdio" else _judge_nonce(pipe, nonce)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # the program too: its process is a fork


def build_request(
    program: str, reference: CodeReference, limits: SandboxLimits, nonce: str
) -> tuple[dict[str, object], dict[str, object]]:
    """Return what the program's process may know, and what the tests' process knows besides."""
    text = program + reference.tests + reference.prompt
    packages = [name for name in limits.packages if re.search(rf"\b{name}\b", text)]
    public = {
        "kind": reference.kind,
        "program": program,
        "prompt": reference.prompt,
        "entry": reference.entry,
        "inputs": list(reference.inputs) if reference.kind == "stdio" else [],
        "memory_bytes": limits.memory_megabytes * 2**20,
        "cpu_seconds": math.ceil(limits.timeout_seconds) + 1,
        "packages": packages,
        "folders": sorted({limits.packages[name] for name in packages} - {""}),
        "own_folder": ROOT,
    }
    secret = {
        "kind": reference.kind,
        "nonce": nonce,
        "tests": reference.tests,
        "prompt": reference.prompt,
        "entry": reference.entry,
        "names": list(reference.names),
        "classes": list(reference.classes),
        "function": reference.function,
        "inputs": list(reference.inputs),
        "outputs": list(reference.outputs),
        "wrapped": reference.wrapped,
    }
    return public, {} if reference.kind == "stdio" else secret


def _judge_nonce(pipe: "_Pipe", nonce: str) -> ProgramResult:
    """Return how the tests ended, which write the nonce if all are passed."""
    result = pipe.read(MAX_RESULT_BYTES)
    return parse_result(confined.READY + result, ended=not pipe.is_late, nonce=nonce)


def _judge_outputs(pipe: "_Pipe", reference: CodeReference) -> ProgramResult:
    """Compare what the program prints for each input, until one is wrong."""
    for expected in reference.outputs:
        line = pipe.read_line()
        if not line.endswith(b"\n"):
            return ProgramResult("timeout" if pipe.is_late else "failed")
        head = json.loads(line)
        printed = pipe.read(head["size"]).decode(errors="replace")
        if head["ended"] == "unavailable":
            return ProgramResult("unavailable", f"the sandbox was not set up: {printed}")
        if head["ended"] != "ok" or pipe.is_late or not is_same_output(printed, expected):
            return ProgramResult("timeout" if pipe.is_late else "failed")
    return ProgramResult("passed")


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
        env=ENVIRONMENT,
        start_new_session=True,  # Ctrl-C goes to the coordinator, which shuts down in order
        close_fds=True,
    )


class _Pipe:
    """Reads the child's result until the deadline."""

    def __init__(self, process: "subprocess.Popen[bytes]", clock: Callable[[], float]):
        assert process.stdout is not None, "opened as a pipe"
        self._descriptor = process.stdout.fileno()
        self._poll = select.poll()  # select() fails above descriptor 1023, which the coordinator can reach
        self._poll.register(self._descriptor, select.POLLIN)
        self._deadline, self._clock = 0.0, clock
        self._buffer = b""
        self.is_late = False  # the deadline came before the end

    def allow(self, seconds: float) -> None:
        """Set the deadline: this many seconds from now."""
        self._deadline = self._clock() + seconds

    def read(self, size: int) -> bytes:
        """Return `size` bytes, or what came before the end or the deadline."""
        while len(self._buffer) < size and self._fill():
            pass
        result, self._buffer = self._buffer[:size], self._buffer[size:]
        return result

    def read_line(self) -> bytes:
        """Return one line, or what came before the end or the deadline."""
        while b"\n" not in self._buffer and len(self._buffer) < MAX_RESULT_BYTES and self._fill():
            pass
        line, newline, self._buffer = self._buffer.partition(b"\n")
        return line + newline

    def _fill(self) -> bool:
        remaining = self._deadline - self._clock()
        if remaining <= 0 or not self._poll.poll(remaining * 1000):
            self.is_late = True
            return False
        chunk = os.read(self._descriptor, 2**16)
        self._buffer += chunk
        return bool(chunk)
