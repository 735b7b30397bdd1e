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
from typing import Any, TypeVar

import fsspec

from scalerl_api.addresses import GS, HF, S3, SPLIT
from scalerl_api.wire import ENV_OFFLINE
from scalerl_runtime.hub import first_line
from scalerl_runtime.remote.faults import RemoteFault, RemoteUnavailable, describe_fault, passes, redact

log = logging.getLogger(__name__)

OFFLINE = "nothing is fetched from object storage"
PACKAGES = {S3: "s3fs", GS: "gcsfs", HF: "huggingface_hub"}
# Seconds. A request that gets no byte for so long is made again.
CONNECT_SECONDS, READ_SECONDS = 10, 60
OPTIONS: Mapping[str, dict[str, Any]] = {
    S3: {
        "use_listings_cache": False,
        "config_kwargs": {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS},
    },
    GS: {"use_listings_cache": False, "timeout": READ_SECONDS},
    HF: {"use_listings_cache": False},
}
_VERSION_KEYS = ("ETag", "etag", "generation", "blob_id", "md5Hash", "crc32c")

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
class RemoteFile:
    """One object as its store lists it."""

    path: str
    """Bucket and key, or the hub's path."""
    size: int
    """Bytes."""
    version: str
    """The store's own mark of the content: entity tag, generation, or the hub's blob."""
    md5: str | None
    """Hexadecimal digest, where the store has one; S3's entity tag is one for most objects, but not for all."""


class Store:
    """The store of one address."""

    def __init__(self, address: str, patience: Patience | None = None):
        self.address = address
        self.scheme = address.partition(SPLIT)[0]
        self.patience = patience or Patience()
        self._filesystem: Any = None

    @property
    def root(self) -> str:
        """The address without its scheme, without a slash at its end."""
        return self.address.partition(SPLIT)[2].rstrip("/")

    def list_files(self) -> tuple[RemoteFile, ...]:
        """Return the objects at and below the address, by path. Raises RemoteFault if there are none."""
        return self._to_files(self._call("listing", lambda fs: fs.find(self.root, detail=True)))

    def match_files(self) -> tuple[RemoteFile, ...]:
        """Return the objects that the address, a pattern, matches, by path. Raises RemoteFault if there are none."""
        return self._to_files(self._call("listing", lambda fs: fs.glob(self.root, detail=True)))

    def read_range(self, file: RemoteFile, start: int, end: int) -> bytes:
        """Return the bytes from `start` to before `end`."""
        data = self._call(f"reading {file.path}", lambda fs: fs.cat_file(file.path, start=start, end=end))
        return bytes(data)

    def is_true_md5(self, file: RemoteFile) -> bool:
        """Whether `md5` of a file of S3 is one: with keys of KMS the entity tag looks like one, and is none."""
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
                if not passes(error):
                    raise RemoteFault(describe_fault(error, self.address, environment)) from None
                words = f"{type(error).__name__}: {redact(first_line(error), environment)}"
            if patience.clock() + pause > end:
                raise RemoteUnavailable(f"{what} failed for {patience.seconds:g} s, last by {words}") from None
            log.warning("%s: %s failed (%s); trying again in %g s", self.address, what, words, pause)
            patience.sleep(pause)
            pause = min(2 * pause, 30.0)

    def _open(self) -> Any:
        if self._filesystem is None:
            if self.scheme == GS:  # otherwise each bucket's kind is asked for by gRPC, which emulators lack: a minute
                os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
            self._filesystem = fsspec.filesystem(self.scheme, **OPTIONS[self.scheme])
        return self._filesystem


# The stores' libraries derive some errors from Exception alone.
_ERRORS: Mapping[str, Sequence[tuple[str, str]]] = {
    S3: (("botocore.exceptions", "BotoCoreError"), ("botocore.exceptions", "ClientError"), ("aiohttp", "ClientError")),
    GS: (
        ("google.auth.exceptions", "GoogleAuthError"),
        ("google.api_core.exceptions", "GoogleAPIError"),
        ("gcsfs.retry", "HttpError"),
        ("aiohttp", "ClientError"),
    ),
    HF: (("huggingface_hub.errors", "HfHubHTTPError"), ("httpx", "HTTPError")),
}


def _list_errors(scheme: str) -> tuple[type[BaseException], ...]:
    """Return what the store of `scheme`, whose package is there, may raise."""
    found: list[type[BaseException]] = [OSError, ValueError, LookupError, TypeError, RuntimeError]
    for module, name in _ERRORS[scheme]:
        if module.partition(".")[0] in sys.modules:
            found.append(getattr(importlib.import_module(module), name))
    return tuple(found)


def _to_file(path: str, info: Mapping[str, Any]) -> RemoteFile:
    lfs = info.get("lfs")
    version = next((str(info[key]).strip('"') for key in _VERSION_KEYS if info.get(key)), "")
    if lfs is not None:
        version = str(lfs.get("sha256") or lfs.get("oid") or version) if isinstance(lfs, Mapping) else lfs.sha256
    return RemoteFile(path, int(info["size"]), version, _find_md5(info, version))


def _find_md5(info: Mapping[str, Any], version: str) -> str | None:
    if "md5Hash" in info:
        try:
            return base64.b64decode(str(info["md5Hash"]), validate=True).hex()
        except binascii.Error:
            return None
    is_tag = "ETag" in info and len(version) == 32 and set(version) <= set("0123456789abcdef")
    return version if is_tag else None


def digest_files(address: str, files: Iterable[RemoteFile]) -> str:
    """Return what identifies the content of `files` of `address`: names, sizes and the store's marks."""
    found = hashlib.blake2b(address.encode(), digest_size=16)
    for file in files:
        found.update(f"\0{file.path}\0{file.size}\0{file.version}".encode())
    return found.hexdigest()
