"""The part of a model that is not its weights: config, tokenizer, spec. Every checkpoint has it. I/O."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalerl_runtime.export.convert import SPEC_FILE, STOP_TOKENS_FILE
from scalerl_runtime.storage.checkpoint import MODEL_FILES


def save_config(model: Any, checkpoint: Path, dtype: str) -> None:
    """Write config and generation config of the trained model into a checkpoint.

    As text, not by `save_pretrained`: that refuses generation configs which published models have.
    """
    folder = checkpoint / MODEL_FILES
    folder.mkdir(parents=True, exist_ok=True)
    config = {**model.config.to_diff_dict(), "architectures": [type(model).__name__], "dtype": dtype}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True, default=str))
    if model.generation_config is not None:
        (folder / "generation_config.json").write_text(model.generation_config.to_json_string(use_diff=True))


def save_model_files(folder: Path, tokenizer: Any, spec: str, stop_tokens: Sequence[int]) -> None:
    """Write tokenizer with chat template, the run's spec and its stop tokens' ids; `folder` is replaced as a whole."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    tokenizer.save_pretrained(part)
    (part / SPEC_FILE).write_text(spec)
    if stop_tokens:
        (part / STOP_TOKENS_FILE).write_text(json.dumps(list(stop_tokens)))
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
