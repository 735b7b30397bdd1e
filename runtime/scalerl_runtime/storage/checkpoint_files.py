"""Files of a checkpoint: written with their digest, and compared with it. I/O.

The only module that opens a checkpoint's large files for writing, and that knows the digests' algorithms.
"""

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

# Several GB/s on one core, where BLAKE2 has about one. It finds damage; nobody who can write here is kept out by it.
XXH3 = "xxh3-128:"
BLAKE2 = ""  # no prefix
PIECE_BYTES = 2**22  # read at a time


class FileEntry(NamedTuple):
    """A file of the manifest."""

    size: int
    digest: str
    """`xxh3-128:` and 32 hex digits; without a prefix, BLAKE2b's, of older versions."""


class HashedFile(io.RawIOBase):
    """A file that is written from its start to its end, and the digest of what was written."""

    def __init__(self, path: Path):
        self._file = path.open("wb")
        self._hash = xxhash.xxh3_128()
        self._size = 0

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Write all of `data`; return its size in bytes."""
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self._file.write(view)
        self._size += len(view)
        return len(view)

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self._size

    def fileno(self) -> int:
        """Return the descriptor; what was written has reached it."""
        self._file.flush()
        return self._file.fileno()

    def close(self) -> None:
        """Close the file; its entry stays."""
        if not self._file.closed:
            self._file.close()
        super().close()

    @property
    def entry(self) -> FileEntry:
        """Size and digest of what was written."""
        return FileEntry(self._size, XXH3 + self._hash.hexdigest())


@contextmanager
def written(path: Path) -> Iterator[HashedFile]:
    """A new file at `path`, in a folder that is made; when the block ends it would survive a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with HashedFile(path) as file:
        yield file
        os.fsync(file.fileno())


def digest_file(path: Path, like: str = XXH3) -> str:
    """Return the file's digest, by the algorithm of the digest `like`."""
    found = xxhash.xxh3_128() if like.startswith(XXH3) else hashlib.blake2b()
    piece = bytearray(PIECE_BYTES)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(piece):
            found.update(memoryview(piece)[:size])
    return XXH3 + found.hexdigest() if like.startswith(XXH3) else found.hexdigest()[:32]


def find_difference(path: Path, entry: FileEntry, *, hashed: bool) -> str | None:
    """Return how the file at `path` differs from `entry`; None if it does not. Without `hashed`: by its size."""
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != entry.size or (hashed and digest_file(path, entry.digest) != entry.digest):
        return "has changed"
    return None
