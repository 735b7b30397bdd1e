"""Adapters in vLLM's engine: its arguments, and the one adapter's name and configuration. PURE.

There is one adapter. An update replaces its matrices where they lie, so running requests go on with the new ones, as
they do when a model's weights change.
"""

from typing import Any

from scalerl_api.rlrun import LoraSpec
from scalerl_runtime.models.adapters import find_targets
from scalerl_runtime.models.architecture import build_empty

ADAPTER_ID = 1
ADAPTER_NAME = "policy"
NO_PATH = "/dev/null"  # never read: the adapter is in the engine before the first request that names it


def engine_arguments(lora: LoraSpec, config: Any) -> dict[str, Any]:
    """Return arguments of vLLM's engine for a model of transformers' configuration `config`.

    The layers are named, so that vLLM leaves all others as they are: a CPU has no kernels for adapters of experts.

    Raises InvalidRun as `find_targets` does.
    """
    targets = find_targets(build_empty(config), lora)
    return {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": lora.engine_rank,
        "lora_target_modules": sorted({name.rpartition(".")[2] for name in targets}),
    }


def engine_config(lora: LoraSpec) -> dict[str, Any]:
    """Return what PEFT's adapter_config.json would say, as far as vLLM needs it for the matrices."""
    return {"r": lora.rank, "lora_alpha": lora.alpha, "use_rslora": lora.use_rslora, "target_modules": []}
