"""Loads an update into vLLM's model so that it equals a model loaded from a folder, and names what did not fit. I/O.

All of it depends on vLLM 0.32's internals; tests/local/test_engine_rows.py fails when a new version changes them.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from vllm.config import ModelConfig
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import layerwise
from vllm.model_executor.model_loader.reload.meta import SKIP_TENSORS
from vllm.model_executor.model_loader.reload.utils import get_layer_params_buffers, get_tensor_load_numel
from vllm.model_executor.model_loader.weight_utils import default_weight_loader
from vllm.platforms import current_platform

from scalerl_runtime.models.engine_adapters import ADAPTER_ID
from scalerl_runtime.models.weight_names import list_names

Weights = Iterable[tuple[str, Tensor]]
# SKIP_TENSORS: a reload leaves these in place, so vLLM's loaders write them without the count; biases are among them.
REFUSALS = (AssertionError, KeyError, ValueError)  # what vLLM's models raise for names and shapes that they lack


def load_update(model: nn.Module, model_config: ModelConfig, weights: Weights) -> list[str]:
    """Load a whole update; return what did not fit. Anything returned means that the model is wrong now."""
    layerwise.initialize_layerwise_reload(model)
    with recorded(model) as record:
        record.load(model.load_weights, weights)
    layerwise.finalize_layerwise_reload(model, model_config)
    refresh_shared_weights(model)
    return record.gaps()


def load_adapter(runner: Any, config: dict[str, Any], weights: Weights) -> list[str]:
    """Replace the matrices of the one adapter of `runner`, vLLM's of a model; return what did not fit.

    Its place among the engine's adapters stays, so requests that run go on with the new matrices.
    """
    manager = runner.lora_manager._adapter_manager
    mapper = getattr(manager.model, "hf_to_vllm_mapper", None)
    adapter = LoRAModel.from_lora_tensors(
        ADAPTER_ID,
        {name: tensor.clone() for name, tensor in weights},  # the next update overwrites the bytes
        PEFTHelper.from_dict(config),
        device="cpu",
        dtype=manager.lora_config.lora_dtype,
        weights_mapper=mapper.get_rename_mapper() if mapper is not None else None,
    )
    places = {*manager.modules, *(part for parts in manager.packed_modules.values() for part in parts)}
    if unknown := sorted(set(adapter.loras) - places):
        return [f"{len(unknown)} adapters of the trainer have no layer in the engine: {list_names(unknown)}"]
    manager.remove_adapter(ADAPTER_ID)
    manager.add_adapter(adapter)
    manager.activate_adapter(ADAPTER_ID)
    return []


@dataclass
class _Place:
    """A parameter of the engine's model while it waits for its weights, on the device `meta`."""

    module: nn.Module
    prefix: str
    key: str  # name in the module
    tensor: Tensor
    shared: int  # the same for parameters that are one
    loaded: int = 0  # elements

    @property
    def is_whole(self) -> bool:
        """Whether an update filled it; rows that only pad the vocabulary stay empty."""
        if isinstance(self.module, VocabParallelEmbedding):
            return self.loaded > 0
        return self.loaded >= int(get_tensor_load_numel(self.tensor))


@dataclass
class LoadRecord:
    """An update as it is loaded: the places that it fills, and which of its names were of use."""

    places: dict[int, _Place]
    sent: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    is_loading: bool = False  # inside one of vLLM's weight loaders

    def load(self, load_weights: Any, weights: Weights) -> Any:
        """Have vLLM load `weights`, and note what it refuses."""
        if self.refused:
            return set()
        try:
            return load_weights(self._follow(weights))
        except REFUSALS as error:
            self.refused.append(f"vLLM refuses {self.sent[-1] if self.sent else 'the first'}: {error!r}")
            return set()

    def _follow(self, weights: Weights) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in weights:
            self.sent.append(name)
            yield name, tensor

    def count(self, place: Tensor, elements: int) -> None:
        """Note that the weight passed on last filled `elements` of `place`."""
        if id(place) in self.places:
            self.places[id(place)].loaded += elements
        self.used.add(self.sent[-1])

    def gaps(self) -> list[str]:
        """Return a sentence for each kind of gap; what vLLM refused leaves all others unknown."""
        if self.refused:
            return self.refused
        unknown = [n for n in self.sent if n not in self.used and n.rpartition(".")[2] not in SKIP_TENSORS]
        filled = {place.shared for place in self.places.values() if place.is_whole}
        empty = [f"{p.prefix}.{p.key}" for p in self.places.values() if p.shared not in filled]
        gaps = (
            [f"{len(unknown)} tensors of the trainer are unknown to the engine: {list_names(unknown)}"]
            if unknown
            else []
        )
        gaps += (
            [f"{len(empty)} parameters of the engine get no value from the trainer: {list_names(empty)}"]
            if empty
            else []
        )
        return gaps


