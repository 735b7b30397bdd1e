"""The trainer's part of a checkpoint, in PyTorch's distributed format: read by any number of ranks. I/O.

A tensor is stored flat, in chunks that any rank wrote, under one metadata file (`torch.distributed.checkpoint`). Of
that library the planners and collectives are not used: a rank knows what it holds, the ranks write in the background,
and a collective there would wait for a dead peer, or meet one of the training step.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import (
    DefaultLoadPlanner,
    DefaultSavePlanner,
    _validate_global_plan,
    create_default_global_save_plan,
)
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader, FileSystemWriter, _StoragePrefix
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem, SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.storage import WriteResult

from scalerl_runtime.storage.checkpoint_files import FileEntry, HashedFile, written

WEIGHTS, OPTIMIZER = "weights", "optimizer"  # folders of a checkpoint, each of them a distributed checkpoint
FILE_BYTES = 2**30  # at most, plus a chunk: the library keeps copies of a file's chunks until it is written


class ShardsError(RuntimeError):
    """The trainer's part of a checkpoint does not fit, or is not whole."""


@dataclass(frozen=True)
class Chunk:
    """A run of a tensor's values, in the tensor's own order."""

    name: str
    numel: int
    """Of the whole tensor."""
    start: int
    """Index of the first value in the tensor."""
    values: Tensor
    """1-D, on the CPU; what is stored, or the memory to read into."""


@dataclass(frozen=True)
class WrittenChunks:
    """The chunks that a rank has written below one folder."""

    plan: SavePlan
    results: list[WriteResult]
    files: Mapping[str, FileEntry]
    """By name inside the folder."""


def write_chunks(folder: Path, rank: int, chunks: Sequence[Chunk]) -> WrittenChunks:
    """Write `chunks` into files of this rank in `folder`, which `seal_chunks` makes readable."""
    items = [_build_item(chunk) for chunk in chunks]
    by_place = {_place(item): chunk for item, chunk in zip(items, chunks, strict=True)}
    writer = FileSystemWriter(folder, per_thread_copy_ahead=0)
    files = writer.fs = _HashedFiles()
    results: list[WriteResult] = []
    for number, group in enumerate(_split(items, by_place)):
        plan = SavePlan(group, storage_data=_StoragePrefix(f"__{rank}_{number}_"))
        results += writer.write_data(plan, _SavePlanner(by_place)).wait()
    return WrittenChunks(SavePlan(items), results, files.entries)


def seal_chunks(folder: Path, parts: Sequence[WrittenChunks]) -> dict[str, FileEntry]:
    """Write the metadata of what all ranks have written; return the entries of all files, by name inside `folder`.

    Raises ShardsError if the chunks do not make up whole tensors.
    """
    plans, metadata = create_default_global_save_plan([part.plan for part in parts])
    faults = _validate_global_plan([*plans, SavePlan([])], metadata)  # with one plan it would not look for gaps
    if faults:
        raise ShardsError(f"{folder.name}: {faults[0]} ({len(faults)} such)")
    writer = FileSystemWriter(folder)
    files = writer.fs = _HashedFiles()
    writer.finish(metadata, [part.results for part in parts])
    return {name: entry for each in [*(part.files for part in parts), files.entries] for name, entry in each.items()}


