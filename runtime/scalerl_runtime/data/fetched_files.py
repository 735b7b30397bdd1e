"""Finds the files of a source that is an address, and fetches them into the cache of the node. I/O."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scalerl_api.addresses import DATA_ADDRESSES, is_address, parse_hub_dataset, parse_hub_file, to_plain_path
from scalerl_runtime.data.file_lists import (
    ALLOWED,
    DataFile,
    SourceFault,
    find_files,
    is_pattern,
    require_kind,
    select_data,
    select_folder,
)
from scalerl_runtime.remote.faults import RemoteFault
from scalerl_runtime.remote.node_cache import NodeCache, Wanted
from scalerl_runtime.remote.stores import Patience, RemoteFile, Store

# With more objects than these, a source is a pattern or a folder that was named by mistake.
MAX_FILES = 10_000


def find_source_files(source: str, patience: Patience | None = None) -> tuple[DataFile, ...] | None:
    """Return the files of `source`, those of an address in the cache of the node; None for a data set of the hub.

    Raises SourceFault, RemoteUnavailable, OSError.
    """
    if not is_address(source):
        return find_files(source)
    if not DATA_ADDRESSES.fits(source):
        raise SourceFault(f"{ALLOWED}, a hub id, or {DATA_ADDRESSES.allowed}")
    plain = to_plain_path(source)
    if plain != source:
        found = find_files(plain)
        assert found is not None, "a path from the root is never a hub id"
        return found
    if parse_hub_dataset(source) is not None:
        return None
    try:
        return _fetch_files(Store(source, patience), NodeCache.open(patience))
    except RemoteFault as error:
        raise SourceFault(str(error)) from error


def is_on_hub(source: str) -> bool:
    """Whether `source` is an address on the hub, of a data set or of its files."""
    return parse_hub_dataset(source) is not None or parse_hub_file(source) is not None


def _fetch_files(store: Store, cache: NodeCache) -> tuple[DataFile, ...]:
    """Select the data before anything is fetched, so that a wrong folder costs one listing."""
    objects = store.match_files() if is_pattern(store.root) else store.list_files()
    if len(objects) > MAX_FILES:
        raise SourceFault(f"at most {MAX_FILES:,} files; {len(objects):,} are there")
    by_path = {Path(each.path): each for each in objects}
    if len(by_path) < len(objects):
        raise SourceFault("keys whose parts have names: some differ in `//` or `/./` alone")
    return tuple(_fetch_file(store, cache, each, by_path[each.path]) for each in _select(store, list(by_path)))


def _select(store: Store, paths: Sequence[Path]) -> tuple[DataFile, ...]:
    root = Path(store.root)
    if is_pattern(store.root):
        return select_data(paths, store.address)
    if list(paths) == [root]:
        return (require_kind(root),)
    return select_folder([path for path in paths if path != root], root)


def _fetch_file(store: Store, cache: NodeCache, file: DataFile, found: RemoteFile) -> DataFile:
    wanted = Wanted(store, [found], str(Path(found.path).parent))
    folder = cache.fetch(wanted)
    return replace(file, path=folder / wanted.name(found), address=f"{store.scheme}://{found.path}")
