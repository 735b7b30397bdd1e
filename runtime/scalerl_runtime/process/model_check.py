"""Checks a run's model with the trainer's own forward, before data, Ray and engines. I/O."""

from pathlib import Path

from scalerl_api import RLRun
from scalerl_runtime.actors.options import context_tokens
from scalerl_runtime.actors.sequence.thread_group import hidden_in_parts
from scalerl_runtime.actors.varlen_attention import ATTENTION_NAME, forward_hidden, register_attention
from scalerl_runtime.data.scratch_model import make_scratch_model
from scalerl_runtime.models.checks import Candidate, require_model
from scalerl_runtime.models.load import load_candidate
from scalerl_runtime.models.packing_probe import PackedForward


def check_model(run: RLRun, folder: Path) -> Candidate:
    """Return the run's model, found in `folder`, if trainer and engine can represent it.

    Raises InvalidRun with every fault, ModelUnavailable.
    """
    register_attention()
    candidate = load_candidate(run, folder, PackedForward(ATTENTION_NAME, forward_hidden, hidden_in_parts))
    require_model(candidate)
    return candidate


def make_start_model(run: RLRun, folder: Path) -> None:
    """Write the model of a run whose source is `scratch` into `folder`, which is missing or empty."""
    sizes, recipe = run.spec.model.scratch, run.spec.resolved_recipe()
    assert sizes is not None, "validation requires its sizes"
    tokens, tags = context_tokens(recipe), recipe.length.think_tags
    make_scratch_model(folder, sizes, context_tokens=tokens, seed=run.spec.seed, tags=tags)
