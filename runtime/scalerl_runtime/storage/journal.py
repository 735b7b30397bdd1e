"""The run folder's append-only records: steps, evaluations, ledger. I/O.

A line is on disk before it is reported to anyone. A line that a kill cut short is ignored at reading.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scalerl_runtime.storage.sync import sync_path


class Journal:
    """A file of JSON lines."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, *lines: Mapping[str, Any]) -> None:
        """Write lines in one call and wait until they are on disk. A line that a kill cut short is ended first."""
        with self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> Iterator[dict[str, Any]]:
        """Every complete line, oldest first."""
        return (json.loads(line) for line in self._complete_lines())

    def _complete_lines(self) -> list[bytes]:
        """Complete lines. A cut one was never reported, so nothing depends on it."""
        lines = self.path.read_bytes().split(b"\n") if self.path.exists() else []
        return [line for line in lines if _is_object(line)]

    def truncate(self, lines: int) -> None:
        """Keep the first `lines`; later ones belong to steps that a resumed run repeats."""
        if not self.path.exists():
            return
        kept = self._complete_lines()[:lines]
        part = self.path.with_suffix(".part")
        part.write_bytes(b"".join(line + b"\n" for line in kept))
        sync_path(part)
        part.replace(self.path)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
