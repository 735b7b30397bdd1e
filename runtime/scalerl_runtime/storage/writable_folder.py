"""Checks that a folder of the spec can be written, before any process is started. I/O."""

import os
import tempfile
from pathlib import Path

from scalerl_api.validation import Fault, InvalidRun
from scalerl_runtime.hub import is_transient


def check_writable(path: Path, field: str) -> None:
    """Create `path` and write a file in it. Raises InvalidRun; OSError where a later try may succeed (a full disk)."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".write-") as file:
            file.write(b"\0")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if is_transient(error):
            raise
        raise InvalidRun(
            [Fault(field, str(path), f"a folder that can be written ({error.strerror or error})")]
        ) from error
