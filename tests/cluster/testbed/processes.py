"""Background programs: start with a log, find from another command, stop for certain. I/O.

A cluster outlives the command that starts it, so what it consists of is written down: `<state>/processes`, a line for
each. A process id may be another's by the time it is read; the start time beside it tells.
"""

import os
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

STOP_SECONDS = 10.0  # then SIGKILL; a kube-apiserver drains for some seconds
LOG_LINES_SHOWN = 15


class ClusterError(Exception):
    """The cluster cannot be started or used; the message is for its user."""


@dataclass(frozen=True)
class Process:
    """One program of the cluster."""

    name: str
    pid: int
    started: str  # clock ticks since boot, from /proc: with the pid it identifies a process

    def is_alive(self) -> bool:
        """Whether it still runs. A zombie counts only while other threads of it run: they hold its ports."""
        return _start_time(self.pid) == self.started


def start(state: Path, name: str, command: Sequence[str | Path]) -> Process:
    """Start `command` in a session of its own, its output in <state>/log/<name>."""
    log = state / "log" / name
    temporary = state / "tmp"
    for folder in (log.parent, temporary):
        folder.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches only the waiting command, which then stops this one
            cwd=state,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
    process = Process(name, child.pid, _start_time(child.pid) or "ended")
    child.returncode = 0  # no ResourceWarning: the process outlives this object
    with (state / "processes").open("a") as file:
        file.write(f"{process.name} {process.pid} {process.started}\n")
    return process


def load_processes(state: Path) -> list[Process]:
    """Return the processes of `state` in the order of their start."""
    file = state / "processes"
    if not file.exists():
        return []
    fields = [line.split() for line in file.read_text().splitlines()]
    return [Process(name, int(pid), started) for name, pid, started in fields]


def restart(state: Path, name: str) -> Process:
    """Kill the program `name` of `state` (SIGKILL) and start it again with the same command. Raises ClusterError."""
    found = [each for each in load_processes(state) if each.name == name and each.is_alive()]
    if not found:
        raise ClusterError(f"no {name} runs in {state}")
    command = read_command(found[-1].pid)
    _end(found[-1], signal.SIGKILL)
    return start(state, name, command)


def read_command(pid: int) -> list[str]:
    """Return the command line of a process. It is empty for a moment while the kernel loads the program.

    Raises ClusterError if it stays empty for STOP_SECONDS.
    """
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        if text := Path(f"/proc/{pid}/cmdline").read_bytes().decode():
            return text.split("\0")[:-1]
        time.sleep(0.01)
    raise ClusterError(f"process {pid} has had no command line for {STOP_SECONDS:g} s")


def stop_all(state: Path) -> None:
    """Stop everything of `state`, the last started first."""
    for process in reversed(load_processes(state)):
        _stop(process)


def _stop(process: Process) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        _end(process, number)
    if process.is_alive():
        raise ClusterError(f"{process.name} (process {process.pid}) survived SIGKILL for {STOP_SECONDS:g} s")


def _end(process: Process, number: signal.Signals) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    if process.is_alive():
        # Each leads a process group; a node's first process is in the group of its `unshare`.
        os.killpg(process.pid, number)
    while process.is_alive() and time.monotonic() < deadline:
        _reap(process.pid)
        time.sleep(0.02)


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):  # another command started it, so it is not our child
        os.waitpid(pid, os.WNOHANG)


def _start_time(pid: int) -> str | None:
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, num_threads, started = after_name[0], int(after_name[17]), after_name[19]
    return None if state == "Z" and num_threads <= 1 else started


def wait(state: Path, phase: str, *, seconds: float, until: Callable[[], str | None], process: Process) -> None:
    """Wait for `until` to return None; until then it returns what is missing. Raises ClusterError, naming `phase`."""
    deadline = time.monotonic() + seconds
    while (missing := until()) is not None:
        if not process.is_alive():
            raise ClusterError(f"{phase}: {process.name} ended\n{_tail(state, process)}")
        if time.monotonic() > deadline:
            raise ClusterError(f"{phase}: not in {seconds:g} s: {missing}\n{_tail(state, process)}")
        time.sleep(0.1)


def _tail(state: Path, process: Process) -> str:
    lines = (state / "log" / process.name).read_text(errors="replace").splitlines()
    return "\n".join(f"  {process.name}: {line}" for line in lines[-LOG_LINES_SHOWN:])


def fetch(url: str, context: ssl.SSLContext) -> str | None:
    """Return None once `url` answers 200, else the error. It bypasses proxies: the server is on this machine."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(url, timeout=5):
            return None
    except urllib.error.HTTPError as error:
        return f"{url} answers {error.code}: {error.read(500).decode(errors='replace')}"
    except OSError as error:
        return f"{url}: {error}"


def run(*command: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Run `command` to its end and return its output. Raises ClusterError with its error output."""
    words = [str(part) for part in command]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=env)
    if done.returncode:
        raise ClusterError(f"{' '.join(words)}: exit {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout
