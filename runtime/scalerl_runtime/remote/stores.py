"""Object stores behind one interface: lists the objects of an address, reads ranges, tries again what passes. I/O.

fsspec has the file system of each scheme. Credentials and endpoints come from the provider's own variables, which s3fs,
gcsfs and huggingface_hub read themselves.
"""

import base64
import binascii
import hashlib
import importlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import fsspec

from scalerl_api.addresses import GS, HF, S3, SPLIT
from scalerl_api.wire import ENV_OFFLINE
from scalerl_runtime.hub import first_line
from scalerl_runtime.remote.faults import RemoteFault, RemoteUnavailable, describe_fault, has_no_key, passes, redact

log = logging.getLogger(__name__)

ASKED_WITHOUT = "; no credentials were found, so it was asked for without"
OFFLINE = "nothing is fetched from object storage"
PACKAGES = {S3: "s3fs", GS: "gcsfs", HF: "huggingface_hub"}
# Seconds. A request that gets no byte for so long is made again.
CONNECT_SECONDS, READ_SECONDS = 10, 60
OPTIONS: Mapping[str, dict[str, Any]] = {
    S3: {
        "use_listings_cache": False,
        # The library's own tries would add up with those here, beyond every deadline.
        "config_kwargs": {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
            "retries": {"total_max_attempts": 1},
        },
    },
    GS: {"use_listings_cache": False, "timeout": READ_SECONDS},
    HF: {"use_listings_cache": False},
}
_VERSION_KEYS = ("ETag", "generation", "etag", "blob_id", "md5Hash", "crc32c")

READ_BYTES = 2**20

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How long errors that pass are waited for."""

    seconds: float = 300.0
    """Without any byte of progress, after which RemoteUnavailable is raised."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)


@dataclass(frozen=True)
class Checksum:
    """A digest of an object's bytes."""

    algorithm: Literal["md5", "sha256", "git"]
    """git: the SHA-1 of a header with the size, and the bytes."""
    value: str
    """Hexadecimal."""

    def fits(self, file: Path) -> bool:
        """Whether `file` has this digest."""
        name = "sha1" if self.algorithm == "git" else self.algorithm
        found = hashlib.new(name, usedforsecurity=False)
        if self.algorithm == "git":
            found.update(f"blob {file.stat().st_size}\0".encode())
        with file.open("rb") as opened:
            while data := opened.read(READ_BYTES):
                found.update(data)
        return found.hexdigest() == self.value


@dataclass(frozen=True)
class RemoteFile:
    """One object as its store lists it."""

    path: str
    """Bucket and key, or the hub's path."""
    size: int
    """Bytes."""
    version: str
    """The store's own mark of the content: entity tag, generation, or the hub's blob."""
    checksum: Checksum | None
    """Where the store has one; S3's entity tag is an MD5 for most objects, but not for all."""


class Store:
    """The store of one address."""

    def __init__(self, address: str, patience: Patience | None = None):
        self.address = address
        self.scheme = address.partition(SPLIT)[0]
        self.patience = patience or Patience()
        self._filesystem: Any = None
        self._is_anonymous = False

    @property
    def root(self) -> str:
        """The address without its scheme, without a slash at its end."""
        return self.address.partition(SPLIT)[2].rstrip("/")

    def list_files(self) -> tuple[RemoteFile, ...]:
        """Return the objects at and below the address, by path. Raises RemoteFault if there are none."""
        return self._to_files(self._call("listing", lambda fs: _fresh(fs).find(self.root, detail=True)))

    def match_files(self) -> tuple[RemoteFile, ...]:
        """Return the objects that the address, a pattern, matches, by path. Raises RemoteFault if there are none."""
        return self._to_files(self._call("listing", lambda fs: _fresh(fs).glob(self.root, detail=True)))

    def read_range(self, file: RemoteFile, start: int, end: int) -> bytes:
        """Return the bytes from `start` to before `end`."""
        data = self._call(f"reading {file.path}", lambda fs: fs.cat_file(file.path, start=start, end=end))
        return bytes(data)

    def is_unchanged(self, file: RemoteFile) -> bool:
        """Whether the store still has the content that it listed; the hub's is named by its own checksum."""
        if self.scheme == HF:
            return True
        info = self._call(f"asking for {file.path}", lambda fs: fs.info(file.path, refresh=True))
        found = _to_file(file.path, info)
        return (found.size, found.version) == (file.size, file.version)

    def is_true_checksum(self, file: RemoteFile) -> bool:
        """Whether the checksum of a file of S3 is one: with keys of KMS the entity tag looks like one, and is none."""
        if self.scheme != S3:
            return True
        bucket, _, key = file.path.partition("/")
        head = self._call(f"asking for {file.path}", lambda fs: fs.call_s3("head_object", Bucket=bucket, Key=key))
        return str(head.get("ServerSideEncryption", "AES256")) == "AES256" and "SSECustomerAlgorithm" not in head

    def _to_files(self, found: Mapping[str, Mapping[str, Any]]) -> tuple[RemoteFile, ...]:
        files = (_to_file(path, info) for path, info in found.items() if info.get("type") == "file")
        shown = sorted((file for file in files if not file.path.endswith("/")), key=lambda file: file.path)
        if not shown:
            raise RemoteFault("an address with objects: none is there")
        return tuple(shown)

    def _call(self, what: str, call: Callable[[Any], T]) -> T:
        """Return the result of `call`; an error that passes is waited for. Raises RemoteFault, RemoteUnavailable."""
        patience, environment = self.patience, self.patience.environment
        if environment.get(ENV_OFFLINE):
            raise RemoteUnavailable(OFFLINE)
        end, pause = patience.clock() + patience.seconds, 1.0
        while True:
            try:
                return call(self._open())
            except ImportError as error:
                package = PACKAGES[self.scheme]
                raise RemoteFault(f"an address whose package is installed: {package} is not ({error})") from error
            except (RemoteFault, RemoteUnavailable):
                raise
            except _list_errors(self.scheme) as error:
                if self._may_be_public(error):
                    continue
                self._require_passing(error)
                words = f"{type(error).__name__}: {redact(first_line(error), environment)}"
            if patience.clock() + pause > end:
                raise RemoteUnavailable(f"{what} failed for {patience.seconds:g} s, last by {words}") from None
            log.warning("%s: %s failed (%s); trying again in %g s", self.address, what, words, pause)
            patience.sleep(pause)
            pause = min(2 * pause, 30.0)

    def _may_be_public(self, error: BaseException) -> bool:
        """Whether no key is found at all, so that the call is worth a try without one, once; gcsfs does so itself."""
        if self.scheme != S3 or self._is_anonymous or not has_no_key(error):
            return False
        log.info("%s: no credentials are found; asking without", self.address)
        self._is_anonymous, self._filesystem = True, None
        return True

    def _require_passing(self, error: BaseException) -> None:
        """Raise RemoteFault for an error that a later try would meet again."""
        if not passes(error):
            allowed = describe_fault(error, self.address, self.patience.environment)
            raise RemoteFault(f"{allowed}{ASKED_WITHOUT if self._is_anonymous else ''}") from None

    def _open(self) -> Any:
        if self._filesystem is None:
            if self.scheme == GS:  # otherwise each bucket's kind is asked for by gRPC, which emulators lack: a minute
                os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
            anonymous = {"anon": True} if self._is_anonymous else {}
            self._filesystem = fsspec.filesystem(self.scheme, **OPTIONS[self.scheme], **anonymous)
            if self.scheme == S3:
                self._filesystem.retries = 1
        return self._filesystem


