"""Weight transfer from trainer rank 0 to every generator: buckets, checksums, senders. I/O.

One update is a list of flat byte buckets; both sides know each bucket's layout, and compare the checksum of each of
its parameters. The transfer group exists for one *epoch*: it is rebuilt whenever a generator joins or leaves, so a dead
receiver costs one timeout and never hangs the sender.

    gloo   the trainer's host copy to the engines' host memory, while they keep generating; then loaded in one call
    nccl   the trainer's host copy, a packet at a time, over devices to vLLM's own engine (`nccl_sender.py`), which
           loads it as it arrives
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Protocol

import torch
from torch.distributed import ProcessGroupGloo, TCPStore  # type: ignore[attr-defined]  # torch exports it so

from scalerl_runtime.weights.checksums import WORD_BYTES, checksums
from scalerl_runtime.weights.shared_memory import SharedHandle

PACKED_BUFFER_BYTES = 512 * 2**20  # `nccl`: of vLLM's packed buffers, which both ends must agree on
PACKED_BUFFERS = 2
BUCKET_BYTES = 256 * 2**20  # large enough to hide latency, small beside the model

Transport = Literal["gloo", "nccl"]


@dataclass(frozen=True)
class TensorEntry:
    """One parameter inside a bucket."""

    name: str  # the Hugging Face name
    dtype: str  # torch's name without the prefix: "float32"
    shape: tuple[int, ...]
    offset: int  # bytes from the bucket's start, a multiple of 8, so that a device sums words

    @property
    def item_bytes(self) -> int:
        """Size of one value."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype.itemsize

    @property
    def num_bytes(self) -> int:
        """Size without padding."""
        return math.prod(self.shape) * self.item_bytes


@dataclass(frozen=True)
class WeightBucket:
    """Layout of one flat buffer."""

    entries: tuple[TensorEntry, ...]
    num_bytes: int  # a multiple of 8


def plan_buckets(parameters: Iterable[tuple[str, str, Sequence[int], int]], *, limit: int) -> tuple[WeightBucket, ...]:
    """Lay parameters out in order; start a new bucket when `limit` bytes would be exceeded.

    Args:
        parameters: (name, dtype, full shape, size of one element in bytes). Shapes must be the full ones: under ZeRO-3
            a parameter's own `numel` is 0, its `ds_numel` is not.
        limit: bytes, > 0; a single larger parameter gets a bucket of its own.
    """
    buckets: list[WeightBucket] = []
    entries: list[TensorEntry] = []
    used = 0
    for name, dtype, shape, item_bytes in parameters:
        size = item_bytes * math.prod(shape)
        if entries and used + size > limit:
            buckets.append(WeightBucket(tuple(entries), used))
            entries, used = [], 0
        entries.append(TensorEntry(name, dtype, tuple(shape), used))
        used += _whole_words(size)
    if entries:
        buckets.append(WeightBucket(tuple(entries), used))
    return tuple(buckets)


def parse_buckets(layout: Iterable[Mapping[str, Any]]) -> tuple[WeightBucket, ...]:
    """Parse buckets from plain mappings: vLLM's engine transports no classes of ours."""
    return tuple(
        WeightBucket(
            tuple(TensorEntry(e["name"], e["dtype"], tuple(e["shape"]), e["offset"]) for e in b["entries"]),
            b["num_bytes"],
        )
        for b in layout
    )


def view(flat: torch.Tensor, entry: TensorEntry) -> torch.Tensor:
    """Return the parameter `entry` inside the bytes `flat` [num_bytes], without a copy."""
    dtype: torch.dtype = getattr(torch, entry.dtype)
    return flat[entry.offset : entry.offset + entry.num_bytes].view(dtype).view(entry.shape)


def bucket_checksums(buckets: Sequence[WeightBucket], flats: Sequence[torch.Tensor]) -> list[int]:
    """Return the checksum of each parameter in the buckets' bytes `flats`, in order."""
    return checksums(view(flat, entry) for b, flat in zip(buckets, flats, strict=True) for entry in b.entries)


def _whole_words(num_bytes: int) -> int:
    return -(-num_bytes // WORD_BYTES) * WORD_BYTES


class WeightSender(Protocol):
    """Rank 0's end of one transfer group."""

    def send(self, buckets: Sequence[WeightBucket], flats: Sequence[torch.Tensor]) -> None:
        """Send one update to every member. Raises RuntimeError when one is dead, within the group's timeout."""
        ...

    def close(self) -> None:
        """Leave the group."""
        ...


class GlooSender:
    """Sends over gloo, through host memory."""

    def __init__(self, address: str, port: int, *, world_size: int, timeout_seconds: float):
        self._group = gloo_group(address, port, rank=0, world_size=world_size, timeout_seconds=timeout_seconds)

    def send(self, buckets: Sequence[WeightBucket], flats: Sequence[torch.Tensor]) -> None:
        """See `WeightSender`."""
        del buckets  # the receivers got the layout before
        for flat in flats:
            broadcast(self._group, flat)

    def close(self) -> None:
        """Do nothing: the group's sockets close with the last reference to it."""


def gloo_group(address: str, port: int, *, rank: int, world_size: int, timeout_seconds: float) -> ProcessGroupGloo:
    """Join the transfer group. Rank 0 (the trainer) serves the store. Raises RuntimeError when a peer is missing."""
    timeout = timedelta(seconds=timeout_seconds)
    store = TCPStore(address, port, world_size, rank == 0, timeout=timeout, wait_for_workers=False)
    return ProcessGroupGloo(store, rank, world_size, timeout)


def broadcast(group: ProcessGroupGloo, flat: torch.Tensor) -> None:
    """Send (rank 0) or receive the bytes `flat`. Raises RuntimeError after the group's timeout."""
    group.broadcast(flat, 0).wait()  # type: ignore[attr-defined]  # from the compiled base


@dataclass(frozen=True)
class StagedWeights:
    """A copy of the weights, ready to send."""

    version: int
    buckets: tuple[WeightBucket, ...]
    seconds: float  # gathering and copying
    shared: SharedHandle | None = None  # where engines of the trainer's node read it; None with `nccl`

    @property
    def num_bytes(self) -> int:
        """Size of one copy."""
        return sum(bucket.num_bytes for bucket in self.buckets)
