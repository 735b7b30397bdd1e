"""Loads what the checks look at: a model's configuration and its tokenizer. I/O."""

import json
from pathlib import Path
from typing import Any

from scalerl_api import Fault, InvalidRun, RLRun
from scalerl_runtime.models.checks import Candidate
from scalerl_runtime.models.packing_probe import PackedForward
from scalerl_runtime.models.source import FIELD, load_generation_eos, load_tokenizer, loading


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


def load_config(folder: Path, source: str) -> Any:
    """Return the configuration in `folder`; code that comes with a model is not run."""
    from transformers import CONFIG_MAPPING, AutoConfig

    with loading(source, "the configuration"):
        written = json.loads((folder / "config.json").read_bytes())
    kind = written.get("model_type")
    if written.get("auto_map") and kind not in CONFIG_MAPPING:
        found = f"{source}: model_type {kind!r} needs the model's own code (auto_map), which is not run"
        raise InvalidRun([Fault(FIELD, found, "an architecture that transformers itself has")])
    with loading(source, "the configuration"):
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
