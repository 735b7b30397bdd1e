"""Fetches a model's folder from a bucket into the cache of the node. I/O."""

import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from scalerl_runtime.remote.faults import RemoteFault, RemoteUnavailable
from scalerl_runtime.remote.node_cache import NodeCache, Wanted
from scalerl_runtime.remote.stores import Patience, RemoteFile, Store

# A model needs these; other frameworks' copies of the weights would double the download.
MODEL_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.py", "*.tiktoken")
SAFETENSORS, TORCH_BINARY = "*.safetensors", "*.bin"
CONFIG = "config.json"

_PIN = re.compile(r"#([0-9a-f]{32})")


def pin(source: str, folder: Path) -> str:
    """Return `source` with the content that `folder` of the cache has: other processes fetch the same, or fail."""
    return f"{source}#{folder.parent.name}"


def fetch_model(source: str, *, cache: NodeCache | None = None, patience: Patience | None = None) -> Path:
    """Return the folder of the model `source`, `s3://` or `gs://`, perhaps pinned; nothing is fetched twice.

    Raises RemoteFault, RemoteUnavailable, OSError.
    """
    cache = cache or NodeCache.open(patience)
    address, key = source, None
    if (match := _PIN.search(source, max(0, len(source) - 33))) is not None:
        address, key = source[: match.start()], match[1]
    if key is not None and (found := cache.find(key)) is not None:
        return found
    store = Store(address, patience)
    wanted = Wanted(store, select_files(store.root, store.list_files()), store.root)
    if key is not None and wanted.key != key:
        raise RemoteUnavailable("its objects have changed since the attempt began")
    folder = cache.fetch(wanted)
    # Each file is whole; together they are one model only if none was written anew meanwhile.
    if Wanted(store, select_files(store.root, store.list_files()), store.root).key != wanted.key:
        raise RemoteUnavailable("its objects have changed while they were fetched")
    return folder


def select_files(root: str, files: Sequence[RemoteFile]) -> tuple[RemoteFile, ...]:
    """Return the model's own among `files` below `root`. Raises RemoteFault if they are no model."""
    by_name = {PurePosixPath(file.path).name: file for file in files if str(PurePosixPath(file.path).parent) == root}
    if CONFIG not in by_name:
        found = ", ".join(sorted(by_name)[:5]) or f"{len(files)} objects below it, none in it"
        raise RemoteFault(f"a model's folder with {CONFIG}; this one has {found}")
    weights = SAFETENSORS if any(fnmatch(name, SAFETENSORS) for name in by_name) else TORCH_BINARY
    patterns = (*MODEL_FILES, weights)
    return tuple(file for name, file in sorted(by_name.items()) if any(fnmatch(name, each) for each in patterns))
