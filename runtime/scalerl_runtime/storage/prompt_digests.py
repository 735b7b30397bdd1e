"""Stores the digests of a run's prompts in its folder, so that a changed data set can be described. I/O."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalerl_runtime.storage.sync import sync_path

PREFIX = "prompt-digests-"
MAX_VALUES = 15_000_000  # 120 MB; with more nothing is stored, and a change is named without counts


def save_digests(folder: Path, key: str, columns: Mapping[str, NDArray[Any]], *, keep: str) -> None:
    """Store the digests of the data `key`, unless they are; remove those of other data than `keep`."""
    path, kept = _path(folder, key), {_path(folder, key), _path(folder, keep)}
    if not path.exists() and sum(len(each) for each in columns.values()) <= MAX_VALUES:
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, **columns)  # type: ignore[arg-type]  # numpy types only allow_pickle
        sync_path(part)
        part.replace(path)
    for old in folder.glob(f"{PREFIX}*.npz"):
        if old not in kept:
            old.unlink(missing_ok=True)


def load_digests(folder: Path, key: str) -> dict[str, NDArray[Any]] | None:
    """Return the stored digests of the data `key`; None if there are none, or none that can be read."""
    try:
        with np.load(_path(folder, key), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _path(folder: Path, key: str) -> Path:
    return folder / f"{PREFIX}{key[:16]}.npz"
