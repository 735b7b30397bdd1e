"""A safetensors file in pieces, so that one layer at a time is in memory. PURE.

Format: eight bytes with the header's length, the header as JSON, the tensors' bytes end to end
(https://huggingface.co/docs/safetensors).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from scalerl_runtime.models.weight_names import TensorShape

_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
DTYPES = {short: name for name, short in _NAMES.items()}
"""Type in a file -> torch's name."""


class TensorGroup(Protocol):
    """Tensors that are loaded together."""

    @property
    def tensors(self) -> Sequence[TensorShape]:
        """Those that `load` yields, in order."""

    def load(self) -> Iterator[tuple[TensorShape, Tensor]]:
        """Yield each tensor."""


def build_header(tensors: Sequence[TensorShape]) -> bytes:
    """Return the first bytes of the file, up to the first tensor. Raises KeyError on a dtype without a name."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for each in tensors:
        ends = [offset, offset + each.num_bytes]
        header[each.name] = {"dtype": _NAMES[each.dtype], "shape": list(each.shape), "data_offsets": ends}
        offset += each.num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def file_pieces(groups: Sequence[TensorGroup]) -> tuple[int, Iterator[bytes | memoryview]]:
    """Return the file's size and its content in pieces."""
    tensors = [each for group in groups for each in group.tensors]
    header = build_header(tensors)
    return len(header) + sum(each.num_bytes for each in tensors), _pieces(header, groups)


def _pieces(header: bytes, groups: Iterable[TensorGroup]) -> Iterator[bytes | memoryview]:
    yield header
    for group in groups:
        for entry, tensor in group.load():
            yield tensor_bytes(tensor.to(getattr(torch, entry.dtype)))


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Return the tensor's bytes in its own order, without a copy where it is contiguous."""
    flat = tensor.detach().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy().data) if flat.numel() else memoryview(b"")
