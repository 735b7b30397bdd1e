"""Checksums of weights: the trainer's of what it sends, an engine's of what arrived. PURE.

Both ends of a transport hold the weights in the same kind of memory, so each kind has the checksum that is fast there:
in host memory XXH3 (`xxhash`, many GB/s on one core), on a device a sum that it computes without waiting for the host.
"""

from collections.abc import Iterable, Sequence

import torch
import xxhash
from torch import Tensor

CHUNK = 2**22  # int64 words at a time on a device: bounds the temporary at 32 MiB
WORD_BYTES = 8
WORD_MASK = 2**64 - 1


def checksums(tensors: Iterable[Tensor]) -> list[int]:
    """Return the checksum of each tensor's bytes, in [0, 2**64), in order; one wait for a device.

    Equal bytes have equal checksums, wherever in a buffer they lie. All tensors are on the same kind of device.
    """
    sums = [_host_sum(tensor) if tensor.device.type == "cpu" else word_sum(tensor) for tensor in tensors]
    on_device = [value for value in sums if isinstance(value, Tensor)]
    return read_sums(on_device) if on_device else [value for value in sums if isinstance(value, int)]


def read_sums(sums: Sequence[Tensor]) -> list[int]:
    """Return the checksums of tensors on a device, from their `word_sum`s; one wait for the device."""
    return [int(value) & WORD_MASK for value in torch.stack(list(sums)).tolist()] if sums else []


def _host_sum(tensor: Tensor) -> int:
    return int(xxhash.xxh3_64_intdigest(_as_bytes(tensor).numpy()))  # type: ignore[arg-type] # an array is a buffer


def word_sum(tensor: Tensor) -> Tensor:
    """Return a position-dependent sum of the tensor's bytes, int64, on its device.

    The sum of the 8-byte words, each times its odd position weight, modulo 2**64: swapped or shifted words change it. A
    last word that is not whole is filled with zeros.
    """
    words = _as_words(tensor)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for start in range(0, words.numel(), CHUNK):
        chunk = words[start : start + CHUNK]
        weight = torch.arange(start, start + chunk.numel(), device=tensor.device, dtype=torch.int64) * 2 + 1
        total += (chunk * weight).sum()
    return total


def _as_words(tensor: Tensor) -> Tensor:
    flat = _as_bytes(tensor)
    missing = -flat.numel() % WORD_BYTES
    # A view into a larger buffer may begin between two words, which cannot be read as words.
    if missing or flat.storage_offset() % WORD_BYTES:
        flat = torch.cat([flat, flat.new_zeros(missing)])
    return flat.view(torch.int64)


def _as_bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)
