"""Time for which training waits for a checkpoint: two checkouts in turns, on two ranks. I/O.

`python bench/runtime/checkpoint_pause.py BEFORE AFTER [--pairs N]`

BEFORE, AFTER: folders of checkouts; both use this interpreter's packages. A model of 134 million parameters in float32
is trained under ZeRO 2 on CPU ranks; each checkpoint goes to the same disk and is sealed with digests and fsync.
Columns: the pause; from its beginning until the checkpoint is sealed; a step alone, and one beside the writing.
"""

import argparse
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

RUN_SECONDS = 1500.0  # a run of a checkout that takes longer is killed
RANKS = 2
ROUNDS = 2  # checkpoints of a trainer; the first one also takes the memory for the copy
SHAPE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "head_dim": 64,
    "intermediate_size": 2048,
    "vocab_size": 32_000,
    "tie_word_embeddings": False,
}


def make_model(folder: Path) -> None:
    """Write a Qwen3 with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **SHAPE), dtype=torch.float32)
    model.save_pretrained(folder)


def start_rank(model: Path, rank: int, port: int) -> Any:
    """The trainer of the checkout that is on the path."""
    from scalerl_api.recipe import Loss, Optimizer
    from scalerl_runtime.actors.trainer import Trainer, TrainerOptions

    options = TrainerOptions(
        model=str(model),
        dtype="float32",
        head="fp32",
        zero_stage=2,
        optimizer=Optimizer(),
        loss=Loss(),
        temperature=1.0,
        seed=0,
        device="cpu",
    )
    trainer = Trainer(options, rank, RANKS)
    trainer.start("127.0.0.1", port)
    return trainer


def train(trainer: Any, version: int) -> float:
    """Make a step on one short row; return its seconds."""
    from scalerl_runtime.algorithm.microbatch import TrainSequence, build_micro_batch

    tokens = np.arange(64, dtype=np.int32)
    sequence = TrainSequence(
        tokens=tokens,
        trained=tokens >= 4,
        logp_gen=np.full(64, -9.0, dtype=np.float32),
        advantage=1.0,
        weight=1.0 / 120,
        lag=np.zeros(64, dtype=np.int32),
    )
    began = time.monotonic()
    trainer.train([build_micro_batch([sequence])], learning_rate=1e-6, kl_coefficient=0.0, version=version)
    return time.monotonic() - began


def save_before(trainer: Any, store: Any, part: Path, number: int, barrier: Any) -> dict[str, float]:
    """Save as the checkout does whose trainer writes while all wait."""
    from scalerl_runtime.storage.checkpoint import RunState

    began = time.monotonic()
    trainer.save(part)
    barrier.wait()
    if trainer.rank == 0:
        store.commit(part, RunState(number, 0, 0.0), [], frozenset())
    barrier.wait()
    paused = time.monotonic() - began
    return {"pause": paused, "sealed": paused}


def save_after(trainer: Any, store: Any, part: Path, number: int, barrier: Any, parts: Any) -> dict[str, float]:
    """Save as the checkout does that writes beside training."""
    from scalerl_runtime.storage.checkpoint import RunState

    began = time.monotonic()
    trainer.copy_state()
    barrier.wait()
    paused = time.monotonic() - began
    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(trainer.write_copy, part)
        beside = train(trainer, 2 * number)
        own = writing.result()
    if trainer.rank:
        parts.put(own)
    else:
        store.commit(part, [own, *(parts.get() for _ in range(RANKS - 1))], RunState(number, 0, 0.0), [], frozenset())
    return {"pause": paused, "sealed": time.monotonic() - began, "step beside": beside}


def work(folder: Path, rank: int, port: int, barrier: Any, parts: Any) -> None:
    """Be a rank; rank 0 prints the numbers of each checkpoint."""
    from scalerl_runtime.storage.checkpoint import CheckpointStore

    trainer, store = start_rank(folder / "model", rank, port), CheckpointStore(folder / "checkpoints", 2)
    train(trainer, 1)
    for number in range(1, ROUNDS + 1):
        if rank == 0:
            store.begin(number)
        barrier.wait()
        part = folder / "checkpoints" / f"step-{number:08d}.part"
        if hasattr(trainer, "copy_state"):
            found = save_after(trainer, store, part, number, barrier, parts)
        else:
            found = save_before(trainer, store, part, number, barrier)
        barrier.wait()
        found["step alone"] = train(trainer, 2 * number + 1)
        if rank == 0:
            with (folder / "numbers.jsonl").open("a") as file:
                file.write(json.dumps(found) + "\n")


def run_ranks(folder: Path) -> None:
    """Run the ranks with the checkout on the path."""
    context = multiprocessing.get_context("spawn")
    barrier, parts = context.Barrier(RANKS), context.Queue()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [context.Process(target=work, args=(folder, rank, port, barrier, parts)) for rank in range(RANKS)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)


def measure(checkout: Path, model: Path) -> list[dict[str, float]]:
    """Return the numbers of the checkpoints of one trainer of a checkout."""
    with tempfile.TemporaryDirectory(dir=model.parent) as name:
        folder = Path(name)
        (folder / "model").symlink_to(model)
        roots = os.pathsep.join(str(checkout / each) for each in ("crds", "operator", "runtime"))
        command = [sys.executable, __file__, "--ranks-in", name]
        environment = {**os.environ, "PYTHONPATH": roots}
        subprocess.run(command, env=environment, check=True, timeout=RUN_SECONDS, stdout=subprocess.DEVNULL)
        return [json.loads(line) for line in (folder / "numbers.jsonl").read_text().splitlines()]


def main() -> None:
    """Do the runs and print their numbers as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, nargs="?")
    parser.add_argument("after", type=Path, nargs="?")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--ranks-in", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ranks_in is not None:
        run_ranks(options.ranks_in)
        return
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model"
        make_model(model)
        for pair in range(options.pairs):
            for which, checkout in (("before", options.before), ("after", options.after)):
                for number, found in enumerate(measure(checkout.resolve(), model), start=1):
                    numbers = ", ".join(f"{key} {value:.2f} s" for key, value in found.items())
                    print(f"pair {pair + 1}, {which}, checkpoint {number}: {numbers}", flush=True)


if __name__ == "__main__":
    main()