@contextmanager
def recorded(model: nn.Module) -> Iterator[LoadRecord]:
    """Record what is loaded; enter it when the reload has begun, and leave it before the reload is finished."""
    record = LoadRecord(_list_places(model))
    count_loaded = layerwise.get_numel_loaded

    def count(loader: Any, arguments: Any) -> tuple[int, object]:
        record.is_loading = True
        elements, result = count_loaded(loader, arguments)
        record.is_loading = False
        record.count(next(iter(arguments.arguments.values())), elements)
        return elements, result

    layerwise.get_numel_loaded = count
    try:
        with _DirectCopies(record):
            yield record
    finally:
        layerwise.get_numel_loaded = count_loaded


def _list_places(model: nn.Module) -> dict[int, _Place]:
    places = {}
    for prefix, module in model.named_modules():
        kernel: dict[str, Tensor] = (layerwise.get_layerwise_info(module).kernel_tensors or ({},))[0]
        for key, tensor in get_layer_params_buffers(module)[0].items():
            if key not in SKIP_TENSORS:
                places[id(tensor)] = _Place(module, prefix, key, tensor, id(kernel.get(key, tensor)))
    return places


class _DirectCopies(TorchFunctionMode):
    """Pass copies that a model makes into its parameters itself on to the reload.

    A few models (gpt-oss) fill parameters without a weight loader. During a reload these are on the device `meta`,
    where a copy has no effect, so such parameters would keep the values of the first load.
    """

    def __init__(self, record: LoadRecord):
        super().__init__()
        self._record = record
        self._aliases: dict[int, tuple[Tensor, Tensor]] = {}  # `.data` makes a new tensor at each use

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.copy_ and not self._record.is_loading and args[0].is_meta:
            place = self._find(args[0])
            if place is not None:
                self._load(place, args[1])
                return args[0]
        result = func(*args, **(kwargs or {}))
        if func == Tensor.data.__get__ and id(args[0]) in self._record.places:  # type: ignore[attr-defined] # of C
            self._aliases[id(result)] = (result, args[0])
        return result

    def _find(self, target: Tensor) -> _Place | None:
        return self._record.places.get(id(self._aliases.get(id(target), (None, target))[1]))

    def _load(self, place: _Place, value: Tensor) -> None:
        place.tensor.weight_loader = default_weight_loader  # type: ignore[attr-defined] # vLLM's
        layerwise.make_online_process_loader(place.module, place.key)(place.tensor, value)


def own_weights(model: nn.Module, flats: Iterable[Tensor]) -> None:
    """Copy what `model` did not copy while loading: the next update overwrites the bytes `flats` under it."""
    arrived = {flat.untyped_storage().data_ptr() for flat in flats}
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.untyped_storage().data_ptr() in arrived:
            tensor.data = tensor.data.clone()


def refresh_shared_weights(model: nn.Module) -> None:
    """Prepack layers again whose weight is another layer's: the reload updates the weight, not their CPU copy of it.

    Without this a CPU engine with tied embeddings silently keeps the head of its first weights. Devices have no copy.
    """
    if not current_platform.is_cpu():
        return
    owners: dict[int, nn.Module] = {}
    for module in model.modules():
        weight, method = getattr(module, "weight", None), getattr(module, "quant_method", None)
        if weight is None or method is None or not weight.numel():
            continue
        if owners.setdefault(id(weight), module) is not module:
            method.process_weights_after_loading(module)


def _prepack_experts_again(setup: Any) -> Any:
    """Let vLLM's CPU engine prepack experts at updates too; it does so at the first load only.

    Without this it reads plain weights as packed ones.
    """

    def setup_kernel(self: Any, layer: Any, w13: Tensor, w2: Tensor) -> None:
        is_update = self.moe_kernel is not None
        setup(self, layer, w13, w2)
        if is_update and current_platform.is_cpu():
            self.moe_kernel.fused_experts.process_weights_after_loading(layer)

    return setup_kernel


UnquantizedFusedMoEMethod._setup_kernel = _prepack_experts_again(UnquantizedFusedMoEMethod._setup_kernel)
