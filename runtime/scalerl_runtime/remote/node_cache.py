"""A folder of fetched objects that all processes of a node share: each content is downloaded once. I/O.

An entry is a folder, named by a digest of names, sizes and the store's marks of the content. It is made beside, under
a lock that the kernel frees when its holder dies, and renamed when it is whole. A download that was cut is continued by
the next process of the same boot; after a crash of the node it begins anew, since the file's end may be lost then.
"""

import errno
import fcntl
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalerl_api.wire import ENV_CACHE
from scalerl_runtime.remote.faults import RemoteFault, RemoteUnavailable
from scalerl_runtime.remote.stores import Patience, RemoteFile, Store, digest_files

log = logging.getLogger(__name__)

CONTENT = "files"
ENTRY = "entry.json"
BOOT = "boot"
PART, LOCK = ".part", ".lock"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NUM_STREAMS = 8  # files at once
CHUNK_BYTES = 16 * 2**20  # of one request; NUM_STREAMS of them are in memory
REPORT_SECONDS = 10.0
POLL_SECONDS = 0.5
SPARE_BYTES = 64 * 2**20  # left free on the disk
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# No folder, none that may be written, or a file system without locks.
_REFUSED = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
)


def find_cache_folder(environment: Mapping[str, str]) -> Path:
    """Return the cache's folder: SCALERL_CACHE, else below the user's cache."""
    if environment.get(ENV_CACHE):
        return Path(environment[ENV_CACHE]) / "objects"
    base = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "scalerl" / "objects"


@dataclass(frozen=True)
class Wanted:
    """Objects that make one entry."""

    store: Store
    files: Sequence[RemoteFile]
    base: str
    """Path in the store below which the files lie; the rest is their name in the entry."""

    @property
    def key(self) -> str:
        """The entry's name."""
        return digest_files(f"{self.store.scheme}://{self.base}", self.files)

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(file.size for file in self.files)

    def name(self, file: RemoteFile) -> str:
        """Name of the file in the entry. Raises RemoteFault for one that would lie outside."""
        name = file.path.removeprefix(self.base).strip("/") or Path(file.path).name
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise RemoteFault(f"keys without `..`: {file.path}")
        return name


@dataclass(frozen=True)
class NodeCache:
    """The entries below `folder`."""

    folder: Path
    patience: Patience

    @classmethod
    def open(cls, patience: Patience | None = None) -> "NodeCache":
        """Return the cache that the environment names."""
        patience = patience or Patience()
        return cls(find_cache_folder(patience.environment), patience)

    def find(self, key: str) -> Path | None:
        """Return the folder of the whole entry `key`, or None; a damaged one counts as none."""
        entry = self.folder / key
        try:
            stored: dict[str, Any] = json.loads((entry / ENTRY).read_bytes())
            for name, (size, mtime) in stored["files"].items():
                found = (entry / CONTENT / name).stat()
                if (found.st_size, found.st_mtime_ns) != (size, mtime):
                    log.warning("%s: %s of %s has changed since it was fetched", entry, name, stored["source"])
                    return None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s: its %s cannot be read (%s)", entry, ENTRY, error)
            return None
        return entry / CONTENT

    def fetch(self, wanted: Wanted) -> Path:
        """Return a folder with the files of `wanted`, which are downloaded unless they are here.

        Raises RemoteFault, RemoteUnavailable, and OSError of the disk.
        """
        found = self.find(wanted.key)
        if found is not None:
            log.info("%s is in the cache of this node: %s", wanted.store.address, found.parent)
            return found
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked(wanted) as is_waited:
                found = self.find(wanted.key) if is_waited else None
                return found or self._download(wanted)
        except OSError as error:
            if error.errno in _FULL:
                raise RemoteUnavailable(f"the disk of the cache is full: {self.folder}: {error.strerror}") from error
            if error.errno not in _REFUSED:
                raise
            allowed = f"a cache that can be written and locked: {self.folder}: {error.strerror}"
            raise RemoteFault(f"{allowed} ({ENV_CACHE}; on a cluster the chart's modelCache)") from error

    @contextmanager
    def _locked(self, wanted: Wanted) -> Iterator[bool]:
        """Hold the entry's lock; yield whether another process had it. Raises RemoteUnavailable if that one stalls."""
        patience, part = self.patience, self._part(wanted.key)
        with (self.folder / f"{wanted.key}{LOCK}").open("a") as file:
            reported = moved = patience.clock()
            present, is_waited = -1, False
            while not _try_lock(file.fileno()):
                is_waited, now, size = True, patience.clock(), _count_bytes(part)
                present, moved = (size, now) if size != present else (present, moved)
                if now - moved > patience.seconds:
                    words = f"another process fetches it, without a byte for {patience.seconds:g} s"
                    raise RemoteUnavailable(words)
                if now - reported > REPORT_SECONDS:
                    reported = now
                    done = _show_bytes(size, wanted.num_bytes)
                    log.info("%s: another process of this node fetches it: %s", wanted.store.address, done)
                patience.sleep(POLL_SECONDS)
            yield is_waited

    def _part(self, key: str) -> Path:
        return self.folder / f"{key}{PART}"

    def _download(self, wanted: Wanted) -> Path:
        part, entry = self._part(wanted.key), self.folder / wanted.key
        _begin_part(part)
        self._require_space(wanted, part)
        _Download(wanted, part / CONTENT, self.patience).run()
        files = {}
        for file in wanted.files:
            found = (part / CONTENT / wanted.name(file)).stat()
            files[wanted.name(file)] = [found.st_size, found.st_mtime_ns]
        with (part / ENTRY).open("w") as opened:
            json.dump({"source": wanted.store.address, "files": files}, opened)
            opened.flush()
            os.fsync(opened.fileno())
        shutil.rmtree(entry, ignore_errors=True)  # a damaged one
        part.rename(entry)
        log.info("%s is fetched: %s in %s", wanted.store.address, _show_bytes(wanted.num_bytes), entry)
        return entry / CONTENT

    def _require_space(self, wanted: Wanted, part: Path) -> None:
        missing = wanted.num_bytes - _count_bytes(part) + SPARE_BYTES
        free = shutil.disk_usage(self.folder).free
        if 0 < free < missing:
            words = f"{self.folder} has {_show_bytes(free)} free, and {_show_bytes(missing)} are needed"
            raise RemoteUnavailable(f"the disk of the cache is full: {words}")


