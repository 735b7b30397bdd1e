"""A trainer rank's part of a checkpoint: copied to host memory, written later, read by any number of ranks. I/O."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scalerl_runtime.storage.checkpoint_files import FileEntry, written
from scalerl_runtime.storage.shards import (
    OPTIMIZER,
    WEIGHTS,
    Chunk,
    ShardsError,
    StoredTensors,
    WrittenChunks,
    seal_chunks,
    write_chunks,
)
from scalerl_runtime.weights.zero_partitions import Gathering, ParameterSpan, Partition, ZeroState, full_shape

FACTS = "trainer.json"
BLOCK_VALUES = 2**26  # of the copy: 256 MiB, a power of two, to which pinned memory is rounded up
_RANDOM = "torch_rng"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the model."""

    shape: tuple[int, ...]
    dtype: str
    """In which it was trained; parameters that are trained are stored as float32."""


@dataclass(frozen=True)
class TrainerFacts:
    """The trainer that wrote a checkpoint."""

    version: int
    ranks: int
    zero_stage: int
    optimizer_steps: int
    """0: no moments are stored."""
    tensors: Mapping[str, StoredTensor]
    """Parameters and persistent buffers by their name in the model."""

    @classmethod
    def load(cls, checkpoint: Path) -> "TrainerFacts":
        """Read them. Raises ShardsError."""
        try:
            found = json.loads((checkpoint / FACTS).read_text())
            tensors = {
                name: StoredTensor(tuple(each["shape"]), each["dtype"]) for name, each in found["tensors"].items()
            }
            return cls(**{**found, "tensors": tensors})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ShardsError(f"{checkpoint / FACTS} cannot be read: {error!r}") from error


def describe_change(checkpoint: Path, ranks: int, zero_stage: int) -> str:
    """Return that other ranks, or another stage, wrote a checkpoint; empty if they are the same or not known."""
    try:
        facts = TrainerFacts.load(checkpoint)
    except ShardsError:  # of an older layout
        return ""
    if (facts.ranks, facts.zero_stage) == (ranks, zero_stage):
        return ""
    return f"written by {facts.ranks} ranks with ZeRO {facts.zero_stage}, onto {ranks} with ZeRO {zero_stage}"


@dataclass(frozen=True)
class RankPart:
    """A rank's part of a checkpoint, as it was written."""

    weights: WrittenChunks
    optimizer: WrittenChunks
    files: Mapping[str, FileEntry]
    """Other files, by name inside the checkpoint."""


def seal_parts(checkpoint: Path, parts: Sequence[RankPart]) -> dict[str, FileEntry]:
    """Make what all ranks have written readable; return the entries of its files. Raises ShardsError on a gap."""
    found = {name: entry for part in parts for name, entry in part.files.items()}
    for folder, written_chunks in (
        (WEIGHTS, [part.weights for part in parts]),
        (OPTIMIZER, [part.optimizer for part in parts]),
    ):
        entries = seal_chunks(checkpoint / folder, written_chunks)
        found |= {f"{folder}/{name}": entry for name, entry in entries.items()}
    return found


@dataclass(frozen=True)
class TrainerState:
    """The state of a running rank."""

    optimizer: Any
    """DeepSpeed's, of stage 1, 2 or 3."""
    tensors: Mapping[str, Tensor]
    """Parameters and persistent buffers by their name in the model."""
    rank: int
    num_ranks: int

    def find_shares(self) -> ZeroState:
        """Return what the rank holds of the parameters that are trained."""
        return ZeroState(self.optimizer, {t: name for name, t in self.tensors.items() if isinstance(t, nn.Parameter)})

    def buffers(self) -> dict[str, Tensor]:
        """Return the persistent buffers."""
        return {name: each for name, each in self.tensors.items() if not isinstance(each, nn.Parameter)}

    def frozen(self) -> dict[str, nn.Parameter]:
        """Return the parameters that no step changes."""
        parameters = {name: each for name, each in self.tensors.items() if isinstance(each, nn.Parameter)}
        return {name: each for name, each in parameters.items() if not each.requires_grad}

    def describe(self) -> dict[str, StoredTensor]:
        """Return shape and dtype of every tensor."""
        return {
            name: StoredTensor(full_shape(each), str(each.dtype).removeprefix("torch."))
            for name, each in self.tensors.items()
        }


