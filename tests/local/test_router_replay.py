"""A real CPU engine of a tiny mixture of experts returns the experts that it chose, and the trainer replays them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny_models import save_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from scalerl_operator.cli.commands import CliDeps
from scalerl_operator.cli.main import main
from scalerl_runtime.actors.generator import EngineOptions, Generator
from scalerl_runtime.actors.policy import Policy
from scalerl_runtime.actors.start_check import make_checked_policy
from scalerl_runtime.algorithm.microbatch import MicroBatch
from scalerl_runtime.algorithm.self_check import build_rows
from scalerl_runtime.data.scratch_model import build_tokenizer
from scalerl_runtime.models.router_replay import RouterReplay
from scalerl_runtime.types import EngineOutput, Ints, Prompt, SamplingRequest

TOKENS = 12
PROMPTS = (150, 150, 5)  # tokens; the engine's blocks have 128, so most of the second prompt is in its cache


@dataclass(frozen=True)
class Sampled:
    folder: Path
    prompts: list[Prompt]
    outputs: list[EngineOutput]


async def sample(options: EngineOptions) -> tuple[list[Ints], list[EngineOutput]]:
    generator = Generator(options)
    await generator.start()
    try:
        prompts = [np.arange(8, 8 + size, dtype=np.int32) % 120 + 4 for size in PROMPTS]
        requests = [SamplingRequest(TOKENS, 1.0, seed=seed, ignore_ends=True) for seed in range(3)]
        outputs = [await generator.sample(prompt, requests) for prompt in prompts]
    finally:
        await generator.stop()
    return [p for p in prompts for _ in requests], [each for part in outputs for each in part]


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Sampled:
    folder = tmp_path_factory.mktemp("moe")
    save_model(folder, "qwen3_moe")
    options = EngineOptions(
        model=str(folder),
        dtype="float32",
        head="fp32",
        context_tokens=192,
        max_sequences=4,
        tensor_parallel=0,
        gpu_memory_share=0.5,
        kv_cache_megabytes=32,
        temperature=1.0,
        phrase=None,
        seed=0,
        router_replay=True,
    )
    prompts, outputs = asyncio.run(sample(options))
    return Sampled(folder, [Prompt(i, "", tokens, "") for i, tokens in enumerate(prompts)], outputs)


def logprobs(policy: Policy, row: MicroBatch, *, replayed: bool) -> Tensor:
    names = ("tokens", "positions", "cu_seqlens", "select", "targets", "experts")[: 6 if replayed else 5]
    with torch.no_grad():
        logp, _ = policy(*(torch.from_numpy(getattr(row, name)) for name in names))
    return logp


def test_engine_returns_experts_of_every_token_also_of_a_cached_prefix(sampled: Sampled) -> None:
    for prompt, output in zip(sampled.prompts, sampled.outputs, strict=True):
        assert output.experts is not None
        assert output.experts.shape == (len(prompt.tokens) + TOKENS - 1, 2, 2)
        assert output.experts.dtype == np.uint8


def test_experts_are_those_of_the_trainers_own_router_in_float32(sampled: Sampled) -> None:
    """And with a router that is not the engine's, replay makes the mismatch smaller."""
    model = AutoModelForCausalLM.from_pretrained(sampled.folder, dtype=torch.float32)
    policy = make_checked_policy(model, precision="fp32", temperature=1.0)
    policy.replay = RouterReplay(policy.model)
    rows, _ = build_rows(sampled.prompts, sampled.outputs, budget=512)
    inputs: dict[int, Tensor] = {}
    for layer in policy.replay.layers:

        def keep(_module: object, args: tuple[Tensor, ...], number: int = layer.number) -> None:
            inputs[number] = args[1]

        layer.experts.register_forward_pre_hook(keep)
    for row in rows:
        own = logprobs(policy, row, replayed=False)
        chosen = torch.stack([inputs[number] for number in sorted(inputs)], dim=1).sort(-1).values
        recorded = torch.from_numpy(row.experts).sort(-1).values
        has_some = recorded[:, 0, 0] >= 0
        assert int((~has_some).sum()) == len(row.cu_seqlens) - 1
        assert torch.equal(chosen[has_some], recorded[has_some].long())
        engine = torch.from_numpy(row.logp_gen)
        assert float((own - engine).abs().max()) < 1e-4
        assert float((logprobs(policy, row, replayed=True) - engine).abs().max()) < 1e-4
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in policy.replay.layers:
            weight = layer.block.gate.weight
            weight.add_(0.1 * weight.std() * torch.randn(weight.shape, generator=generator))
    engine = torch.cat([torch.from_numpy(row.logp_gen) for row in rows])
    without, replayed = (
        float((torch.cat([logprobs(policy, row, replayed=on) for row in rows]) - engine).abs().mean())
        for on in (False, True)
    )
    assert replayed < 0.75 * without


@pytest.mark.timeout(900)
def test_a_run_replays_at_every_lag(
    tmp_path: Path, write_run: Callable[[dict[str, Any]], Path], lines: Callable[[Path], list[dict[str, Any]]]
) -> None:
    """Its self-checks pass, it trains on tokens of older versions too, and a checkpoint has its groups' experts."""
    save_model(tmp_path / "moe", "qwen3_moe", tokenizer=build_tokenizer(64))
    recipe = {"routerReplay": True, "length": {"control": "none"}}
    changes = {
        "model": {"source": str(tmp_path / "moe"), "scratch": None},
        "recipe": recipe,
        "budget": {"steps": 4},
        "data": {"heldOut": {"prompts": 1, "samplesPerPrompt": 1}},
    }
    document = yaml.safe_load(write_run({"spec": changes}).read_text())
    del document["spec"]["warmStart"]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    folder = tmp_path / "run"
    assert main(["run", str(tmp_path / "run.yaml"), "--folder", str(folder)], deps=CliDeps(poll_seconds=0.2)) == 0
    steps = lines(folder / "metrics.jsonl")
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    (newest, *_) = sorted(folder.glob("checkpoints/step-*/buffer.npz"), reverse=True)
    with np.load(newest) as buffer:
        assert len(buffer["group"]) == 0 or buffer["experts"].shape[1:] == (2, 2)
