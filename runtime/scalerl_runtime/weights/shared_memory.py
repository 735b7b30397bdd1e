"""A copy of the weights in memory that the engines of the same node read where it lies. I/O.

The memory has no name in a file system, so a killed trainer leaves nothing behind. A reader opens it through
`/proc/<pid>/fd/<fd>`. The memory's label is random: another node, or a pod with process ids of its own, has no such
file, or one with another label.
"""

import logging
import mmap
import os
import secrets
from dataclasses import dataclass

import torch

log = logging.getLogger(__name__)

PREFIX = "scalerl-weights-"


@dataclass(frozen=True)
class SharedHandle:
    """Where shared memory is found, on its node."""

    pid: int
    fd: int
    label: str
    num_bytes: int

    @property
    def path(self) -> str:
        """Path for a reader with the owner's user."""
        return f"/proc/{self.pid}/fd/{self.fd}"


class SharedMemory:
    """The owner's side."""

    def __init__(self, num_bytes: int):
        """Allocate `num_bytes`, > 0. Raises OSError without that much memory."""
        label = PREFIX + secrets.token_hex(8)
        fd = os.memfd_create(label)
        try:
            os.ftruncate(fd, num_bytes)
            self._map = mmap.mmap(fd, num_bytes)
        except (OSError, ValueError):
            os.close(fd)
            raise
        self.handle = SharedHandle(os.getpid(), fd, label, num_bytes)
        self._is_pinned = False

    def pin(self) -> None:
        """Lock the memory for a device, which copies several times faster then."""
        address = torch.frombuffer(self._map, dtype=torch.uint8).data_ptr()
        code = int(torch.cuda.cudart().cudaHostRegister(address, self.handle.num_bytes, 0))  # type: ignore[no-untyped-call]
        self._is_pinned = code == 0
        if code:
            log.warning("%d bytes for the weights were not pinned (CUDA error %d)", self.handle.num_bytes, code)

    def split(self, sizes: list[int]) -> list[torch.Tensor]:
        """Return the memory as consecutive tensors of `sizes` bytes."""
        return list(torch.split(torch.frombuffer(self._map, dtype=torch.uint8), sizes))

    def close(self) -> None:
        """Release the memory once its last reader and tensor are gone."""
        if self._is_pinned:
            address = torch.frombuffer(self._map, dtype=torch.uint8).data_ptr()
            torch.cuda.cudart().cudaHostUnregister(address)  # type: ignore[no-untyped-call]
        os.close(self.handle.fd)


def open_shared(handle: SharedHandle) -> torch.Tensor | None:
    """Return the memory [num_bytes], uint8, for reading; None where this process cannot read it.

    The tensor is writable, as torch has no other kind; what is written stays in this process.
    """
    try:
        fd = os.open(handle.path, os.O_RDONLY)
    except OSError:
        return None
    try:
        if os.readlink(f"/proc/self/fd/{fd}") != f"/memfd:{handle.label} (deleted)":
            return None
        mapped = mmap.mmap(fd, handle.num_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(fd)
    return torch.frombuffer(mapped, dtype=torch.uint8)
