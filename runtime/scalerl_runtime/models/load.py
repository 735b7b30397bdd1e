"""Loads what the checks look at: a model's configuration and its tokenizer. I/O."""

from pathlib import Path

from scalerl_api import RLRun
from scalerl_runtime.models.checks import Candidate
from scalerl_runtime.models.packing_probe import PackedForward
from scalerl_runtime.models.source import load_config, load_generation_eos, load_tokenizer


def load_candidate(run: RLRun, folder: Path, forward: PackedForward) -> Candidate:
    """Load configuration and tokenizer from `folder`, where the run's model was found; `forward` is the trainer's.

    Raises InvalidRun if one cannot be read, ModelUnavailable where a later start may succeed.
    """
    source = run.spec.model.source
    return Candidate(
        run=run,
        recipe=run.spec.resolved_recipe(),
        source=source,
        config=load_config(folder, source),
        tokenizer=load_tokenizer(folder, source),
        forward=forward,
        generation_eos=load_generation_eos(folder),
    )
