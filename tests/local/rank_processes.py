"""Ranks of a trainer in processes of their own, which are forked from one that has imported DeepSpeed."""

import multiprocessing
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RANKS = multiprocessing.get_context("forkserver")
RANKS.set_forkserver_preload(
    ["trainer_rank", "sequence_ranks", "deepspeed", "deepspeed.runtime.zero.muon.muon_optimizer"]
)

# Settings of `trainer.deepspeed` and `trainer.offload`.
NONE_STAYS = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
OPTIMIZER, BOTH = {"optimizer": "cpu"}, {"optimizer": "cpu", "parameters": "cpu"}


def run_ranks(target: Callable[..., Any], case: Path, outputs: Sequence[Path], *, seconds: float) -> None:
    """Run `target(case, rank, port, output)` for each output, each in a process, to its end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [RANKS.Process(target=target, args=(case, rank, port, output)) for rank, output in enumerate(outputs)]
    for process in ranks:
        process.start()
    for process, output in zip(ranks, outputs, strict=True):
        process.join(seconds)
        assert process.exitcode == 0, output.read_text()[-3000:]
