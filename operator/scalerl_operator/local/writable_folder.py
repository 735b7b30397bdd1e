"""Checks that a folder can be written, before a process depends on it. I/O."""

import os
import tempfile
from pathlib import Path


def make_writable(path: Path) -> str | None:
    """Create `path` and write a file in it; return what stands in the way, None if nothing does."""
    blocking = next((each for each in (path, *path.parents) if each.exists() and not each.is_dir()), None)
    if blocking is not None:
        return f"{blocking} is a file, not a folder"
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".write-") as file:
            file.write(b"\0")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    return None
