"""Memory that `scalerl plan` foresees for a trainer rank, against counted allocations of the real one on the CPU.

`python bench/runtime/plan_memory.py` trains tiny models with the product's own Trainer and counts the bytes of
all live tensors in its second step: weights, optimizer, the copy for the generators, and the peak of everything.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from live_memory import LiveMemory, storage_bytes
from trainer_ranks import start_alone
from transformers import AutoConfig, AutoModelForCausalLM

from scalerl_api import RLRun, parse_run
from scalerl_api.recipe import Loss, Optimizer
from scalerl_operator.capacity.memory import RankMemory, trainer_memory
from scalerl_operator.capacity.model_shape import parse_model
from scalerl_runtime.actors.trainer import Trainer, TrainerOptions
from scalerl_runtime.algorithm.microbatch import MicroBatch, TrainSequence, build_micro_batch

TOKENS = 512  # of a micro-batch
SEQUENCES = 4
STEPS = 2
BUCKET = 1_000_000  # numbers; DeepSpeed's default would be larger than these models
CASES = "bfloat16/checkpoint/1,float32/keep/1,bfloat16/checkpoint/1/8,float32/keep/1/8"
MODELS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "dense, tied, grouped": ("qwen3", {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 768, "vocab_size": 4096,
        "tie_word_embeddings": True}),
    "dense, untied": ("llama", {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4,
        "num_key_value_heads": 4, "intermediate_size": 1024, "vocab_size": 8192, "tie_word_embeddings": False}),
    "large vocabulary": ("gemma2", {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 512, "vocab_size": 32_768,
        "query_pre_attn_scalar": 32}),
    "experts": ("qwen3_moe", {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 32, "moe_intermediate_size": 128, "num_experts": 16,
        "num_experts_per_tok": 4, "vocab_size": 4096, "tie_word_embeddings": False}),
    "layer norms, biases": ("gpt_neox", {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4,
        "intermediate_size": 1024, "vocab_size": 4096, "tie_word_embeddings": False}),
}  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Bytes of one case."""

    model: str
    family: str
    dtype: str
    activations: str
    stage: int
    rank: int | None
    """Of adapters; None: the whole model is trained."""
    measured: dict[str, int]
    planned: dict[str, float]
    planned_moments: str

    @property
    def error(self) -> float:
        """Relative, of the peak."""
        return self.planned["peak"] / self.measured["peak"] - 1.0


