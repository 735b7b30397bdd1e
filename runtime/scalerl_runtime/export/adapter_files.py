"""The files of a folder of adapters, as PEFT and vLLM read them. PURE."""

import json
from collections.abc import Sequence
from typing import Any

from scalerl_api.rlrun import LoraSpec
from scalerl_runtime.export.checkpoint_weights import ExportError, Weight
from scalerl_runtime.export.disk_layout import DiskGroup
from scalerl_runtime.models.adapters import ADAPTER, build_peft_config, file_names, find_targets
from scalerl_runtime.models.weight_names import TensorShape, WeightGroup

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def plan_adapters(weights: Sequence[Weight], reference: Any, lora: LoraSpec) -> list[DiskGroup]:
    """Return the adapters' tensors under PEFT's names. Raises ExportError that names the first one missing or odd."""
    wanted = {}
    for module, layer in find_targets(reference, lora).items():
        wanted[f"{module}.lora_A.{ADAPTER}.weight"] = (lora.rank, layer.in_features)
        wanted[f"{module}.lora_B.{ADAPTER}.weight"] = (layer.out_features, lora.rank)
    found = {weight.name: weight.shape for weight in weights}
    if odd := sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name)):
        raise ExportError(f"adapter {odd[0]}: {found.get(odd[0])} is stored, {wanted.get(odd[0])} belongs to the model")
    names = file_names(found)
    shapes = [TensorShape(names[w.name], str(w.dtype).removeprefix("torch."), w.shape) for w in weights]
    return [
        DiskGroup(reference, WeightGroup((weight.name,), (shape,), is_converted=False), (weight,))
        for weight, shape in zip(weights, shapes, strict=True)
    ]


def adapter_config(lora: LoraSpec, weights: Sequence[Weight], source: str) -> bytes:
    """Return PEFT's adapter_config.json for adapters of the model `source`, at the layers of `weights`."""
    targets = {weight.name.partition(".lora_")[0] for weight in weights}
    config = build_peft_config(lora, targets).to_dict()
    config |= {"base_model_name_or_path": source, "inference_mode": True, "target_modules": sorted(targets)}
    return json.dumps(config, indent=2, sort_keys=True, default=str).encode()
