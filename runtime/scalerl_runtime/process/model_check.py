"""Checks a run's model with the trainer's own forward, before data, Ray and engines. I/O."""

from pathlib import Path

from scalerl_api import RLRun
from scalerl_runtime.actors.varlen_attention import ATTENTION_NAME, forward_hidden, register_attention
from scalerl_runtime.models.checks import Candidate, require_model
from scalerl_runtime.models.load import load_candidate
from scalerl_runtime.models.packing_probe import PackedForward


def check_model(run: RLRun, folder: Path) -> Candidate:
    """Return the run's model, found in `folder`, if trainer and engine can represent it.

    Raises InvalidRun with every fault, ModelUnavailable.
    """
    register_attention()
    candidate = load_candidate(run, folder, PackedForward(ATTENTION_NAME, forward_hidden))
    require_model(candidate)
    return candidate
