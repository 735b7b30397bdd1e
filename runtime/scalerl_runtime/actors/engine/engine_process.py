"""vLLM's engine in processes of its own: for devices, which it keeps busy while this process handles requests. I/O."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from vllm.inputs.engine import tokens_input
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from scalerl_runtime.actors.engine.detokenize import build_output
from scalerl_runtime.actors.engine.interface import EngineDied, EngineRequest, FinishedRequest
from scalerl_runtime.deadlines import while_alive

T = TypeVar("T")


class EngineProcess:
    """See `Engine`."""

    def __init__(self, config: Any):
        """Start it: `config` is vLLM's. Raises what vLLM raises."""
        self.vllm_config = config
        self._engine = AsyncLLM.from_vllm_config(config, disable_log_stats=True)

    @property
    def errored(self) -> bool:
        """See `Engine`."""
        return bool(self._engine.errored)

    async def complete(self, request: EngineRequest) -> FinishedRequest:
        """See `Engine`."""
        inputs = tokens_input(request.prompt, cache_salt=request.cache_salt)
        final: Any = None
        try:
            outputs = self._engine.generate(inputs, request.parameters, request.name, lora_request=request.adapter)
            async for output in outputs:
                final = output
        except EngineDeadError as error:
            raise EngineDied("the engine's core died") from error
        found = final.outputs[0]
        tokens = list(found.token_ids)
        logps = [found.logprobs.logprobs[at] for at in found.logprobs.start_indices]
        sampled = tokens, logps, _spell_versions(found.weight_versions, len(tokens))
        tokenizer, stopped = self._engine.renderer.tokenizer, found.finish_reason == "stop"
        output = build_output(tokenizer, request.prompt, request.parameters, sampled, stopped=stopped)
        return FinishedRequest(output, found.routed_experts)

    async def call(self, method: str, *arguments: object) -> list[Any]:
        """See `Engine`."""
        return list(await self._answered(self._engine.collective_rpc(method, args=arguments)))

    async def update(self, method: str, *arguments: object, version: int) -> list[Any]:
        """See `Engine`."""
        # The version follows in the engine's queue before it steps again: no token is labelled wrongly.
        found, _ = await asyncio.gather(self.call(method, *arguments), self.set_version(version))
        return list(found)

    async def set_version(self, version: int) -> None:
        """See `Engine`."""
        await self._answered(self._engine.update_weight_version(str(version)))

    async def pause(self, *, clear_cache: bool) -> None:
        """See `Engine`."""
        await self._answered(self._engine.pause_generation(mode="keep", clear_cache=clear_cache))

    async def resume(self) -> None:
        """See `Engine`."""
        await self._answered(self._engine.resume_generation())

    def shutdown(self) -> None:
        """See `Engine`."""
        self._engine.shutdown()

    async def _answered(self, call: Awaitable[T]) -> T:
        """Await the engine core's reply. For a dead core vLLM would wait for ever."""
        return await while_alive(call, lambda: self.errored, "the engine's core")


def _spell_versions(spans: Any, num_tokens: int) -> list[int]:
    """The version of each token; -1 before the first weights."""
    versions = [-1] * num_tokens
    for span in spans or ():
        version = int(span.version) if span.version.lstrip("-").isdigit() else -1
        versions[span.start : span.end] = [version] * len(versions[span.start : span.end])
    return versions
