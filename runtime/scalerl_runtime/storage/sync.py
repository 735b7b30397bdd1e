"""Waits until a file or a folder's entries are on the disk. I/O."""

import os
from pathlib import Path


def sync_path(path: Path) -> None:
    """Return when the content of the file `path`, or the names in the folder `path`, would survive a crash."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