class StoredTensors:
    """The tensors of a folder that `seal_chunks` made readable; its metadata is read once."""

    def __init__(self, folder: Path):
        """Raises ShardsError if the folder cannot be read."""
        self._folder = folder
        self._reader = FileSystemReader(folder)
        try:
            self._metadata = self._reader.read_metadata()
        except (OSError, ValueError, EOFError, AttributeError) as error:
            raise ShardsError(f"{folder} cannot be read: {error!r}") from error
        self._reader.set_up_storage_reader(self._metadata, is_coordinator=True)

    def names(self) -> list[str]:
        """Names of all tensors, in the order in which the first rank wrote them."""
        return list(self._metadata.state_dict_metadata)

    def dtype(self, name: str) -> torch.dtype:
        """The dtype in which a tensor is stored."""
        return self._find(name).properties.dtype

    def load(self, name: str) -> Tensor:
        """Return all values of a tensor, 1-D."""
        found = self._find(name)
        values = torch.empty(found.size, dtype=found.properties.dtype)
        self.read([Chunk(name, values.numel(), 0, values)])
        return values

    def read(self, chunks: Sequence[Chunk]) -> None:
        """Fill the values of `chunks`, whatever chunks were written. Raises ShardsError if a tensor is another."""
        by_place: dict[tuple[str, int], Chunk] = {}
        items: list[ReadItem] = []
        for chunk in chunks:
            found = self._find(chunk.name)
            if tuple(found.size) != (chunk.numel,) or found.properties.dtype != chunk.values.dtype:
                stored = f"{found.size[0]} values of {found.properties.dtype}"
                raise ShardsError(f"{chunk.name} has {stored}, not {chunk.numel} of {chunk.values.dtype}")
            by_place[chunk.name, chunk.start] = chunk
            items += create_read_items_for_chunk_list(chunk.name, found, [_bounds(chunk)])
        self._reader.read_data(LoadPlan(items), _LoadPlanner(by_place)).wait()

    def _find(self, name: str) -> TensorStorageMetadata:
        found = self._metadata.state_dict_metadata.get(name)
        if not isinstance(found, TensorStorageMetadata):
            raise ShardsError(f"{self._folder} has no tensor {name}")
        return found


class _HashedFiles(FileSystem):
    """The library's files, whose digests are computed while they are written."""

    def __init__(self) -> None:
        self.entries: dict[str, FileEntry] = {}

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[Any]:
        assert mode == "wb", "only a writer has these files"
        with written(Path(path)) as file:
            yield _Uncloseable(file)
        self.entries[Path(path).name] = file.entry

    def rename(self, path: Any, new_path: Any) -> None:
        super().rename(path, new_path)
        self.entries[Path(new_path).name] = self.entries.pop(Path(path).name)


class _Uncloseable:
    """A file that its block closes: the library closes it before, and it would not be synced then."""

    def __init__(self, file: HashedFile):
        self.write, self.tell, self.fileno = file.write, file.tell, file.fileno

    def close(self) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing: `fileno` does."""


class _SavePlanner(DefaultSavePlanner):
    def __init__(self, by_place: Mapping[tuple[str, int], Chunk]):
        super().__init__()
        self._by_place = by_place

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        return self._by_place[_place(write_item)].values


class _LoadPlanner(DefaultLoadPlanner):
    def __init__(self, by_place: Mapping[tuple[str, int], Chunk]):
        super().__init__()
        self._by_place = by_place

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        values = self._by_place[_key(read_item.dest_index)].values
        return values.narrow(0, read_item.dest_offsets[0], read_item.lengths[0])

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """The values are in place."""


def _build_item(chunk: Chunk) -> WriteItem:
    whole = torch.Size([chunk.numel])
    data = TensorWriteData(_bounds(chunk), TensorProperties(dtype=chunk.values.dtype), whole)
    return WriteItem(MetadataIndex(chunk.name, torch.Size([chunk.start])), WriteItemType.SHARD, tensor_data=data)


def _bounds(chunk: Chunk) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size([chunk.start]), torch.Size([chunk.values.numel()]))


def _place(item: WriteItem) -> tuple[str, int]:
    return _key(item.index)


def _key(index: MetadataIndex) -> tuple[str, int]:
    assert index.offset is not None, "every item is a chunk"
    return index.fqn, index.offset[0]


def _split(items: Sequence[WriteItem], by_place: Mapping[tuple[str, int], Chunk]) -> Iterator[list[WriteItem]]:
    """Yield the items of one file after another."""
    group: list[WriteItem] = []
    size = 0
    for item in items:
        group.append(item)
        size += by_place[_place(item)].values.nbytes
        if size >= FILE_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