def _fresh(filesystem: Any) -> Any:
    """Return `filesystem` without the listings that it remembers; the hub's does in spite of its option."""
    filesystem.invalidate_cache()
    return filesystem


# The stores' libraries derive some errors from Exception alone.
_ERRORS: Mapping[str, Sequence[tuple[str, str]]] = {
    S3: (("botocore.exceptions", "BotoCoreError"), ("botocore.exceptions", "ClientError"), ("aiohttp", "ClientError")),
    GS: (
        ("google.auth.exceptions", "GoogleAuthError"),
        ("google.api_core.exceptions", "GoogleAPIError"),
        ("gcsfs.retry", "HttpError"),
        ("aiohttp", "ClientError"),
    ),
    HF: (("huggingface_hub.errors", "HfHubHTTPError"),),
}


def _list_errors(scheme: str) -> tuple[type[BaseException], ...]:
    """Return what the store of `scheme`, whose package is there, may raise."""
    found: list[type[BaseException]] = [OSError, ValueError, LookupError, TypeError, RuntimeError]
    for module, name in _ERRORS[scheme]:
        if module.partition(".")[0] in sys.modules:
            kind = getattr(importlib.import_module(module), name)
            # The hub's errors derive from those of its HTTP library, which differs between its versions.
            found.append(kind.__bases__[0] if scheme == HF else kind)
    return tuple(found)


def _to_file(path: str, info: Mapping[str, Any]) -> RemoteFile:
    version = next((str(info[key]).strip('"') for key in _VERSION_KEYS if info.get(key)), "")
    if not version:
        raise RemoteFault(f"a store that marks contents, as by an entity tag: {path} has none")
    checksum = _find_checksum(info, version)
    if checksum is not None and checksum.algorithm == "sha256":  # else the version is that of a pointer to the file
        version = checksum.value
    return RemoteFile(path, int(info["size"]), version, checksum)


def _find_checksum(info: Mapping[str, Any], version: str) -> Checksum | None:
    lfs = info.get("lfs")
    if lfs is not None:
        return Checksum("sha256", str(lfs["sha256"] if isinstance(lfs, Mapping) else lfs.sha256))
    if info.get("blob_id"):
        return Checksum("git", str(info["blob_id"]))
    if "md5Hash" in info:
        try:
            return Checksum("md5", base64.b64decode(str(info["md5Hash"]), validate=True).hex())
        except binascii.Error:
            return None
    is_tag = "ETag" in info and len(version) == 32 and set(version) <= set("0123456789abcdef")
    return Checksum("md5", version) if is_tag else None


def digest_files(address: str, files: Iterable[RemoteFile]) -> str:
    """Return what identifies the content of `files` of `address`: names, sizes and the store's marks."""
    found = hashlib.blake2b(address.encode(), digest_size=16)
    for file in files:
        found.update(f"\0{file.path}\0{file.size}\0{file.version}".encode())
    return found.hexdigest()
