"""A tiny copy of an architecture with random weights, on which its terms are visible. PURE."""

import re
from typing import Any

import torch
from torch import Tensor

from scalerl_runtime.models.parts import auto_class
from scalerl_runtime.models.shrink import shrink_settings

MAX_PARAMETERS = 40_000_000  # a tenth of a second a forward; vision towers of multimodal classes have up to ten million


class NotRepresentative(ValueError):
    """The small copy lacks a kind of layer that the model has."""


def build_small(config: Any, attention: str) -> Any:
    """Return a model in float32 with the architecture of `config` and small sizes.

    Args:
        config: transformers' configuration; unchanged.
        attention: value of `attn_implementation`.

    Raises whatever transformers raises for a configuration that it cannot build.
    """
    small = type(config).from_dict(shrink_settings(config.to_dict()))
    with torch.device("meta"):
        count = sum(each.numel() for each in auto_class(small).from_config(small).parameters())
    if count > MAX_PARAMETERS:
        raise NotRepresentative(f"its sizes have names that are unknown here: it still has {count} parameters")
    with torch.random.fork_rng(devices=[]):
        model = auto_class(small).from_config(small, dtype=torch.float32, attn_implementation=attention).eval()
    randomize(model)
    return model


@torch.no_grad()
def randomize(model: torch.nn.Module, seed: int = 0) -> None:
    """Matrices that keep a vector's length; vectors (biases, norms, sinks) and buffers moved by a visible amount.

    With transformers' own start, sinks and biases are zero and attention is nearly even, so that a term could be left
    out without a difference.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator).to(tensor.dtype)

    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and min(parameter.shape[-2:]) > 1:
            parameter.copy_(noise(parameter) * parameter.shape[-1] ** -0.5)
        elif "sink" in name:
            parameter.copy_(1.0 + noise(parameter))
        elif parameter.is_floating_point():
            parameter.add_(noise(parameter) * 0.2)
    for name, buffer in model.named_buffers():
        if "correction" in name or "expert_bias" in name:
            buffer.add_(noise(buffer) * 0.5)


def require_kinds(kinds: frozenset[str], small: Any) -> None:
    """Raise NotRepresentative unless `small` has every one of a model's `kinds`."""
    if missing := sorted(kinds - kinds_of(small)):
        raise NotRepresentative(f"a small copy of the model lacks its {missing[0]}")


def kinds_of(model: Any) -> frozenset[str]:
    """The classes of a model's modules, and the names of its parameters without the numbers of layers."""
    parameters = {f"parameter {re.sub(r'[0-9]+', 'N', name)}" for name, _ in model.named_parameters()}
    return frozenset(parameters | {f"module {type(module).__name__}" for module in model.modules()})
