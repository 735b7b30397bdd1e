"""A whole model of a base and adapters: the base's files, with the adapters added to the weights of their layers. I/O.

A tensor at a time is in memory. Names, shapes, types and files are the base's, so tied embeddings are as they were.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from scalerl_api import InvalidRun
from scalerl_api.rlrun import LoraSpec
from scalerl_runtime.export.adapter_files import plan_adapters
from scalerl_runtime.export.checkpoint_weights import ExportError, Weight
from scalerl_runtime.export.safetensors_file import DTYPES
from scalerl_runtime.models.adapters import FILE_PREFIX, engine_names
from scalerl_runtime.models.weight_files import INDEX, SINGLE
from scalerl_runtime.models.weight_names import TensorShape

MERGED_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class MergedTensor:
    """A tensor of the base's file, with its adapter where it has one."""

    file: Path
    shape: TensorShape
    adapter: tuple[Weight, Weight] | None
    """A [rank, in] and B [out, rank]."""
    scale: float

    @property
    def tensors(self) -> tuple[TensorShape, ...]:
        """The stored tensor."""
        return (self.shape,)

    def load(self) -> Iterator[tuple[TensorShape, Tensor]]:
        """Yield the tensor: W + scale B A, in float32 and rounded once."""
        with safe_open(self.file, framework="pt") as content:
            value: Tensor = content.get_tensor(self.shape.name)
        if self.adapter is not None:
            a, b = (weight.load().float() for weight in self.adapter)
            value = (value.float() + self.scale * (b @ a)).to(value.dtype)
        yield self.shape, value


def plan_merged(base: Path, weights: Sequence[Weight], reference: Any, lora: LoraSpec) -> dict[str, list[MergedTensor]]:
    """Return file name -> its tensors; no tensor is loaded.

    Args:
        base: the folder of the model that was adapted.
        weights: the adapters', by name in memory.
        reference: the model of the checkpoint's config, without weights.
        lora: of the spec.

    Raises ExportError that names what does not belong together.
    """
    adapters = _adapters_by_tensor(weights, reference, lora)
    scale = lora.alpha / (math.sqrt(lora.rank) if lora.use_rslora else lora.rank)
    files, merged = {}, set()
    for name in _list_files(base):
        tensors = [MergedTensor(base / name, s, adapters.get(s.name), scale) for s in _read_shapes(base / name)]
        for each in tensors:
            if each.adapter is not None:
                _check_pair(each)
                merged.add(each.shape.name)
        files[name] = tensors
    if missing := sorted(adapters.keys() - merged):
        raise ExportError(f"the adapter of {missing[0]} has no tensor in {base} ({len(missing)} such)")
    return files


def _adapters_by_tensor(weights: Sequence[Weight], reference: Any, lora: LoraSpec) -> dict[str, tuple[Weight, Weight]]:
    """Return name of a tensor in the base's folder -> A and B."""
    plan_adapters(weights, reference, lora)  # all of them are there, with their shapes
    try:
        names = engine_names(reference, [weight.name for weight in weights])
    except InvalidRun as error:
        raise ExportError(str(error)) from error
    parts: dict[str, dict[str, Weight]] = {}
    for weight in weights:
        module, _, part = names[weight.name].removeprefix(FILE_PREFIX).rpartition(".lora_")
        parts.setdefault(f"{module}.weight", {})[part[0]] = weight
    return {name: (found["A"], found["B"]) for name, found in parts.items()}


def _list_files(base: Path) -> list[str]:
    if (base / INDEX).is_file():
        return sorted(set(json.loads((base / INDEX).read_text())["weight_map"].values()))
    if (base / SINGLE).is_file():
        return [SINGLE]
    raise ExportError(f"{base} has neither {SINGLE} nor {INDEX}: only a model in safetensors can be merged into")


def _read_shapes(file: Path) -> list[TensorShape]:
    try:
        with safe_open(file, framework="pt") as content:
            found = [(name, content.get_slice(name)) for name in content.keys()]  # noqa: SIM118  # no mapping
            return [TensorShape(name, DTYPES[part.get_dtype()], tuple(part.get_shape())) for name, part in found]
    except (SafetensorError, KeyError) as error:
        raise ExportError(f"{file} cannot be merged into: {error}") from error


def _check_pair(tensor: MergedTensor) -> None:
    assert tensor.adapter is not None
    a, b = tensor.adapter
    if tensor.shape.shape != (b.shape[0], a.shape[1]) or tensor.shape.dtype not in MERGED_DTYPES:
        found = f"{tensor.shape.dtype} of {list(tensor.shape.shape)}"
        raise ExportError(
            f"{tensor.shape.name} of {tensor.file} is {found}; need {[b.shape[0], a.shape[1]]}, not quantized"
        )
