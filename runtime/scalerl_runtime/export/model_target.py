"""Where an exported model goes: a folder that appears in one rename, or a tar stream. I/O."""

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from scalerl_api.wire import CARD_FILE, CARD_FORECAST, EXPORT_FILE
from scalerl_runtime.export.checkpoint_weights import ExportError
from scalerl_runtime.storage.sync import sync_path

BLOCK_BYTES = 2**20
FILE_MODE = 0o644
FOLDER_MODE = 0o755


class ModelTarget(Protocol):
    """Takes the files of a model, one after another."""

    def add(self, name: str, size: int, pieces: Iterable[bytes | memoryview]) -> str:
        """Write a file of `size` bytes; return the digest of its content."""
        ...

    def finish(self) -> None:
        """The last file is written: make the whole model visible."""
        ...


class FolderTarget:
    """A folder beside the final one, and a rename. A kill at any time leaves the older model whole."""

    def __init__(self, folder: Path):
        """Write beside `folder`; nothing of it is changed before `finish`."""
        self.folder = folder
        self._part = _beside(folder, "part")
        restore(folder)
        shutil.rmtree(self._part, ignore_errors=True)
        self._part.mkdir(parents=True)
        self._part.chmod(FOLDER_MODE)

    def add(self, name: str, size: int, pieces: Iterable[bytes | memoryview]) -> str:
        """See `ModelTarget`."""
        digest = hashlib.blake2b(digest_size=16)
        with (self._part / name).open("wb") as file:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
            file.flush()
            os.fsync(file.fileno())
        (self._part / name).chmod(FILE_MODE)
        assert (self._part / name).stat().st_size == size, f"{name} has another size than planned"
        return digest.hexdigest()

    def finish(self) -> None:
        """See `ModelTarget`."""
        old = _beside(self.folder, "old")
        shutil.rmtree(old, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(old)
        self._part.rename(self.folder)
        sync_path(self.folder.parent)
        shutil.rmtree(old, ignore_errors=True)

    def discard(self) -> None:
        """Remove what was written."""
        shutil.rmtree(self._part, ignore_errors=True)


class TarTarget:
    """A tar stream, written as it is made: nothing is stored on the way."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream

    def add(self, name: str, size: int, pieces: Iterable[bytes | memoryview]) -> str:
        """See `ModelTarget`."""
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, FILE_MODE
        digest = hashlib.blake2b(digest_size=16)
        self._stream.write(info.tobuf(tarfile.GNU_FORMAT))
        for piece in pieces:
            self._stream.write(piece)
            digest.update(piece)
        self._stream.write(bytes(-size % tarfile.BLOCKSIZE))
        return digest.hexdigest()

    def finish(self) -> None:
        """See `ModelTarget`."""
        self._stream.write(bytes(2 * tarfile.BLOCKSIZE))
        self._stream.flush()


def copy_exported(source: Path, target: ModelTarget, forecast: str) -> None:
    """Copy an exported model, with `forecast` in its card where none is yet; EXPORT_FILE is the last file, as ever.

    The digests in EXPORT_FILE are of the files as copied.
    """
    described = json.loads((source / EXPORT_FILE).read_text())
    written: dict[str, tuple[int, str]] = {}
    for name, (size, _) in described["files"].items():
        path = source / name
        if not path.is_file() or path.stat().st_size != size:
            raise ExportError(f"{path} is missing or has changed since the export")
        if name == CARD_FILE and forecast:
            content = path.read_text().replace(CARD_FORECAST, forecast).encode()
            written[name] = (len(content), target.add(name, len(content), iter([content])))
        else:
            written[name] = (size, target.add(name, size, _blocks(path)))
    text = json.dumps({**described, "files": written}, indent=1).encode()
    target.add(EXPORT_FILE, len(text), iter([text]))
    target.finish()


def link_exported(source: Path, folder: Path, forecast: str) -> None:
    """Make `folder` show an exported model without a copy of its weights, with `forecast` in its card."""
    folder.mkdir(parents=True)
    for path in source.iterdir():
        if path.name == CARD_FILE and forecast:
            (folder / CARD_FILE).write_text(path.read_text().replace(CARD_FORECAST, forecast))
        else:
            (folder / path.name).symlink_to(path.absolute())


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def restore(folder: Path) -> None:
    """Put back the older model of `folder` if a kill came between the two renames of `finish`."""
    old = _beside(folder, "old")
    if old.exists() and not folder.exists():
        old.rename(folder)


def _beside(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{folder.name}.{kind}")
