"""Processes for code that may hang, take all memory or exit, such as a user's: JSON over a connection. I/O.

`ChildProcess` is the parent's side: every wait has a deadline, and only a process can be killed. `open_connection` and
`serve` are the child's.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

START_SECONDS = (
    120.0  # importing a user's module from a cold disk takes tens of seconds; so may the model of a first call
)
MAX_PROCESSES = 8  # more would take the generators' cores; a request takes about a millisecond
ALARM_SECONDS = 5.0  # the parent kills first; the alarm ends a process that hangs after its parent is gone

Reply = Mapping[str, Any]  # JSON


def count_processes() -> int:
    """Return the number of processes of a pool on this machine."""
    return min(len(os.sched_getaffinity(0)), MAX_PROCESSES)


class ChildProcess:
    """The parent's side of a process; one request at a time."""

    def __init__(self, module: str, *arguments: str, lost: type[RuntimeError], slow: type[RuntimeError] | None = None):
        """Start `python -m module FIRST DESCRIPTOR OTHERS...`; DESCRIPTOR is the child's end of the connection.

        `arguments`: FIRST and OTHERS. `lost`: raised when the process ends or does not reply in time.
        """
        self._lost = lost
        self._slow = lost if slow is None else slow
        self._connection, child_end = Pipe()
        first, *others = arguments
        with child_end:
            descriptor = child_end.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, first, str(descriptor), *others],
                stdin=subprocess.DEVNULL,
                pass_fds=(descriptor,),
                env=os.environ | {"OMP_NUM_THREADS": "1"},  # a thread per core in every process would be too many
                # A session of its own: Ctrl-C goes to the coordinator, and `end` reaches what a user's code starts.
                start_new_session=True,
            )

    def request(self, request: object, timeout_seconds: float, *, gone: str, failure: str) -> Reply:
        """Return the reply to one request. Raises `lost` with the words `gone` or `failure`."""
        message = {"request": request, "timeout": timeout_seconds}
        try:
            self._connection.send_bytes(json.dumps(message).encode())
        except OSError as error:
            raise self._lost(f"{gone} ({error})") from error
        return self.receive(timeout_seconds, failure)

    def receive(self, timeout_seconds: float, failure: str) -> Reply:
        """Return the next message, the first of which says whether the process can be used. Raises `lost`."""
        try:
            if not self._connection.poll(timeout_seconds):
                raise self._slow(f"{failure} within {timeout_seconds:g} s")
            reply: Reply = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._lost(f"{failure}: its process ended") from error
        return reply

    def end(self) -> None:
        """Kill the process and everything that it started. Harmless when repeated."""
        if self._process.returncode is None:  # else the number may be another process's by now
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def open_connection(descriptor: str) -> Connection:
    """Return the child's end. Output of the code goes to the log from now on."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return Connection(int(descriptor))


def send(connection: Connection, message: Reply) -> None:
    """Send one message to the parent."""
    connection.send_bytes(json.dumps(message).encode())


def serve(connection: Connection, handle: Callable[[Any], Reply]) -> None:
    """Say that the process is ready; then reply to requests until the parent is gone."""
    send(connection, {"ready": True})
    while True:
        try:
            message = json.loads(connection.recv_bytes())
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, float(message["timeout"]) + ALARM_SECONDS)  # SIGALRM's default ends us
        reply = handle(message["request"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(connection, reply)


def load_callable(path: str, kind: str) -> Callable[..., object]:
    """Return what `package.module:name` names. Raises TypeError if it is no `kind`, and what the module raises."""
    module, _, name = path.partition(":")
    found: object = getattr(importlib.import_module(module), name)
    if not callable(found):
        raise TypeError(f"{name} in {module} is a {type(found).__name__}, not {kind}")
    made: Callable[..., object] = found
    return made
