"""Receives an exported model as a tar stream into a folder that appears in one rename. I/O."""

import hashlib
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any, BinaryIO

from scalerl_api.wire import EXPORT_FILE

FILE_MODE = 0o644


class ExportFault(Exception):
    """The export failed; the message is for the user."""


def check_target(folder: Path) -> None:
    """Raise ExportFault unless `folder` is new, empty, or an older export."""
    if folder.exists() and not folder.is_dir():
        raise ExportFault(f"--to {folder} is no folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / EXPORT_FILE).is_file():
        raise ExportFault(f"--to {folder} is not empty and holds no earlier export: choose another folder")


class ModelDownload:
    """A tar stream as it arrives: plain files without folders, the last of them EXPORT_FILE."""

    def __init__(self, folder: Path):
        self._folder = folder.absolute()
        self._part = self._folder.with_name(f".{folder.name}.part")
        shutil.rmtree(self._part, ignore_errors=True)
        self._part.mkdir(parents=True)
        self._buffer = bytearray()
        self._file: BinaryIO | None = None
        self._left = 0  # bytes of the present file
        self._padding = 0
        self._name = ""
        self._digest = hashlib.blake2b(digest_size=16)
        self._received: dict[str, list[Any]] = {}

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises ExportFault, OSError."""
        self._buffer += data
        while self._buffer:
            if self._file is not None:
                self._take_content()
            elif self._padding:
                skipped = min(self._padding, len(self._buffer))
                self._padding -= skipped
                del self._buffer[:skipped]
            elif len(self._buffer) >= tarfile.BLOCKSIZE:
                self._take_header(bytes(self._buffer[: tarfile.BLOCKSIZE]))
                del self._buffer[: tarfile.BLOCKSIZE]
            else:
                return

    def _take_header(self, block: bytes) -> None:
        if not any(block):
            return  # the end
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except tarfile.HeaderError as error:
            raise ExportFault(f"the stream of the pod is damaged: {error}") from error
        if not info.isreg() or Path(info.name).name != info.name or info.name.startswith("."):
            raise ExportFault(f"the stream of the pod holds {info.name!r}, which is no plain file")
        self._name, self._left, self._padding = info.name, info.size, -info.size % tarfile.BLOCKSIZE
        self._received[info.name] = [info.size, ""]
        self._digest = hashlib.blake2b(digest_size=16)
        self._file = (self._part / info.name).open("wb")
        if not info.size:
            self._close_file()

    def _take_content(self) -> None:
        assert self._file is not None
        piece = bytes(self._buffer[: self._left])
        self._file.write(piece)
        self._digest.update(piece)
        self._left -= len(piece)
        del self._buffer[: len(piece)]
        if not self._left:
            self._close_file()

    def _close_file(self) -> None:
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        (self._part / self._name).chmod(FILE_MODE)
        self._received[self._name][1] = self._digest.hexdigest()
        self._file = None

    def finish(self) -> None:
        """Compare all files with the digests in EXPORT_FILE and make them visible. Raises ExportFault."""
        if self._file is not None or EXPORT_FILE not in self._received:
            raise ExportFault("the stream of the pod ended early")
        described = json.loads((self._part / EXPORT_FILE).read_text())["files"]
        wrong = [name for name, entry in described.items() if self._received.get(name) != entry]
        if wrong:
            raise ExportFault(f"{wrong[0]} has changed on its way from the pod")
        old = self._folder.with_name(f".{self._folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if self._folder.exists():
            self._folder.rename(old)
        self._part.rename(self._folder)
        shutil.rmtree(old, ignore_errors=True)

    def discard(self) -> None:
        """Remove what has arrived; harmless after `finish`."""
        if self._file is not None:
            self._file.close()
        shutil.rmtree(self._part, ignore_errors=True)
