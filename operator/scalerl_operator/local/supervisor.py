"""Runs one command so that none of its processes outlives it, and so that it ends with the supervisor's parent. I/O.

Run as `python -m scalerl_operator.local.supervisor PARENT_PID GRACE_SECONDS COMMAND...`. SIGTERM is passed on to the
command, which has GRACE_SECONDS to end; SIGUSR1 kills everything now. The exit code is the command's, 128 + N for
signal N.

A coordinator starts Ray and vLLM, whose processes have sessions of their own and outlive a killed parent. This process
is their subreaper: every orphan becomes its child, so that none is lost.
"""

import contextlib
import ctypes
import os
import signal
import sys

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SWEEPS = 200  # a process that forks while it is being killed needs several; each waits 50 ms at most


def set_subreaper() -> None:
    """Make orphaned descendants children of this process (Linux; elsewhere nothing happens)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_death_signal(number: int, parent: int) -> None:
    """Receive signal `number` when `parent`, the process that started this one, dies; at once if it is dead already."""
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def kill_descendants(*, spare: frozenset[int] = frozenset()) -> int:
    """Kill every descendant of this process that is not in `spare`; return how many there were.

    The sweep repeats until none is left: a child may fork between the listing and the kill.
    """
    killed: set[int] = set()
    for _ in range(_SWEEPS):
        found = [each for each in psutil.Process().children(recursive=True) if each.pid not in spare]
        if not found:
            break
        for process in found:
            killed.add(process.pid)
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(found, timeout=0.05)
    return len(killed)


class _Command:
    """The command's process, and the last signal for it."""

    def __init__(self, grace_seconds: float):
        self._grace_seconds = grace_seconds
        self._pid: int | None = None
        self._signal: int | None = None

    def on_term(self, number: int, frame: object) -> None:
        """Forward the signal; the alarm ends the grace period."""
        del frame
        if self._signal is None:
            signal.setitimer(signal.ITIMER_REAL, max(0.001, self._grace_seconds))
        self._send(number)

    def on_kill(self, number: int, frame: object) -> None:
        """Kill the command; the sweep at the end takes the rest."""
        del number, frame
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        self._signal = number
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError):  # it has just been reaped
                os.kill(self._pid, number)

    def run(self, program: list[str]) -> int:
        """Run `program` to its end; return its exit code, negative for a signal. Orphans that end are reaped."""
        stub = [sys.executable, "-I", "-S", "-c", _EXEC_WITH_DEATH_SIGNAL, str(os.getpid()), *program]
        self._pid = os.posix_spawn(sys.executable, stub, os.environ)
        if self._signal is not None:  # it arrived while the process was starting
            os.kill(self._pid, self._signal)
        while True:
            pid, status = os.waitpid(-1, 0)
            if pid == self._pid:
                self._pid = None
                return os.waitstatus_to_exitcode(status)


# Between fork and exec only async-signal-safe work is safe, so the death signal is set by the new program itself and
# survives its exec. SIGTERM and not SIGKILL: a coordinator whose supervisor was killed can still checkpoint.
_EXEC_WITH_DEATH_SIGNAL = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(75)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def main(arguments: list[str]) -> int:
    """Run the command in `arguments`; return the exit code."""
    parent, grace_seconds, *program = arguments
    command = _Command(float(grace_seconds))
    signal.signal(signal.SIGTERM, command.on_term)
    signal.signal(signal.SIGUSR1, command.on_kill)
    signal.signal(signal.SIGALRM, command.on_kill)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_subreaper()
    set_death_signal(signal.SIGTERM, int(parent))
    code = command.run(program)
    kill_descendants()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)  # a late signal would find no Python handler and change the exit code
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
