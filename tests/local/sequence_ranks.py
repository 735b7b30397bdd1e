"""Ranks that train several cases by one start, in whole rows and in parts: see `train_cases`."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from scalerl_api.recipe import Loss, Optimizer
from scalerl_api.rlrun import LoraSpec
from scalerl_runtime.actors.trainer import Trainer, TrainerOptions
from scalerl_runtime.algorithm.microbatch import MicroBatch, TrainSequence, build_micro_batch

sys.path.insert(0, str(Path(__file__).parents[2] / "bench/runtime"))
from trainer_ranks import staged_weights  # noqa: E402

STEPS = 2


def make_sequences(lengths: Sequence[int], seed: int, experts: Sequence[int] = ()) -> list[TrainSequence]:
    """Random sequences whose first half is the prompt; `experts` are layers, number and chosen ones to replay."""
    rng = np.random.default_rng(seed)
    return [_make_sequence(rng, length, 1.0 / sum(lengths), experts) for length in lengths]


def _make_sequence(rng: np.random.Generator, length: int, weight: float, experts: Sequence[int]) -> TrainSequence:
    replayed = None
    if experts:
        layers, number, chosen = experts
        drawn = [rng.permutation(number)[:chosen] for _ in range((length - 1) * layers)]
        replayed = np.array(drawn, np.int16).reshape(length - 1, layers, chosen)
    return TrainSequence(
        tokens=rng.integers(8, 120, size=length).astype(np.int32),
        trained=np.arange(length) >= max(1, length // 2),
        logp_gen=np.full(length, -4.8, dtype=np.float32),
        advantage=float(rng.normal()),
        weight=weight,
        lag=np.zeros(length, dtype=np.int32),
        experts=replayed,
    )


def plan_rows(case: dict[str, Any], shares: int, seed: int) -> list[list[MicroBatch]]:
    """The case's rows, each of sequences of the given lengths, dealt to `shares` ranks or groups in turn."""
    rows = [
        build_micro_batch(make_sequences(lengths, seed * 100 + index, case.get("experts", ())))
        for index, lengths in enumerate(case["rows"])
    ]
    return [rows[share::shares] for share in range(shares)]


def start(case: dict[str, Any], rank: int, port: int, ranks: int) -> Trainer:
    """A trainer on the gang that is there, or with it."""
    options = TrainerOptions(
        model=case["model"],
        dtype="float32",
        head="fp32",
        zero_stage=case["stage"],
        optimizer=Optimizer(learning_rate=1e-3, warmup_steps=0, epsilon=1e-5),
        loss=Loss(**case.get("loss", {})),
        temperature=1.0,
        seed=0,
        device="cpu",
        sequence_parallel=case["parts"],
        router_replay="experts" in case,
        activations=case.get("activations", "checkpoint"),
        lora=LoraSpec(**case["lora"]) if "lora" in case else None,
        deepspeed={"zero_optimization": {"stage3_param_persistence_threshold": 0}},
    )
    trainer = Trainer(options, rank, ranks)
    trainer.start("127.0.0.1", port)
    return trainer


def train(case: dict[str, Any], rank: int, port: int, ranks: int) -> dict[str, Any]:
    """By step the norm, stats, tokens and log-probabilities by row, of the rank's rows; on rank 0 the weights after."""
    trainer = start(case, rank, port, ranks)
    own = rank // case["parts"]
    steps = []
    for step in range(STEPS):
        rows = plan_rows(case, ranks // case["parts"], step)[own]
        before = [trainer.logprobs([row], step) for row in rows]
        result = trainer.train(rows, learning_rate=1e-3, kl_coefficient=0.1, version=step + 1)
        steps.append({"norm": result.grad_norm, "stats": result.stats, "tokens": result.tokens, "before": before})
    return {"steps": steps, "weights": staged_weights(trainer)}


def train_cases(path: Path, rank: int, port: int, output: Path) -> None:
    """Train every case of the file, and leave what `train` returns by the case's name."""
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    given = json.loads(path.read_text())
    found = {}
    for name, case in given["cases"].items():
        found[name] = train(case, rank, port, given["ranks"])
        distributed.barrier()
    torch.save(found, path.with_suffix(f".{rank}.pt"))
