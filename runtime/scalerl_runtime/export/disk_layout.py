"""From the model's names in memory to those on disk, and into files of bounded size. I/O (reads the config).

transformers holds some tensors in another form than the one on disk: experts fused, names changed. It reverses this
for a whole model at once; here it is done for one layer at a time, so that memory does not grow with the model.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalerl_runtime.export.checkpoint_weights import ExportError, Weight
from scalerl_runtime.models.parts import auto_class

MAX_FILE_BYTES = 4 * 2**30
_LAYER = re.compile(r"^.*?\.\d+\.")

Convert = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""Tensors of one layer by their names in memory -> the same by their names on disk."""


@dataclass(frozen=True)
class DiskTensor:
    """A tensor as it is stored."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Size on disk."""
        return int(torch.Size(self.shape).numel()) * self.dtype.itemsize


@dataclass(frozen=True)
class DiskGroup:
    """The tensors of one layer, or one tensor outside the layers, and what they are made of."""

    weights: tuple[Weight, ...]
    tensors: tuple[DiskTensor, ...]
    convert: Convert

    def load(self) -> Iterator[tuple[DiskTensor, Tensor]]:
        """Yield each tensor; only this group's are in memory."""
        loaded = self.convert({weight.name: weight.load() for weight in self.weights})
        for entry in self.tensors:
            yield entry, loaded[entry.name]


def build_reference(folder: Path) -> Any:
    """Return the model of `folder`'s config without memory for its weights. Raises ExportError."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            return auto_class(config).from_config(config)
    except (OSError, ValueError, KeyError, AttributeError, ImportError) as error:
        raise ExportError(f"{folder / 'config.json'} cannot be used: {error}") from error


def check_complete(weights: Sequence[Weight], reference: Any) -> None:
    """Compare names and shapes with the model of the config. Raises ExportError that names the first difference."""
    found = {weight.name: weight.shape for weight in weights}
    wanted = {name: tuple(value.shape) for name, value in reference.state_dict().items()}
    missing = sorted(set(wanted) - set(found) - _tied_to(found, reference))
    unknown = sorted(set(found) - set(wanted))
    wrong = sorted(name for name in set(found) & set(wanted) if found[name] != wanted[name])
    for names, what in ((missing, "is missing"), (unknown, "is not part of the model"), (wrong, "has another shape")):
        if names:
            raise ExportError(f"weight {names[0]} {what} ({len(names)} such)")


def _tied_to(found: Collection[str], reference: Any) -> set[str]:
    """Return the names that share the tensor of a name in `found`."""
    pairs: dict[str, str] = dict(getattr(reference, "all_tied_weights_keys", None) or {})
    return {name for one, other in pairs.items() for name, by in ((one, other), (other, one)) if by in found}


def plan_groups(weights: Sequence[Weight], reference: Any) -> list[DiskGroup]:
    """Return the groups in the order of the model; no weight is loaded."""
    from transformers.core_model_loading import revert_weight_conversion

    def convert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        converted: dict[str, Tensor] = revert_weight_conversion(reference, tensors)
        return converted

    by_layer: dict[str, list[Weight]] = {}
    for weight in weights:
        layer = _LAYER.match(weight.name)
        by_layer.setdefault(layer.group() if layer else weight.name, []).append(weight)
    return [_plan_group(members, convert) for members in by_layer.values()]


def _plan_group(weights: Sequence[Weight], convert: Convert) -> DiskGroup:
    shapes = {each.name: torch.empty(each.shape, dtype=each.dtype, device="meta") for each in weights}
    planned = convert(shapes)
    tensors = tuple(DiskTensor(name, tuple(value.shape), value.dtype) for name, value in planned.items())
    return DiskGroup(tuple(weights), tensors, convert)


def split_files(groups: Sequence[DiskGroup], limit: int = MAX_FILE_BYTES) -> dict[str, list[DiskGroup]]:
    """Return file name -> its groups. A group is never divided, so one that is larger has a larger file."""
    files: list[list[DiskGroup]] = [[]]
    size = 0
    for group in groups:
        more = sum(each.num_bytes for each in group.tensors)
        if files[-1] and size + more > limit:
            files.append([])
            size = 0
        files[-1].append(group)
        size += more
    if len(files) == 1:
        return {"model.safetensors": files[0]}
    return {f"model-{i:05d}-of-{len(files):05d}.safetensors": members for i, members in enumerate(files, start=1)}