class HostCopy:
    """A rank's copy of its state in host memory, 12 bytes a parameter over all ranks; the memory is used again."""

    def __init__(self) -> None:
        self._rank = 0
        self._blocks: dict[tuple[int, str], list[Tensor]] = {}
        self._chunks: list[tuple[str, Chunk]] = []  # with the folder
        self._frozen: dict[str, Tensor] | None = None
        self._facts: TrainerFacts | None = None

    def take(self, state: TrainerState, gathered: Gathering, *, version: int, zero_stage: int) -> None:
        """Copy the state as it is now; return when training may change it. On all ranks.

        Args:
            gathered: a context in which parameters have their full values.
            version: of the weights.
        """
        shares, self._rank = state.find_shares(), state.rank
        self._facts = TrainerFacts(version, state.num_ranks, zero_stage, shares.steps(), state.describe())
        self._chunks = []
        for number, partition in enumerate(shares.partitions):
            self._add(WEIGHTS, partition, "", self._copy((number, WEIGHTS), partition.masters.detach()))
            for name, values in shares.moments(partition).items():
                self._add(OPTIMIZER, partition, f"{name}.", self._copy((number, name), values.detach()))
        if self._frozen is None:
            self._frozen = _copy_frozen(state, gathered)
        rest = {**self._frozen, **state.buffers()} if state.rank == 0 else {}
        self._chunks += [(WEIGHTS, _whole(name, each)) for name, each in rest.items()]
        for name, random in _random_states().items():
            self._chunks.append((OPTIMIZER, _whole(f"{_RANDOM}.{name}.{state.rank}", random)))
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def _copy(self, key: tuple[int, str], values: Tensor) -> list[Tensor]:
        pieces = torch.split(values, BLOCK_VALUES)
        if key not in self._blocks:
            pinned = values.is_cuda
            self._blocks[key] = [torch.empty(p.numel(), dtype=p.dtype, pin_memory=pinned) for p in pieces]
        for block, piece in zip(self._blocks[key], pieces, strict=True):
            block.copy_(piece, non_blocking=True)
        return self._blocks[key]

    def _add(self, folder: str, partition: Partition, prefix: str, blocks: Sequence[Tensor]) -> None:
        for span in partition.spans:
            for part in _cut(span):
                block, offset = divmod(part.place, BLOCK_VALUES)
                values = blocks[block].narrow(0, offset, part.length)
                self._chunks.append((folder, Chunk(prefix + part.name, part.numel, part.start, values)))

    def write(self, checkpoint: Path) -> RankPart:
        """Write the copy, beside training."""
        assert self._facts is not None, "the copy is taken first"
        files: dict[str, FileEntry] = {}
        if self._rank == 0:
            with written(checkpoint / FACTS) as file:
                file.write(json.dumps(asdict(self._facts)).encode())
            files[FACTS] = file.entry
        weights, optimizer = (
            write_chunks(checkpoint / folder, self._rank, [chunk for place, chunk in self._chunks if place == folder])
            for folder in (WEIGHTS, OPTIMIZER)
        )
        return RankPart(weights, optimizer, files)


def load_state(checkpoint: Path, state: TrainerState) -> None:
    """Load what any number of ranks of any ZeRO stage wrote; on all ranks.

    Frozen parameters have their values from the model. For another number of ranks torch's generators get a seed of
    rank and version: nothing of training draws from them. Raises ShardsError if the checkpoint is of another model.
    """
    facts = TrainerFacts.load(checkpoint)
    weights, optimizer = StoredTensors(checkpoint / WEIGHTS), StoredTensors(checkpoint / OPTIMIZER)
    shares = state.find_shares()
    with torch.no_grad():
        shares.set_steps(facts.optimizer_steps)
        for partition in shares.partitions:
            _fill(partition, partition.masters.detach(), weights, "")
            if facts.optimizer_steps:
                for name, values in shares.moments(partition).items():
                    _fill(partition, values, optimizer, f"{name}.")
        for name, buffer in state.buffers().items():
            buffer.copy_(weights.load(name).view(buffer.shape))
    shares.publish()
    _restore_random(optimizer, facts, state.rank, state.num_ranks)


def _fill(partition: Partition, flat: Tensor, stored: StoredTensors, prefix: str) -> None:
    """Read the values of a partition into `flat`."""
    for span in partition.spans:
        for part in _cut(span):
            place = flat.narrow(0, part.place, part.length)
            values = place if place.device.type == "cpu" else torch.empty(part.length, dtype=flat.dtype)
            stored.read([Chunk(prefix + part.name, part.numel, part.start, values)])
            if values is not place:
                place.copy_(values)


def _cut(span: ParameterSpan) -> Iterator[ParameterSpan]:
    """Yield the parts of a span that lie in one block each."""
    done = 0
    while done < span.length:
        place = span.place + done
        length = min(span.length - done, BLOCK_VALUES - place % BLOCK_VALUES)
        yield ParameterSpan(span.name, span.numel, span.start + done, place, length)
        done += length


def _copy_frozen(state: TrainerState, gathered: Gathering) -> dict[str, Tensor]:
    """One copy on rank 0 serves every checkpoint."""
    copies: dict[str, Tensor] = {}
    for name, parameter in state.frozen().items():
        with gathered([parameter]):
            if state.rank == 0:
                copies[name] = parameter.detach().to("cpu", copy=True)
    return copies


def _whole(name: str, tensor: Tensor) -> Chunk:
    values = tensor.detach().reshape(-1).to("cpu", copy=True)
    return Chunk(name, values.numel(), 0, values)


def _random_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _restore_random(stored: StoredTensors, facts: TrainerFacts, rank: int, num_ranks: int) -> None:
    if facts.ranks != num_ranks:
        torch.manual_seed(int(np.random.SeedSequence([facts.version, rank, num_ranks]).generate_state(1)[0]))
        return
    names = set(stored.names())
    if (name := f"{_RANDOM}.cpu.{rank}") in names:
        torch.set_rng_state(stored.load(name))
    if torch.cuda.is_available() and (name := f"{_RANDOM}.cuda.{rank}") in names:
        torch.cuda.set_rng_state(stored.load(name))
