"""Examines whether a model can be trained by adapters, on its configuration and a small copy. PURE.

A layer's code may use the weight without calling the layer: an adapter there would train to no effect, silently.
"""

from typing import Any

import torch

from scalerl_api import Fault, InvalidRun
from scalerl_api.rlrun import LoraSpec
from scalerl_runtime.models.adapters import TARGETS_FIELD, add_adapters, engine_names, find_targets
from scalerl_runtime.models.architecture import build_empty
from scalerl_runtime.models.packing_probe import PackedForward
from scalerl_runtime.models.small_copy import build_small
from scalerl_runtime.models.weight_names import list_names

PROBE_TOKENS = 12


def examine_adapters(config: Any, lora: LoraSpec, forward: PackedForward) -> None:
    """Raise InvalidRun that names what cannot be adapted.

    Args:
        config: transformers' configuration.
        lora: of the spec.
        forward: the trainer's.
    """
    model = build_empty(config)
    engine_names(model, (f"{name}.lora_A.default.weight" for name in find_targets(model, lora)))
    if dead := _find_dead(config, lora, forward):
        raise InvalidRun([Fault(TARGETS_FIELD, list_names(dead), "layers that the model calls for each token of text")])


def _find_dead(config: Any, lora: LoraSpec, forward: PackedForward) -> set[str]:
    """Return last names of adapted layers whose adapters get no gradient in some block of a small copy."""
    small = build_small(config, forward.attention)
    adapters = add_adapters(small, LoraSpec(rank=1, alpha=1.0, target_modules=lora.target_modules), seed=0)
    generator = torch.Generator().manual_seed(0)
    for parameter in adapters.values():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    tokens = torch.randint(8, 120, (PROBE_TOKENS,), generator=generator)
    hidden = forward.hidden(small, tokens, torch.arange(PROBE_TOKENS), torch.tensor([0, PROBE_TOKENS]))
    (hidden * torch.randn(hidden.shape, generator=generator)).sum().backward()  # type: ignore[no-untyped-call]  # torch
    return {
        name.partition(".lora_")[0].rpartition(".")[2]
        for name, parameter in adapters.items()
        if parameter.grad is None or not bool(parameter.grad.any())
    }
