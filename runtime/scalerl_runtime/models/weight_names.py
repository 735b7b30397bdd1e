"""A model's tensors under the names and in the shapes of its folder, which are the engine's too. PURE.

transformers renames and fuses weights while it loads a folder (all experts of a layer become one tensor), and reverts
that when it saves. vLLM reads folders, so an update must look like one. transformers' own reversal does the work here,
on one group of tensors at a time: no second copy of the model is made.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    PrefixChange,
    WeightConverter,
    WeightRenaming,
    rename_source_key,
    revert_weight_conversion,
)

from scalerl_api import Fault
from scalerl_runtime.models.source import FIELD


@dataclass(frozen=True)
class TensorShape:
    """A tensor of the folder, without its values."""

    name: str
    dtype: str  # torch's name without the prefix: "float32"
    shape: tuple[int, ...]

    @property
    def item_bytes(self) -> int:
        """Size of one element."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype.itemsize

    @property
    def num_bytes(self) -> int:
        """Size of all elements."""
        return self.item_bytes * math.prod(self.shape)


@dataclass(frozen=True)
class WeightGroup:
    """Tensors of the model that become tensors of the folder together: experts are split, shards are joined."""

    sources: tuple[str, ...]  # names in the model
    targets: tuple[TensorShape, ...]  # what they become
    is_converted: bool  # False: one tensor under another name at most


def named_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return every tensor that the folder holds: parameters, and buffers that are saved (a router's bias, say).

    A tied tensor comes once, under the name that a folder has it by. Call it before any module is replaced.
    """
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    held = model.state_dict(keep_vars=True)
    found: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name in sorted(held, key=lambda name: name in tied):  # stable: tied names come last
        if id(held[name]) not in taken:
            taken.add(id(held[name]))
            found[name] = held[name]
    return {name: found[name] for name in held if name in found}


def plan_groups(model: nn.Module, shapes: Iterable[TensorShape]) -> tuple[WeightGroup, ...]:
    """Group the model's tensors by what they become in the folder, in the model's order.

    Args:
        model: a transformers model; its loaded weights were renamed by `from_pretrained`, which keeps the rules.
        shapes: the full shapes, by the model's names.
    """
    empty = {s.name: torch.empty(s.shape, dtype=getattr(torch, s.dtype), device="meta") for s in shapes}
    members: dict[str, list[str]] = {}
    converted: set[str] = set()
    renamings, converters = reverse_rules(model)
    for name in empty:
        key, pattern = rename_source_key(name, renamings, converters, reverse=True)
        members.setdefault(key, []).append(name)
        if pattern is not None:
            converted.add(key)
    groups = []
    for key, names in members.items():
        group = WeightGroup(tuple(names), (_describe(key, empty[names[0]]),), is_converted=False)
        if key in converted:
            found = _revert(model, {name: empty[name] for name in names})
            group = WeightGroup(tuple(names), tuple(_describe(*item) for item in found.items()), is_converted=True)
        groups.append(group)
    return tuple(groups)


def convert_group(model: nn.Module, group: WeightGroup, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the folder's tensors of `group`, in the order of its targets; parts of a fused tensor are views of it."""
    if not group.is_converted:
        return [tensors[group.sources[0]]]
    found = _revert(model, {name: tensors[name] for name in group.sources})
    return [found[target.name] for target in group.targets]


def _describe(name: str, tensor: Tensor) -> TensorShape:
    return TensorShape(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


def _revert(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad(), _KeepViews():
        found: dict[str, Tensor] = revert_weight_conversion(model, tensors)
    return found


def reverse_rules(model: nn.Module) -> tuple[list[WeightRenaming], list[WeightConverter]]:
    """Return the rules by which `revert_weight_conversion` renames: those that `from_pretrained` used, backwards.

    For a model that was built from its configuration, the family's own without changes of a prefix, as that function
    takes them.
    """
    forward = getattr(model, "_weight_conversions", None)
    if forward is None:
        own = get_model_conversion_mapping(model, add_legacy=False)
        forward = [rule for rule in own if not isinstance(rule, PrefixChange)]
    rules = [rule.reverse_transform() for rule in reversed(forward)]
    return (
        [rule for rule in rules if isinstance(rule, WeightRenaming)],
        [rule for rule in rules if isinstance(rule, WeightConverter)],
    )


class _KeepViews(TorchFunctionMode):
    """Leave out `.contiguous()`: a layer's experts would be copied whole before the copy that is sent."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.contiguous:
            return args[0]
        return func(*args, **(kwargs or {}))


def batch_groups(groups: Sequence[WeightGroup], *, limit: int) -> tuple[tuple[WeightGroup, ...], ...]:
    """Cut groups into batches of at most `limit` bytes, in order; a larger group is a batch of its own."""
    batches: list[list[WeightGroup]] = []
    used = limit
    for group in groups:
        size = sum(target.num_bytes for target in group.targets)
        if used + size > limit:
            batches.append([])
            used = 0
        batches[-1].append(group)
        used += size
    return tuple(map(tuple, batches))


MAX_NAMES = 8  # in a message; the rest is a number


def check_loading(model: str, info: Mapping[str, Any]) -> list[Fault]:
    """Return what `from_pretrained(output_loading_info=True)` could not place; such a model would be wrong silently.

    transformers leaves out what it knows to be needless (a vision tower of a text model, `inv_freq`).
    """
    causes = {
        "missing_keys": "parameters that the folder lacks, which would start from random values",
        "unexpected_keys": "tensors of the folder for which the model has no place",
        "mismatched_keys": "tensors whose shape differs from the model's",
        "conversion_errors": "tensors that could not be converted",
    }
    return [
        Fault(FIELD, model, f"{len(info[key])} {cause}: {list_names(info[key])}")
        for key, cause in causes.items()
        if info.get(key)
    ]


def list_names(names: Iterable[Any]) -> str:
    """Return the first names of a set, sorted, and how many more there are."""
    texts = sorted(str(name[0]) if isinstance(name, tuple) else str(name) for name in names)
    more = f" and {len(texts) - MAX_NAMES} more" if len(texts) > MAX_NAMES else ""
    return ", ".join(texts[:MAX_NAMES]) + more
