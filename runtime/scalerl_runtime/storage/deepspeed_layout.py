"""The trainer's part of checkpoints that older versions wrote through DeepSpeed. I/O.

They load with as many ranks as wrote them. The next checkpoint has the present layout, which any number reads.
"""

from pathlib import Path
from typing import Any

import torch

from scalerl_api import Fault, InvalidRun

OLD_PART = "deepspeed"  # folder inside a checkpoint, and DeepSpeed's tag
FULL_STATES = "mp_rank_00_model_states.pt"  # ZeRO 1 and 2: the whole module, in the dtype that was trained
RANK_STATES = "zero_pp_rank_0_mp_rank_00_model_states.pt"  # ZeRO 3: buffers; the parameters are with the optimizer
_SHARES = "*_optim_states.pt"


def is_old_layout(checkpoint: Path) -> bool:
    """Whether DeepSpeed wrote the trainer's part."""
    return (checkpoint / OLD_PART).is_dir()


def load_old(checkpoint: Path, engine: Any, *, ranks: int, is_sharded: bool) -> None:
    """Load it into DeepSpeed's engine. Raises InvalidRun as `require_same_ranks`."""
    require_same_ranks(checkpoint, ranks, is_sharded=is_sharded)
    path, client = engine.load_checkpoint(str(checkpoint), tag=OLD_PART)
    if path is None:
        raise RuntimeError(f"DeepSpeed found no checkpoint in {checkpoint}")
    torch.set_rng_state(client["torch_rng"])


def require_same_ranks(checkpoint: Path, ranks: int, *, is_sharded: bool) -> None:
    """Raise InvalidRun unless as many ranks wrote the checkpoint, and with weights in shares or not as now."""
    folder = checkpoint / OLD_PART
    found = len(list(folder.glob(_SHARES)))
    way = f"to continue from {checkpoint.name}, which an older scalerl wrote; the next checkpoint loads anywhere"
    if found != ranks:
        raise InvalidRun([Fault("spec.trainer.replicas", f"{ranks} ranks", f"{found} ranks {way}")])
    was_sharded = not (folder / FULL_STATES).is_file()
    if was_sharded != is_sharded:
        allowed = "3" if was_sharded else "1 or 2"
        raise InvalidRun([Fault("spec.trainer.zeroStage", "3" if is_sharded else "1 or 2", f"{allowed} {way}")])
