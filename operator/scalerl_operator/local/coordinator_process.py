"""Starts, polls, signals and cleans up the coordinator's processes on this machine. I/O."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from scalerl_api.wire import (
    ENV_ATTEMPT,
    ENV_FOLDER,
    ENV_PORT,
    ENV_SPEC,
    ENV_TERMINATION_FILE,
    ENV_TOKEN_FILE,
)
from scalerl_operator.local.run_folder import RunFolder
from scalerl_operator.local.supervisor import kill_descendants, set_subreaper

COORDINATOR_COMMAND = (sys.executable, "-m", "scalerl_runtime", "coordinator")
SUPERVISOR_COMMAND = (sys.executable, "-m", "scalerl_operator.local.supervisor")


def build_environment(folder: RunFolder, attempt: int, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the coordinator's environment: names and paths; the token itself is in a file."""
    path = folder.path.resolve()
    return {
        **inherited,
        ENV_SPEC: str(path / folder.spec.name),
        ENV_FOLDER: str(path),
        ENV_ATTEMPT: str(attempt),
        ENV_PORT: "0",
        ENV_TOKEN_FILE: str(path / folder.token.name),
        ENV_TERMINATION_FILE: str(path / folder.termination.name),
        "PYTHONUNBUFFERED": "1",  # a killed coordinator's last lines must be in its log
    }


class CoordinatorProcess:
    """One attempt's processes. Create it in a thread that outlives it: the supervisor ends with that thread."""

    def __init__(
        self,
        folder: RunFolder,
        attempt: int,
        command: Sequence[str],
        *,
        grace_seconds: float,
        inherit: Sequence[int] = (),
        extra: Mapping[str, str] | None = None,
    ):
        """Start `command` under a supervisor. The last attempt's address and termination message are removed first.

        The processes keep the files `inherit` open; `extra` is added to their environment.
        """
        self.folder = folder
        self._spared = frozenset(child.pid for child in psutil.Process().children(recursive=True))
        for stale in (folder.address, folder.termination, folder.token):
            stale.unlink(missing_ok=True)
        self.token = secrets.token_urlsafe(32)
        _save_secret(folder.token, self.token)
        set_subreaper()
        with folder.log.open("ab") as log:
            log.write(f"--- attempt {attempt} ---\n".encode())
            log.flush()
            self._supervisor = subprocess.Popen(
                [*SUPERVISOR_COMMAND, str(os.getpid()), str(grace_seconds), *command],
                env=build_environment(folder, attempt, {**os.environ, **(extra or {})}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=inherit,
                start_new_session=True,  # Ctrl-C in the terminal reaches this process only, which sends SIGTERM
            )

    def poll(self) -> int | None:
        """Return the exit code (128 + N for signal N), None while it runs. With an exit code, no process is left."""
        code = self._supervisor.poll()
        if code is None:
            return None
        self._clean_up()
        return code if code >= 0 else 128 - code

    def terminate(self) -> None:
        """Send SIGTERM: the coordinator saves a checkpoint and exits."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all its descendants now; return when nothing is left."""
        self._send(signal.SIGUSR1)
        try:
            self._supervisor.wait(timeout=10.0)
        except subprocess.TimeoutExpired:  # a supervisor that cannot be scheduled; its orphans become ours
            self._supervisor.kill()
            self._supervisor.wait()
        self._clean_up()

    def read_address(self) -> str | None:
        """Return `host:port` once the coordinator answers there."""
        try:
            return self.folder.address.read_text(encoding="utf-8").strip() or None
        except OSError:
            return None

    def _send(self, number: int) -> None:
        if self._supervisor.poll() is None:
            self._supervisor.send_signal(number)

    def _clean_up(self) -> None:
        kill_descendants(spare=self._spared)
        self.folder.token.unlink(missing_ok=True)
        self.folder.address.unlink(missing_ok=True)


def _save_secret(path: Path, text: str) -> None:
    """Write a new file that only its owner can read, from its first byte on."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