class _Download:
    """Fetches the files of one entry, several at once."""

    def __init__(self, wanted: Wanted, folder: Path, patience: Patience):
        self._wanted = wanted
        self._folder = folder
        self._patience = patience
        self._stopping = threading.Event()

    def run(self) -> None:
        """Fetch all. Raises RemoteFault, RemoteUnavailable, OSError; then every thread has ended."""
        with ThreadPoolExecutor(NUM_STREAMS, thread_name_prefix="fetch") as threads:
            pending: set[Future[None]] = {threads.submit(self._fetch, file) for file in self._wanted.files}
            try:
                while pending:
                    done, pending = wait(pending, timeout=REPORT_SECONDS, return_when=FIRST_EXCEPTION)
                    for each in done:
                        each.result()
                    if pending:
                        done_bytes = _show_bytes(_count_bytes(self._folder), self._wanted.num_bytes)
                        log.info("fetching %s: %s", self._wanted.store.address, done_bytes)
            finally:
                self._stopping.set()
                for each in pending:
                    each.cancel()

    def _fetch(self, file: RemoteFile) -> None:
        target = self._folder / self._wanted.name(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        for attempt in (1, 2):
            self._complete(file, target)
            if self._stopping.is_set():
                return
            # Pieces make one content only if the object was not written anew meanwhile.
            if not self._wanted.store.is_unchanged(file):
                target.unlink()
                raise RemoteUnavailable(f"{file.path} has changed while it was fetched")
            if file.checksum is None or file.checksum.fits(target):
                return
            if attempt == 1 and not self._wanted.store.is_true_checksum(file):
                return
            log.warning("%s: what was fetched has another checksum than the store's", file.path)
            target.unlink()
        raise RemoteUnavailable(f"{file.path} arrives with another checksum than the store's")

    def _complete(self, file: RemoteFile, target: Path) -> None:
        """Append to `target` what it lacks of `file`."""
        start = target.stat().st_size if target.exists() else 0
        with target.open("ab") as opened:
            if start > file.size:
                opened.truncate(start := 0)
            while start < file.size and not self._stopping.is_set():
                end = min(start + CHUNK_BYTES, file.size)
                data = self._wanted.store.read_range(file, start, end)
                if len(data) != end - start:
                    raise RemoteUnavailable(f"{file.path} has changed while it was fetched")
                opened.write(data)
                start = end
            opened.flush()
            os.fsync(opened.fileno())


def _begin_part(part: Path) -> None:
    """Make `part`, and keep what is in it if it was written since the node's last boot."""
    boot = BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""
    stored = (part / BOOT).read_text() if (part / BOOT).exists() else None
    if stored is None or stored != boot:
        shutil.rmtree(part, ignore_errors=True)
    (part / CONTENT).mkdir(parents=True, exist_ok=True)
    (part / BOOT).write_text(boot)


def _try_lock(number: int) -> bool:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _count_bytes(folder: Path) -> int:
    """Return the bytes of all files below `folder`, which may change meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).stat().st_size
            except FileNotFoundError:
                continue
    return total


def _show_bytes(count: int, whole: int | None = None) -> str:
    unit, name = (1e9, "GB") if (whole or count) >= 1e9 else (1e6, "MB")
    return f"{count / unit:.1f} {name}" if whole is None else f"{count / unit:.1f} of {whole / unit:.1f} {name}"
