"""Loads a model a tensor at a time, so that a rank holds its share of the model and one tensor. I/O.

transformers reads safetensors lazily, converts them in order and puts them into the model one by one. Each is placed as
soon as it is there: moved to its device or, under ZeRO-3, cut into shares of which the rank keeps one. Ranks of a node
read the same pages of the files.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from transformers import core_model_loading

from scalerl_runtime.models.parts import auto_class, find_layers
from scalerl_runtime.models.source import load_config, loading
from scalerl_runtime.weights.zero_partitions import Gathering

Place = Callable[[nn.Parameter], None]

SYNCHRONOUS = "HF_DEACTIVATE_ASYNC_LOAD"  # else threads read ahead of the conversion, up to the whole model


def load_model(folder: Path, source: str, dtype: Any, place: Place) -> tuple[Any, dict[str, Any]]:
    """Return the model in `folder`, with its own attention and head, and transformers' loading info.

    Args:
        folder: where `source` was found.
        source: of the run's spec, for messages.
        dtype: torch's, of the parameters.
        place: called with each parameter once it has its values, on the CPU, in the same order on all ranks.

    Raises InvalidRun, ModelUnavailable.
    """
    with loading(source, "the trainer's model"), _placing(place):
        model, info = auto_class(load_config(folder, source)).from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="eager",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the info; else an error says only that there are some
        )
    return model, info


@contextmanager
def _placing(place: Place) -> Iterator[None]:
    """Have transformers call `place` after it has put a parameter into a model."""
    put = core_model_loading.set_param_for_module
    before = os.environ.get(SYNCHRONOUS)

    def put_and_place(model: nn.Module, name: str, *arguments: Any) -> None:
        put(model, name, *arguments)
        module, _, own = name.rpartition(".")
        held = model.get_submodule(module)._parameters.get(own)
        if held is not None and not held.is_meta:  # one of a wrong shape is left out, and reported
            place(held)

    core_model_loading.set_param_for_module = put_and_place
    os.environ[SYNCHRONOUS] = "1"
    try:
        yield
    finally:
        core_model_loading.set_param_for_module = put
        del os.environ[SYNCHRONOUS]
        if before is not None:
            os.environ[SYNCHRONOUS] = before


@contextmanager
def gathered_by_layer(model: nn.Module, gathering: Gathering) -> Iterator[None]:
    """Gather the parameters of each decoder layer, and of each module outside of them, while it runs."""
    layers = find_layers(model)
    inside = {module for layer in layers for module in layer.modules()}
    outside = [module for module in model.modules() if module not in inside]
    units = [(layer, list(layer.parameters())) for layer in layers]
    units += [(module, list(module.parameters(recurse=False))) for module in outside]
    handles = []
    for module, parameters in units:
        if parameters:
            handles += _hook(module, parameters, gathering)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(module: nn.Module, parameters: Sequence[nn.Parameter], gathering: Gathering) -> list[Any]:
    entered: list[AbstractContextManager[Any]] = []

    def enter(*_: object) -> None:
        entered.append(gathering(parameters))
        entered[-1].__enter__()

    def leave(*_: object) -> None:
        entered.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
