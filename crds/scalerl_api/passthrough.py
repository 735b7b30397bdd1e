"""Parts of a spec that others define: pod templates, settings of DeepSpeed and vLLM. PURE.

Settings that scalerl sets itself are listed here. The libraries check names and types of the rest, where they are
installed: at `scalerl validate` and at the run's start.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from scalerl_api.base import ApiModel

Settings = dict[str, bool | int | float | str | list[Any] | dict[str, Any]]

DEEPSPEED_PATH = "spec.trainer.deepspeed"
ENGINE_PATH = "spec.generator.engineArgs"

_BATCH = "the rows of a step vary, so scalerl sets it by recipe.promptsPerStep and trainer.microBatchTokens"
_SUMS = "model.dtype sets the precision, and gradients are summed and reduced in float32"
_OPTIMIZER = "recipe.optimizer sets it"
_TRACKERS = "spec.trackers records a run"
_PARALLEL = "the ranks are data-parallel, which weight updates and batches rest on"
_CHECKPOINT = "scalerl writes and reads checkpoints"
_UNCHECKED = "an update that is no number is left out by the norm of its gradient"

# Path in DeepSpeed's configuration -> why it cannot be set.
OWNED_DEEPSPEED: Mapping[str, str] = {
    **dict.fromkeys(("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"), _BATCH),
    "managed_gradient_accumulation": _BATCH,
    **dict.fromkeys(("bf16", "bfloat16", "fp16", "amp", "torch_autocast", "data_types"), _SUMS),
    **dict.fromkeys(("communication_data_type", "gradient_allreduce_op"), _SUMS),
    "gradient_clipping": "recipe.optimizer.gradClip sets it",
    **dict.fromkeys(
        ("optimizer", "scheduler", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer"), _OPTIMIZER
    ),
    "activation_checkpointing": "trainer.activations sets it",
    "zero_optimization.stage": "trainer.zeroStage sets it",
    "zero_optimization.offload_optimizer.device": "trainer.offload.optimizer sets it",
    "zero_optimization.offload_param.device": "trainer.offload.parameters sets it",
    **dict.fromkeys(
        ("zero_optimization.cpu_offload", "zero_optimization.cpu_offload_param"), "trainer.offload sets it"
    ),
    "zero_optimization.compute_grad_norm": _UNCHECKED,
    **dict.fromkeys(("checkpoint", "load_universal_checkpoint"), _CHECKPOINT),
    **dict.fromkeys(("zero_optimization.elastic_checkpoint", "zero_optimization.load_from_fp32_weights"), _CHECKPOINT),
    **dict.fromkeys(("tensorboard", "wandb", "csv_monitor", "comet"), _TRACKERS),
    **dict.fromkeys(("tensor_parallel", "pipeline", "expert_parallel"), _PARALLEL),
    "sequence_parallel_size": "trainer.sequenceParallel sets it",
}

_MODEL = "spec.model sets it"
_RATIO = "the importance ratio rests on it"
_NODES = "generator.gpusPerReplica sets the devices of an engine"
_UPDATES = "weight updates rest on it"
_LORA = "model.lora sets it"
_LENGTH = "recipe.length sets it"

# Name in vLLM's EngineArgs -> why it cannot be set.
OWNED_ENGINE: Mapping[str, str] = {
    **dict.fromkeys(("model", "model_weights", "dtype", "tokenizer", "tokenizer_mode", "tokenizer_revision"), _MODEL),
    **dict.fromkeys(("revision", "code_revision", "trust_remote_code", "hf_token", "hf_config_path"), _MODEL),
    **dict.fromkeys(("skip_tokenizer_init", "config_format", "runner", "convert", "model_class_overrides"), _MODEL),
    "hf_overrides": "recipe.head sets it",
    "max_model_len": _LENGTH,
    "max_num_seqs": "generator.maxSequences sets it",
    "gpu_memory_utilization": "generator.gpuMemoryShare sets it",
    "kv_cache_memory_bytes": "generator.kvCacheMegabytes sets it on CPUs, generator.gpuMemoryShare on GPUs",
    "seed": "spec.seed sets it, another one for each engine",
    **dict.fromkeys(("generation_config", "override_generation_config"), f"{_RATIO}: recipe.temperature samples"),
    **dict.fromkeys(("logprobs_mode", "max_logprobs", "return_sampling_mask"), _RATIO),
    **dict.fromkeys(("logits_processors", "reasoning_parser", "reasoning_config", "additional_config"), _LENGTH),
    "enable_return_routed_experts": "recipe.routerReplay sets it",
    **dict.fromkeys(("weight_transfer_config", "worker_extension_cls", "worker_cls"), _UPDATES),
    **dict.fromkeys(("enable_lora", "max_loras", "max_cpu_loras", "max_lora_rank", "lora_dtype"), _LORA),
    **dict.fromkeys(("lora_target_modules", "fully_sharded_loras", "default_mm_loras"), _LORA),
    **dict.fromkeys(("enable_sleep_mode", "scheduler_cls", "tokens_only"), _UPDATES),
    **dict.fromkeys(("tensor_parallel_size", "pipeline_parallel_size", "distributed_executor_backend"), _NODES),
    **dict.fromkeys(("device_ids", "nnodes", "node_rank", "master_addr", "master_port"), _NODES),
    **dict.fromkeys(("data_parallel_size", "data_parallel_rank", "data_parallel_size_local"), _NODES),
    **dict.fromkeys(("data_parallel_start_rank", "data_parallel_address", "data_parallel_rpc_port"), _NODES),
    **dict.fromkeys(("data_parallel_backend", "data_parallel_hybrid_lb", "data_parallel_external_lb"), _NODES),
    **dict.fromkeys(("prefill_context_parallel_size", "decode_context_parallel_size"), _NODES),
}


class TemplateMetadata(ApiModel):
    """Metadata that is added to a role's pods."""

    labels: dict[str, str] = Field(default={}, max_length=50)
    """Further labels; `scalerl.io/` and `app.kubernetes.io/` are reserved for the operator."""
    annotations: dict[str, str] = Field(default={}, max_length=50)
    """Further annotations."""


class PodTemplate(ApiModel):
    """A Kubernetes PodTemplateSpec that is merged into a role's pods."""

    metadata: TemplateMetadata = TemplateMetadata()
    """Labels and annotations."""
    spec: dict[str, bool | int | str | list[Any] | dict[str, Any]] = Field(default={}, max_length=100)
    """A PodSpec: nodeSelector, tolerations, volumes, priorityClassName, ... The container `runtime` is the role's own;
    others run beside it. A field that the operator sets itself is refused by name. Only read on a cluster."""


def find_owned(settings: Mapping[str, Any], owned: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    """Yield path, value and reason of every setting of `settings` that scalerl sets itself."""
    for path, value in _walk(settings, ""):
        if path in owned:
            yield path, value, owned[path]


def _walk(settings: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        yield f"{prefix}{name}", value
        if isinstance(value, dict):
            yield from _walk(value, f"{prefix}{name}.")


def merge_settings(own: Mapping[str, Any], users: Mapping[str, Any]) -> dict[str, Any]:
    """Return `own` with the user's settings; a mapping in both is merged."""
    merged = dict(own)
    for name, value in users.items():
        inner = merged.get(name)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        merged[name] = merge_settings(inner, value) if both else value  # type: ignore[arg-type]  # both are mappings
    return merged
