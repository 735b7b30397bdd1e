"""From the model's names in memory to those on disk, and into files of bounded size. I/O (reads the config).

The tensors that become others together are converted at a time, so that memory does not grow with the model.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalerl_runtime.export.checkpoint_weights import ExportError, Weight
from scalerl_runtime.models import weight_names
from scalerl_runtime.models.parts import auto_class
from scalerl_runtime.models.weight_names import TensorShape, WeightGroup, convert_group

MAX_FILE_BYTES = 4 * 2**30


@dataclass(frozen=True)
class DiskGroup:
    """Tensors on disk, and what they are made of."""

    reference: Any
    group: WeightGroup
    weights: tuple[Weight, ...]

    @property
    def tensors(self) -> tuple[TensorShape, ...]:
        """The stored tensors."""
        return self.group.targets

    def load(self) -> Iterator[tuple[TensorShape, Tensor]]:
        """Yield each tensor; only this group's are in memory."""
        loaded = convert_group(self.reference, self.group, {weight.name: weight.load() for weight in self.weights})
        yield from zip(self.tensors, loaded, strict=True)


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
    by_name = {weight.name: weight for weight in weights}
    shapes = [TensorShape(w.name, str(w.dtype).removeprefix("torch."), w.shape) for w in weights]
    return [
        DiskGroup(reference, group, tuple(by_name[name] for name in group.sources))
        for group in weight_names.plan_groups(reference, shapes)
    ]


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
