"""A generator without vLLM, for tests of what happens around it: its actor, its weight transfer and versions are real.

It writes random completions in the form of the small run's. A start takes 3 s, and an engine's a minute.
"""

import asyncio
import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from scalerl_runtime.actors.generator import EngineOptions, WeightUpdate
from scalerl_runtime.types import EngineOutput, Ints, SamplingRequest
from scalerl_runtime.weights.buckets import WeightBucket, broadcast, bucket_checksums, gloo_group
from scalerl_runtime.weights.shared_memory import SharedHandle

TOKEN_SECONDS = 0.002  # completions must be under way when a process is killed


class StandInGenerator:
    """The calls of `scalerl_runtime.actors.generator.Generator` that the fleet makes over gloo."""

    def __init__(self, options: EngineOptions):
        self.version = -1
        self._rng = np.random.default_rng(options.seed)
        tokenizer = json.loads((Path(options.model) / "tokenizer.json").read_text())
        self._words = {id: word for word, id in tokenizer["model"]["vocab"].items()}
        self._words |= {each["id"]: each["content"] for each in tokenizer["added_tokens"]}
        self._ids = {word: id for id, word in self._words.items()}
        self._end = json.loads((Path(options.model) / "config.json").read_text())["eos_token_id"]
        self._thread = ThreadPoolExecutor(1)
        self._incoming: Future[list[int]] | None = None

    async def start(self) -> float:
        return 0.0

    async def probe(self) -> None:
        return None

    async def sample(self, prompt: Ints, requests: list[SamplingRequest]) -> list[EngineOutput]:  # noqa: ARG002 # random ones
        return list(await asyncio.gather(*(self._sample_one(request) for request in requests)))

    async def _sample_one(self, request: SamplingRequest) -> EngineOutput:
        digits = [self._ids[digit] for digit in "0123456789"]
        thinking, answer = (self._rng.choice(digits, size=self._rng.integers(1, 6)).tolist() for _ in range(2))
        tokens = [self._ids["<think>"], *thinking, self._ids["</think>"], *answer, self._end]
        tokens = tokens[: request.max_tokens]
        versions = []
        for _ in tokens:
            versions.append(self.version)
            await asyncio.sleep(TOKEN_SECONDS)
        is_whole = tokens[-1] == self._end
        return EngineOutput(
            tokens=np.array(tokens, dtype=np.int32),
            logps=np.full(len(tokens), -np.log(len(self._words)), dtype=np.float32),
            versions=np.array(versions, dtype=np.int32),
            text="".join(self._words[token] for token in tokens if token != self._end),
            finish="stop" if is_whole else "length",
        )

    async def join_weights(self, address: str, port: int, rank: int, world_size: int, timeout_seconds: float) -> None:
        def join() -> object:
            return gloo_group(address, port, rank=rank, world_size=world_size, timeout_seconds=timeout_seconds)

        self._group = await asyncio.to_thread(join)

    async def can_read(self, shared: SharedHandle) -> bool:  # noqa: ARG002 # its updates are sent
        return False

    async def begin_receive(self, buckets: tuple[WeightBucket, ...], shared: SharedHandle | None = None) -> None:  # noqa: ARG002
        self._incoming = self._thread.submit(self._receive, buckets)

    def _receive(self, buckets: tuple[WeightBucket, ...]) -> list[int]:
        flats = [torch.empty(bucket.num_bytes, dtype=torch.uint8) for bucket in buckets]
        for flat in flats:
            broadcast(self._group, flat)  # type: ignore[arg-type]
        return bucket_checksums(buckets, flats)

    async def load_received(self, update: WeightUpdate) -> float:
        assert self._incoming is not None
        assert await asyncio.wrap_future(self._incoming) == list(update.sums), "the weights have not arrived whole"
        self.version = update.version
        return 0.0
