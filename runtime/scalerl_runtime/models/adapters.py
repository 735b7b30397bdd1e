"""Low-rank adapters of a model: which layers can have one, and their names. PURE.

PEFT makes the adapters, in the model itself: a linear layer becomes a layer that holds it, with the matrices `lora_A`
[rank, in] and `lora_B` [out, rank]. The layer's output is W x + scale * B A x. B starts as zeros.
"""

import importlib.util
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers.core_model_loading import rename_source_key

from scalerl_api import Fault, InvalidRun
from scalerl_api.rlrun import LoraSpec
from scalerl_runtime.models.parts import find_body, find_layers
from scalerl_runtime.models.router_replay import is_experts
from scalerl_runtime.models.weight_names import list_names, reverse_rules

LORA_FIELD = "spec.model.lora"
TARGETS_FIELD = f"{LORA_FIELD}.targetModules"
FILE_PREFIX = "base_model.model."  # of PEFT's files
ADAPTER = "default"  # PEFT's name of the one adapter that a layer has
PARTS = ("lora_A", "lora_B")

# vLLM's latent attention reads this matrix once, at the start, and never calls the layer: an adapter would do nothing.
ABSORBED = frozenset({"kv_b_proj"})
NO_LAYERS = "a model with linear layers in its decoder blocks; docs/lora.md"


def find_targets(model: Any, lora: LoraSpec) -> dict[str, nn.Linear]:
    """Return the layers that get an adapter, by their names in `model`, in order.

    Args:
        model: a causal LM of transformers; it may lie on the meta device, or be in shares.
        lora: of the spec.

    Raises:
        InvalidRun: there is no such layer, or the rank does not fit one.
    """
    found = list_adaptable(model)
    kinds = sorted({_last(name) for name in found})
    if not kinds:
        raise InvalidRun([Fault(LORA_FIELD, f"set, but {type(model).__name__} has no layer for it", NO_LAYERS)])
    if unknown := sorted(set(lora.target_modules or ()) - set(kinds)):
        fault = Fault(TARGETS_FIELD, ", ".join(unknown), f"linear layers of the model: {', '.join(kinds)}")
        raise InvalidRun([fault])
    wanted = set(lora.target_modules or kinds)
    targets = {name: layer for name, layer in found.items() if _last(name) in wanted}
    width, narrow = min((min(layer.in_features, layer.out_features), _last(name)) for name, layer in targets.items())
    if lora.rank > width:
        allowed = f"at most {width}, the width of {narrow}; or targetModules without it"
        raise InvalidRun([Fault(f"{LORA_FIELD}.rank", str(lora.rank), allowed)])
    return targets


def list_adaptable(model: Any) -> dict[str, nn.Linear]:
    """Return the linear layers of the decoder blocks that may have an adapter, by name.

    Left out: routers and gates of experts, which choose rather than compute; experts, whose weights are one parameter
    of a layer and not linear layers; subclasses of `nn.Linear`, which compute something else; `ABSORBED`.
    """
    layers = find_layers(find_body(model))
    inside = {id(module) for layer in layers for module in layer.modules()}
    choosing = {id(module) for layer in layers for module in _list_gates(layer)}
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear
        and id(module) in inside
        and id(module) not in choosing
        and "experts" not in name.split(".")
        and _last(name) not in ABSORBED
    }


def _list_gates(layer: nn.Module) -> Iterable[nn.Module]:
    """Yield linear layers of a block of experts with one output, or one an expert."""
    for block in layer.modules():
        counts = {getattr(child, "num_experts", 1) for child in block.children() if is_experts(child)}
        if counts:
            yield from (m for m in block.modules() if isinstance(m, nn.Linear) and m.out_features in {1, *counts})


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def count_trained(targets: Mapping[str, nn.Linear], rank: int) -> int:
    """Return the number of trained values of adapters of `rank` at the layers `targets`."""
    return sum(rank * (layer.in_features + layer.out_features) for layer in targets.values())


def require_peft() -> None:
    """Raise InvalidRun where PEFT is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise InvalidRun([Fault(LORA_FIELD, "set, but the package peft is not installed", "pip install peft")])


def add_adapters(model: Any, lora: LoraSpec, *, seed: int) -> dict[str, nn.Parameter]:
    """Put adapters into `model`, freeze everything else, and return their parameters by name.

    A is drawn from `seed`, the same on every rank. They are of the type of the layer's own weight, on its device.

    Raises InvalidRun as `find_targets` does, and without PEFT.
    """
    require_peft()
    from peft import inject_adapter_in_model

    targets = find_targets(model, lora)
    dtype = next(iter(targets.values())).weight.dtype
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of ranks of experts, which have no adapter here
        torch.manual_seed(seed)
        inject_adapter_in_model(build_peft_config(lora, targets), model, adapter_name=ADAPTER)
    found = adapter_parameters(model)
    made = {name.partition(".lora_")[0] for name in found}
    if odd := made ^ set(targets):
        raise InvalidRun([Fault(TARGETS_FIELD, list_names({_last(name) for name in odd}), "layers that PEFT adapts")])
    for parameter in found.values():
        parameter.data = parameter.data.to(dtype)
    return found


def build_peft_config(lora: LoraSpec, targets: Iterable[str]) -> Any:
    """Return PEFT's configuration for adapters at the modules `targets`: their full names, as PEFT matches any end."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # PEFT only divides it
        use_rslora=lora.use_rslora,
        target_modules=sorted(targets),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the adapters' parameters by their names in `model`, in order; empty without adapters."""
    return {name: p for name, p in model.named_parameters() if not set(PARTS).isdisjoint(name.split("."))}


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Return name of an adapter's parameter -> its name in PEFT's file."""
    return {name: FILE_PREFIX + name.replace(f".{ADAPTER}.", ".") for name in names}


def engine_names(model: Any, names: Iterable[str]) -> dict[str, str]:
    """Return name of an adapter's parameter -> its name for the engine: as in a file, by the module's name in a folder.

    Raises InvalidRun for a layer that the folder holds in another form: no adapter of the engine stands for it.
    """
    renamings, converters = reverse_rules(model)
    found, other = {}, []
    for name in names:
        part = next(each for each in PARTS if f".{each}." in name)
        module, _, end = name.partition(f".{part}.")
        key, pattern = rename_source_key(f"{module}.weight", renamings, converters, reverse=True)
        if pattern is not None:
            other.append(module)
        found[name] = f"{FILE_PREFIX}{key.removesuffix('.weight')}.{part}.{end.removeprefix(ADAPTER + '.')}"
    if other:
        layers = list_names({_last(name) for name in other})
        raise InvalidRun([Fault(TARGETS_FIELD, layers, f"not {layers}: the model's folder holds it in another form")])
    return found
