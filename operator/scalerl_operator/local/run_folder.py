"""The files of a run's folder: its spec, status, attempts, forecasts, and the runtime's own records. I/O.

Every file that is replaced is replaced atomically; every file that grows grows by whole, flushed lines.
"""

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from scalerl_api import RLRun, parse_run
from scalerl_api.evaluations import merge_evals
from scalerl_api.status import AttemptStatus
from scalerl_api.wire import (
    ADDRESS_FILE,
    CHECKPOINTS,
    EVALS_FILE,
    LEDGER_FILE,
    METRICS_FILE,
    EvalPoint,
    StepRecord,
    Termination,
)
from scalerl_operator.local.durable_files import append_line, save_text
from scalerl_operator.local.yaml_document import load_document
from scalerl_operator.run.attempts import format_attempt, parse_attempts
from scalerl_operator.run.evals import merge_steps, parse_lines
from scalerl_operator.run.forecast_log import ForecastLine, parse_forecasts

FOLLOW_SECONDS = 0.5  # between two looks at a log that is followed


class FolderBusy(Exception):
    """Another process drives the run in this folder."""


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run's files."""

    path: Path

    @property
    def spec(self) -> Path:
        """The run as its author wrote it; the coordinator reads this one."""
        return self.path / "run.yaml"

    @property
    def status(self) -> Path:
        """The RLRun with its status."""
        return self.path / "status.yaml"

    @property
    def attempts(self) -> Path:
        """One AttemptStatus a line; of two lines with one number the last counts."""
        return self.path / "attempts.jsonl"

    @property
    def forecasts(self) -> Path:
        """One ForecastLine a line."""
        return self.path / "forecasts.jsonl"

    @property
    def halfway(self) -> Path:
        """The half-way forecast beside the final measurement."""
        return self.path / "halfway.json"

    @property
    def address(self) -> Path:
        """`host:port` of the running coordinator."""
        return self.path / ADDRESS_FILE

    @property
    def token(self) -> Path:
        """The bearer token of the running coordinator, readable by its owner only."""
        return self.path / "coordinator.token"

    @property
    def termination(self) -> Path:
        """The coordinator's termination message."""
        return self.path / "termination.json"

    @property
    def log(self) -> Path:
        """The runtime's output, of all attempts."""
        return self.path / "coordinator.log"

    def has_records(self) -> bool:
        """Whether the folder has records of a run."""
        names = (self.attempts, self.path / METRICS_FILE, self.path / EVALS_FILE, self.path / LEDGER_FILE)
        return any(path.exists() for path in names) or any((self.path / CHECKPOINTS).glob("*"))


def to_document(run: RLRun) -> dict[str, object]:
    """Return the run as the YAML document a person would write, status included; defaults stay out of the spec."""
    document = run.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"status"})
    document = {"apiVersion": run.api_version, "kind": run.kind, **document}
    if run.status is not None:
        document["status"] = run.status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return document


def save_status(folder: RunFolder, run: RLRun) -> None:
    """Write status.yaml in one piece."""
    save_text(folder.status, yaml.safe_dump(to_document(run), sort_keys=False, allow_unicode=True, width=120))


def load_run(folder: RunFolder) -> RLRun:
    """Return the run with the status written last. Raises InvalidRun."""
    path = folder.status if folder.status.exists() else folder.spec
    return parse_run(load_document(path))


def _lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def load_evals(folder: RunFolder) -> tuple[EvalPoint, ...]:
    """Return every eval point once; unreadable lines are left out."""
    return merge_evals(parse_lines(EvalPoint, _lines(folder.path / EVALS_FILE))[0])


def load_steps(folder: RunFolder) -> tuple[StepRecord, ...]:
    """Return every step's record once; unreadable lines are left out."""
    return merge_steps(parse_lines(StepRecord, _lines(folder.path / METRICS_FILE))[0])


def load_forecasts(folder: RunFolder) -> list[ForecastLine]:
    """Return every forecast as it was made."""
    return parse_forecasts(_lines(folder.forecasts))


def load_attempts(folder: RunFolder) -> tuple[AttemptStatus, ...]:
    """Return the attempts, oldest first."""
    return parse_attempts(_lines(folder.attempts))


def append_attempt(folder: RunFolder, attempt: AttemptStatus, termination: Termination | None = None) -> None:
    """Append an attempt's present state, with its termination message if it has ended."""
    append_line(folder.attempts, format_attempt(attempt, termination))


def load_termination(folder: RunFolder) -> Termination | None:
    """Return the coordinator's termination message, None if it left none that can be read."""
    found, _ = parse_lines(Termination, [" ".join(_lines(folder.termination))])
    return found[0] if found else None


def load_last_sign(folder: RunFolder) -> datetime | None:
    """Return when the runtime last wrote anything."""
    paths = (folder.log, folder.termination, folder.path / METRICS_FILE, folder.path / EVALS_FILE)
    times = [path.stat().st_mtime for path in paths if path.exists()]
    return datetime.fromtimestamp(max(times), UTC) if times else None


def load_log_tail(folder: RunFolder, *, num_lines: int) -> Sequence[str]:
    """Return the last lines of the runtime's own output."""
    if not folder.log.exists():
        return []
    with folder.log.open("rb") as file:
        file.seek(max(0, folder.log.stat().st_size - 16_384))
        return file.read().decode(errors="replace").splitlines()[-num_lines:]


def read_log(folder: RunFolder, *, tail: int | None, follow: bool) -> Iterator[str]:
    """Yield the runtime's output: all of it or the last `tail` lines, then new output until the run is over."""
    with folder.log.open(encoding="utf-8", errors="replace") as file:
        text = file.read()
        yield text if tail is None else "".join(text.splitlines(keepends=True)[-tail:] if tail else [])
        while follow:
            follow = is_driven(folder)  # before reading, so that output written just before the end is not lost
            if text := file.read():
                yield text
            elif follow:
                time.sleep(FOLLOW_SECONDS)


@contextmanager
def lock_folder(folder: RunFolder) -> Iterator[int]:
    """Lock the folder, so that two processes never drive one run; yield the lock's file number. Raises FolderBusy.

    The lock lasts until every process that inherited the file is gone, however they end.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    with (folder.path / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderBusy(
                f"{folder.path} is in use: its run is going on, or is still saving its checkpoint"
            ) from error
        yield file.fileno()


def is_driven(folder: RunFolder) -> bool:
    """Whether a process holds the folder's lock."""
    path = folder.path / ".lock"
    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
