"""The run folder's append-only records: steps, evaluations, ledger. I/O.

A line is on disk before anybody is told of it; a line that a kill cut short is dropped when it is read.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class Journal:
    """A file of JSON lines."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line and wait until it is on disk."""
        with self.path.open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> Iterator[dict[str, Any]]:
        """Every whole line, oldest first."""
        if not self.path.exists():
            return
        for line in self.path.read_bytes().split(b"\n")[:-1]:
            yield json.loads(line)

    def truncate(self, lines: int) -> None:
        """Keep the first `lines`; what follows belongs to steps that a resumed run does again."""
        if not self.path.exists():
            return
        kept = self.path.read_bytes().split(b"\n")[:-1][:lines]
        part = self.path.with_suffix(".part")
        part.write_bytes(b"".join(line + b"\n" for line in kept))
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(self.path)
