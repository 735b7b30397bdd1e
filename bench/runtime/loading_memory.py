"""Host memory that a trainer rank needs to load a model, beside the pages of its files.

`python bench/runtime/loading_memory.py` makes a bf16 model and loads it in a process for each way: whole on the host,
as transformers does; and a tensor at a time, each leaving the host at once, as it does for a device or for ZeRO-3's
shares. Weights of the file's own type are the file's pages, which the ranks of a node share; of another type, copies.
"""

import argparse
import multiprocessing
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from scalerl_runtime.actors.sharded_loading import load_model

WAYS = ("whole on the host", "a tensor at a time")
DTYPES = {"as the file's, bf16": torch.bfloat16, "float32": torch.float32}
SHAPE = {
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "vocab_size": 32_000,
    "tie_word_embeddings": False,
}


def make_model(folder: Path, layers: int) -> float:
    """Write a Qwen3 of zeros in files of 50 MB; return its size in MB."""
    config = AutoConfig.for_model("qwen3", num_hidden_layers=layers, **SHAPE)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)
    model.save_pretrained(folder, max_shard_size="50MB")
    return float(sum(each.numel() * each.element_size() for each in model.parameters())) / 1e6


def measure(folder: Path, way: str, dtype: str, results: Any) -> None:
    """Put the largest growth of the process's own memory (MB) into `results`; pages of files are not counted."""
    load_model(folder, "warm-up", DTYPES[dtype], _leave)  # what is imported on the way
    before, most, done = _own_megabytes(), [0.0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            most[0] = max(most[0], _own_megabytes())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    kept = load_model(folder, "model", DTYPES[dtype], _stay if way == WAYS[0] else _leave)
    done.set()
    watcher.join()
    del kept
    results.put(most[0] - before)


def _leave(parameter: nn.Parameter) -> None:
    parameter.data = parameter.data.new_empty(0)


def _stay(_parameter: nn.Parameter) -> None:
    """Leave it on the host, as a trainer on the CPU does."""


def _own_megabytes() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1e3
    raise RuntimeError("/proc/self/status has no RssAnon")


def main(arguments: list[str] | None = None) -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--layers", type=int, default=16)
    options = parser.parse_args(arguments)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        size = make_model(Path(name), options.layers)
        print(f"| a bf16 model of {size:.0f} MB | type | MB of the process |\n|---|---|---|")
        for way in WAYS:
            for dtype in DTYPES:
                results = context.Queue()
                process = context.Process(target=measure, args=(Path(name), way, dtype, results))
                process.start()
                print(f"| {way} | {dtype} | {results.get():.0f} |")
                process.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
