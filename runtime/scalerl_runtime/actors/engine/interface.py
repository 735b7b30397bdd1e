"""The engine as its generator uses it: requests and weights in, completions out. PURE."""

from dataclasses import dataclass
from typing import Any, Protocol

from scalerl_runtime.types import EngineOutput


class EngineDied(RuntimeError):
    """The engine works no more: its process or thread ended, or failed in a step."""


@dataclass(frozen=True)
class EngineRequest:
    """One completion to sample."""

    name: str  # unique in the engine
    prompt: list[int]
    parameters: Any  # vLLM's SamplingParams
    cache_salt: str  # requests of another salt share no cached prefix
    adapter: Any = None  # vLLM's LoRARequest; None: the model as it is


@dataclass(frozen=True)
class FinishedRequest:
    """A completion, and the experts of its tokens where the engine returns them."""

    output: EngineOutput
    experts: Any = None


class Engine(Protocol):
    """A vLLM engine."""

    vllm_config: Any

    @property
    def errored(self) -> bool:
        """Whether the engine works no more."""
        ...

    async def complete(self, request: EngineRequest) -> FinishedRequest:
        """Sample a completion; a caller that is cancelled ends it in the engine.

        Raises EngineDied, or what vLLM raises for a request that it refuses.
        """
        ...

    async def call(self, method: str, *arguments: object) -> list[Any]:
        """Return what the method of the worker extension returns in each worker."""
        ...

    async def update(self, method: str, *arguments: object, version: int) -> list[Any]:
        """As `call`; tokens that are sampled afterwards have this version, those before it the one before."""
        ...

    async def set_version(self, version: int) -> None:
        """Set the version of tokens that are sampled from now on."""
        ...

    async def pause(self, *, clear_cache: bool) -> None:
        """Sample no token until `resume`; with `clear_cache` what runs is computed anew afterwards."""
        ...

    async def resume(self) -> None:
        """Go on after `pause`."""
        ...

    def shutdown(self) -> None:
        """End the engine's processes or thread."""
        ...
