"""Reads the model's tensors out of a checkpoint, one at a time: ZeRO 1, 2 and 3, any number of ranks. I/O.

Of the older layout DeepSpeed wrote the trainer's part (`storage/deepspeed_layout.py`).
"""

import contextlib
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from scalerl_runtime.hub import first_line
from scalerl_runtime.storage.deepspeed_layout import FULL_STATES, OLD_PART, RANK_STATES, is_old_layout
from scalerl_runtime.storage.shards import OPTIMIZER, WEIGHTS, ShardsError, StoredTensors
from scalerl_runtime.storage.trainer_state import TrainerFacts

POLICY_PREFIX = "model."  # of the trainer's `Policy`, which holds the model


class ExportError(RuntimeError):
    """A model cannot be exported; the message names the file and what is wrong."""


@dataclass(frozen=True)
class Weight:
    """A tensor of the model, by its name in memory; `load` reads it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]


def is_read(checkpoint: Path, name: str) -> bool:
    """Whether an export reads the file `name` (relative to the checkpoint).

    Moments are not read; in the older layout they are in a file with the weights under ZeRO 3.
    """
    if name.startswith(f"{OPTIMIZER}/"):
        return False
    is_whole = (checkpoint / OLD_PART / FULL_STATES).is_file()
    return not (is_whole and name.startswith(f"{OLD_PART}/") and name != f"{OLD_PART}/{FULL_STATES}")


def open_weights(checkpoint: Path, dtype: torch.dtype) -> list[Weight]:
    """Return every parameter and persistent buffer, tied ones once; memory is used only while one is loaded.

    `dtype` is the run's; the older layout of ZeRO 3 has no other trace of it. Raises ExportError.
    """
    if not is_old_layout(checkpoint):
        return _from_shards(checkpoint)
    folder = checkpoint / OLD_PART
    if (folder / FULL_STATES).is_file():
        return _from_module(_load(folder / FULL_STATES))
    if (folder / RANK_STATES).is_file():
        return _from_partitions(checkpoint, _load(folder / RANK_STATES), dtype)
    raise ExportError(f"{folder} holds neither {FULL_STATES} nor {RANK_STATES}: no checkpoint of a trainer")


def _from_shards(checkpoint: Path) -> list[Weight]:
    """The master weights, in the dtype that was trained: bit for bit what the trainer had."""
    try:
        tensors, stored = TrainerFacts.load(checkpoint).tensors, StoredTensors(checkpoint / WEIGHTS)
    except ShardsError as error:
        raise ExportError(str(error)) from error

    def load(name: str) -> Tensor:
        try:
            return stored.load(name).to(getattr(torch, tensors[name].dtype)).view(tensors[name].shape)
        except (ShardsError, OSError, RuntimeError) as error:
            raise ExportError(f"{name} cannot be read: {first_line(error)}") from error

    return [Weight(name, each.shape, getattr(torch, each.dtype), partial(load, name)) for name, each in tensors.items()]


def _load(path: Path) -> dict[str, object]:
    try:
        found: dict[str, object] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise ExportError(f"{path} cannot be read: {first_line(error)}") from error
    return found


def _module(states: dict[str, object]) -> dict[str, Tensor]:
    module = states.get("module")
    if not isinstance(module, dict):
        raise ExportError("a file of model states holds no module")
    return {name.removeprefix(POLICY_PREFIX): value for name, value in module.items() if isinstance(value, Tensor)}


def _from_module(states: dict[str, object]) -> list[Weight]:
    found: dict[tuple[int, int, tuple[int, ...]], Weight] = {}
    for name, value in _module(states).items():
        key = (value.untyped_storage().data_ptr(), int(value.storage_offset()), tuple(value.shape))
        found.setdefault(key, Weight(name, tuple(value.shape), value.dtype, lambda value=value: value))  # type: ignore[misc]
    return list(found.values())


def _from_partitions(checkpoint: Path, states: dict[str, object], dtype: torch.dtype) -> list[Weight]:
    """The parameters lie in pieces with every rank; DeepSpeed's own reader joins one when it is asked for."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            joined = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), tag=OLD_PART, lazy_mode=True)
    except (OSError, RuntimeError, ValueError, KeyError, AttributeError) as error:  # missing ranks, other versions
        raise ExportError(f"{checkpoint / OLD_PART} cannot be read: {first_line(error)}") from error
    names = states.get("buffer_names")
    kept = {str(name) for name in names} if isinstance(names, list) else set()
    buffers = {name: value for name, value in _module(states).items() if POLICY_PREFIX + name in kept}
    found: dict[int, Weight] = {}
    for full, piece in joined.items():
        name = full.removeprefix(POLICY_PREFIX)
        if name not in buffers:
            weight = Weight(name, tuple(piece.shape), dtype, lambda piece=piece: piece.contiguous().to(dtype))  # type: ignore[misc]
            found.setdefault(id(piece), weight)
    return [
        *found.values(),
        *(Weight(name, tuple(v.shape), v.dtype, lambda v=v: v) for name, v in buffers.items()),  # type: ignore[misc]
    ]
