"""Reads the model's tensors out of a DeepSpeed checkpoint, one at a time: ZeRO 1, 2 and 3, any number of ranks. I/O."""

import contextlib
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scalerl_runtime.hub import first_line

TAG = "deepspeed"  # folder inside a checkpoint, as the trainer's `save` names it
FULL_STATES = "mp_rank_00_model_states.pt"  # ZeRO 1 and 2: the whole module, in the dtype that was trained
RANK_STATES = "zero_pp_rank_0_mp_rank_00_model_states.pt"  # ZeRO 3: buffers; the parameters are with the optimizer
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
    """Whether an export reads the file `name` (relative to the checkpoint): the optimizer's only with ZeRO 3."""
    is_whole = (checkpoint / TAG / FULL_STATES).is_file()
    return not (is_whole and name.startswith(f"{TAG}/") and name != f"{TAG}/{FULL_STATES}")


def open_weights(checkpoint: Path, dtype: torch.dtype) -> list[Weight]:
    """Return every parameter and persistent buffer, tied ones once; memory is used only while one is loaded.

    `dtype` is the run's; ZeRO 3 stores its parameters as float32. Raises ExportError.
    """
    folder = checkpoint / TAG
    if (folder / FULL_STATES).is_file():
        return _from_module(_load(folder / FULL_STATES))
    if (folder / RANK_STATES).is_file():
        return _from_partitions(checkpoint, _load(folder / RANK_STATES), dtype)
    raise ExportError(f"{folder} holds neither {FULL_STATES} nor {RANK_STATES}: no checkpoint of a trainer")


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
            joined = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), tag=TAG, lazy_mode=True)
    except (OSError, RuntimeError, ValueError, KeyError, AttributeError) as error:  # missing ranks, other versions
        raise ExportError(f"{checkpoint / TAG} cannot be read: {first_line(error)}") from error
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