def compare(model: str, dtype: str, activations: str, stage: int, rank: int | None = None) -> Comparison:
    """Train one model and return what was counted and what was planned."""
    family, settings = MODELS[model]
    config = AutoConfig.for_model(family, **settings)
    run = make_run(dtype, activations, stage, rank)
    planned = trainer_memory(parse_model(json.loads(config.to_json_string()), model), run, is_first=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(folder)
        measured = measure(folder, run, settings["vocab_size"])
    return Comparison(model, family, dtype, activations, stage, rank, measured, _planned_bytes(planned), planned.moment)


def _planned_bytes(planned: RankMemory) -> dict[str, float]:
    parts = {part.name: part.num_bytes for part in planned.parts}
    names = ("weights", "optimizer", "copy for the generators")
    return {**{name: parts[name] for name in names}, "peak": planned.total}


def make_run(dtype: str, activations: str, stage: int, rank: int | None) -> RLRun:
    """Return an RLRun whose trainer is one rank on the CPU."""
    lora = {} if rank is None else {"lora": {"rank": rank}}
    return parse_run(
        {
            "apiVersion": "scalerl.io/v1alpha1",
            "kind": "RLRun",
            "metadata": {"name": "counted"},
            "spec": {
                "model": {"source": "counted/model", "dtype": dtype, **lora},
                "data": {"train": {"source": "counted.jsonl"}, "heldOut": {"prompts": 1}},
                "reward": {"verifier": "math"},
                "budget": {"steps": 1000},
                "recipe": {
                    "length": {"promptTokens": 16, "thinkTokens": 64, "answerTokens": 48,
                               "interruptMin": 8, "interruptMax": 16},
                },
                "trainer": {
                    "gpusPerReplica": 0, "zeroStage": stage, "microBatchTokens": TOKENS, "activations": activations,
                    "deepspeed": {"zero_optimization": {"reduce_bucket_size": BUCKET}},
                },
                "generator": {"gpusPerReplica": 0},
            },
        }
    )  # fmt: skip


def measure(folder: Path, run: RLRun, vocabulary: int) -> dict[str, int]:
    """Return the counted bytes of a step of the trainer, by what holds them."""
    trainer = _start(folder, run)
    batches = _make_batches(vocabulary)
    trainer.train(batches, learning_rate=1e-6, kl_coefficient=0.0, version=1)
    trainer.stage_weights(reuse=False)
    counted = LiveMemory()
    counted.watch_all()
    engine, optimizer = trainer._engine, trainer._optimizer
    states = [v for state in optimizer.optimizer.state.values() for v in state.values() if torch.is_tensor(v)]
    masters = getattr(optimizer, "single_partition_of_fp32_groups", None) or optimizer.fp32_partitioned_groups_flat
    found = {
        "weights": storage_bytes(engine.module.parameters()),
        "optimizer": storage_bytes([*masters, *states]),
        "copy for the generators": storage_bytes(trainer._staged.flats),
    }
    for name in ("forward", "backward", "step"):
        setattr(engine, name, counted.run_in(name, getattr(engine, name)))
    others = counted.now - sum(found.values())
    with counted:
        trainer.train(batches, learning_rate=1e-6, kl_coefficient=0.0, version=2)
    # DeepSpeed leaves tensors of the cases before; a case that is run alone has no others.
    peaks = {name: counted.peaks[name] - others for name in ("forward", "backward", "step")}
    return {**found, "others": others, **peaks, "peak": max(counted.peaks.values()) - others}


def _start(folder: Path, run: RLRun) -> Trainer:
    spec = run.spec
    options = TrainerOptions(
        model=str(folder),
        dtype=spec.model.dtype,
        head="fp32",
        zero_stage=spec.trainer.zero_stage,
        optimizer=Optimizer(),
        loss=Loss(),
        temperature=1.0,
        seed=0,
        device="cpu",
        activations=spec.trainer.activations,
        lora=spec.model.lora,
        deepspeed=spec.trainer.deepspeed,
    )
    return start_alone(options)


def _make_batches(vocabulary: int) -> list[MicroBatch]:
    rng, length = np.random.default_rng(0), TOKENS // SEQUENCES
    sequences = [
        TrainSequence(
            tokens=rng.integers(0, vocabulary, size=length).astype(np.int32),
            trained=np.arange(length) >= 1,
            logp_gen=np.full(length, -8.0, np.float32),
            advantage=1.0,
            weight=1.0 / (STEPS * TOKENS),
            lag=np.zeros(length, np.int32),
        )
        for _ in range(STEPS * SEQUENCES)
    ]
    return [build_micro_batch(sequences[start::STEPS]) for start in range(STEPS)]


def main(arguments: list[str] | None = None) -> int:
    """Print a table, or JSON; the exit code is 1 if a peak is planned more than 10 % wrong."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--json", type=Path, help="write the comparisons into this file")
    parser.add_argument("--model", choices=list(MODELS), action="append", help="only this one; may be repeated")
    parser.add_argument("--cases", default=CASES, help="dtype/activations/stage, and /rank of adapters, with commas")
    options = parser.parse_args(arguments)
    os.environ["DS_ACCELERATOR"] = "cpu"
    cases = [case.split("/") for case in options.cases.split(",")]
    names = options.model or list(MODELS)
    found = [compare(name, *case[:2], *map(int, case[2:])) for name in names for case in cases]
    if options.json:
        options.json.write_text(json.dumps([{**asdict(each), "error": each.error} for each in found]))
    print("| model | type, activations, stage | weights MB | optimizer | copy | peak counted | peak planned | error |")
    print("|---|---|---|---|---|---|---|---|")
    for each in found:
        static = [f"{each.measured[name] / 1e6:.1f}" for name in ("weights", "optimizer", "copy for the generators")]
        peaks = [f"{each.measured['peak'] / 1e6:.1f}", f"{each.planned['peak'] / 1e6:.1f}", f"{each.error:+.1%}"]
        case = f"{each.dtype}, {each.activations}, {each.stage}" + (f", rank {each.rank}" if each.rank else "")
        print(f"| {each.model} ({each.family}) | {case} | {' | '.join([*static, *peaks])} |", flush=True)
    return int(any(abs(each.error) > 0.1 for each in found))


if __name__ == "__main__":
    sys.exit(main())
