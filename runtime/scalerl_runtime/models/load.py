"""Loads what the checks look at: a model's configuration and its tokenizer. I/O."""

from pathlib import Path
from typing import Any

from scalerl_api import RLRun
from scalerl_runtime.models.checks import Candidate
from scalerl_runtime.models.source import load_generation_eos, load_tokenizer, loading


def load_candidate(run: RLRun, source: str, folder: Path) -> Candidate:
    """Load configuration and tokenizer from `folder`, which is where `source` was found.

    Raises InvalidRun if one cannot be read, ModelUnavailable where a later start may succeed.
    """
    return Candidate(
        run=run,
        recipe=run.spec.resolved_recipe(),
        source=source,
        config=load_config(folder, source),
        tokenizer=load_tokenizer(folder, source),
        generation_eos=load_generation_eos(folder),
    )


def load_config(folder: Path, source: str) -> Any:
    """Return the configuration in `folder`; code that comes with a model is not run."""
    from transformers import AutoConfig

    with loading(source, "the configuration"):
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
