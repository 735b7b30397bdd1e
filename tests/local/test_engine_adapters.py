"""A real vLLM engine on the CPU gets adapters: the trainer's log-probabilities after each update."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from scalerl_api import InvalidRun
from scalerl_api.rlrun import LoraSpec, ScratchModel
from scalerl_runtime.actors.generator import EngineOptions, Generator, WeightUpdate
from scalerl_runtime.actors.varlen_attention import ATTENTION_NAME, forward_hidden, register_attention
from scalerl_runtime.actors.weight_copies import AdapterCopies
from scalerl_runtime.algorithm.head import linear_logprob
from scalerl_runtime.data.scratch_model import make_scratch_model
from scalerl_runtime.models.adapters import add_adapters
from scalerl_runtime.types import EngineOutput, SamplingRequest
from scalerl_runtime.weights.buckets import WeightBucket, bucket_checksums
from scalerl_runtime.weights.shared_memory import SharedMemory

LORA = LoraSpec(rank=6, alpha=9.0)  # neither of vLLM's ranks, nor a scale that is a power of two
PROMPT = np.arange(5, 25, dtype=np.int32)
REQUESTS = [SamplingRequest(max_tokens=40, temperature=1.0, seed=seed, ignore_ends=True) for seed in range(4)]


def trainer_logps(model: Any, output: EngineOutput) -> np.ndarray:
    targets = torch.from_numpy(output.tokens.astype(np.int64))
    tokens = torch.cat([torch.from_numpy(PROMPT.astype(np.int64)), targets])
    with torch.no_grad():
        hidden = forward_hidden(model, tokens, torch.arange(len(tokens)), torch.tensor([0, len(tokens)]))
        before = hidden[len(PROMPT) - 1 : -1]
        logp, _ = linear_logprob(before, model.lm_head.weight, targets, precision="fp32", chunk=64)
    return logp.numpy()


async def push(generator: Generator, copies: AdapterCopies, version: int, buckets: Sequence[WeightBucket]) -> None:
    memory = SharedMemory(sum(bucket.num_bytes for bucket in buckets))
    flats = memory.split([bucket.num_bytes for bucket in buckets])
    copies.copy(lambda _parameters: nullcontext(), flats)
    update = WeightUpdate(version, tuple(buckets), tuple(bucket_checksums(buckets, flats)), "keep", 60.0)
    await generator.begin_receive(update.buckets, memory.handle)
    await generator.load_received(update)
    for flat in flats:
        flat.fill_(255)  # the next update overwrites this memory; the engine has its own copy
    memory.close()


async def follow(folder: Path) -> None:
    register_attention()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=ATTENTION_NAME)
    adapters = add_adapters(model, LORA, seed=0)
    copies = AdapterCopies(model, adapters)
    options = EngineOptions(
        model=str(folder), dtype="float32", head="fp32", context_tokens=160, max_sequences=8, tensor_parallel=0,
        gpu_memory_share=0.5, kv_cache_megabytes=32, temperature=1.0, phrase=None, seed=0, lora=LORA,
    )  # fmt: skip
    generator = Generator(options)
    await generator.start()
    try:
        for version in range(4):
            if version:
                with torch.no_grad():
                    for parameter in adapters.values():
                        parameter.add_(torch.randn(parameter.shape) * 0.1)
            await push(generator, copies, version, copies.plan())
            outputs = await generator.sample(PROMPT, REQUESTS)
            assert {int(each) for output in outputs for each in output.versions} == {version}
            differences = [np.abs(trainer_logps(model, output) - output.logps) for output in outputs]
            assert np.concatenate(differences).mean() < 1e-6
        with torch.no_grad():
            for parameter in adapters.values():
                parameter.zero_()
        assert np.abs(trainer_logps(model, outputs[0]) - outputs[0].logps).mean() > 1e-2, "the adapters must matter"
        odd = [
            replace(bucket, entries=tuple(replace(e, name=e.name.replace("q_proj", "other")) for e in bucket.entries))
            for bucket in copies.buckets
        ]
        with pytest.raises(InvalidRun, match="have no layer in the engine"):
            await push(generator, copies, 4, odd)
    finally:
        await generator.stop()


def test_an_engine_follows_the_adapters_of_the_trainer(tmp_path: Path) -> None:
    make_scratch_model(tmp_path / "m", ScratchModel(hidden_size=64, layers=2), context_tokens=160, seed=3)
    asyncio.run(follow(tmp_path / "m"))
