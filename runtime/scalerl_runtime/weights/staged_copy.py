"""Rank 0's copy of the weights that are sent: in memory of the host, for every transport. I/O.

A device never has a second model. Tensors are gathered by batch (ZeRO 3), copied to the host and released; `nccl`
brings them back a packet at a time (`packets.py`) while training goes on. Nothing is gathered beside training.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scalerl_runtime.weights.buckets import Transport, WeightBucket, bucket_checksums
from scalerl_runtime.weights.checksums import read_sums, word_sum
from scalerl_runtime.weights.shared_memory import SharedHandle, SharedMemory

CopyAll = Callable[[Sequence[Tensor], Callable[[Tensor, Tensor], object]], None]  # fills the buckets' bytes, by a `put`


class StagedCopy:
    """The copy, and its checksums of the kind that the receivers compute."""

    def __init__(self, buckets: Sequence[WeightBucket], transport: Transport, device: torch.device):
        """The layout of a copy; `device`: where the weights are trained."""
        self.buckets = tuple(buckets)
        self.flats: list[Tensor] = []
        self._transport = transport
        self._device = device
        self._memory: SharedMemory | None = None
        self._sums: list[Tensor] = []

    @property
    def handle(self) -> SharedHandle | None:
        """Where engines of the node read the copy; None if they get it from device to device."""
        return self._memory.handle if self._memory is not None and self._transport == "gloo" else None

    def take(self, copy_all: CopyAll, *, reuse: bool) -> None:
        """Copy the weights as they are now; return when training may change them.

        Args:
            copy_all: copies every tensor to its place.
            reuse: write into the memory of the copy before, which no engine reads any more.
        """
        if not self.flats or not (reuse or self._transport == "nccl"):  # with nccl no engine reads it
            self._allocate()
        self._sums = []
        copy_all(self.flats, self._put)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()

    def _put(self, place: Tensor, value: Tensor) -> None:
        """Engines that receive on a device sum there, so the sum is of the weights before they leave the device."""
        if self._transport == "nccl":
            self._sums.append(word_sum(value))
        place.copy_(value, non_blocking=True)

    def _allocate(self) -> None:
        sizes = [bucket.num_bytes for bucket in self.buckets]
        self.flats = []  # first: one copy at a time
        if self._memory is not None:
            self._memory.close()
        self._memory = SharedMemory(sum(sizes))
        if self._device.type == "cuda":
            self._memory.pin()
        self.flats = self._memory.split(sizes)

    def sums(self) -> tuple[int, ...]:
        """Return the checksum of each parameter, in order; runs in parallel with training."""
        if self._transport == "nccl":
            return tuple(read_sums(self._sums))
        return tuple(bucket_checksums(self.buckets, self.flats))
