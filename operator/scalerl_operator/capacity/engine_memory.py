"""Memory of an engine on each of its GPUs, and the sequences that its cache holds."""

from dataclasses import dataclass

from scalerl_api import RLRun
from scalerl_operator.capacity.adapters import count_engine_numbers
from scalerl_operator.capacity.devices import Device
from scalerl_operator.capacity.memory import Part
from scalerl_operator.capacity.model_shape import ModelShape

# vLLM's default of tokens in one step of a large GPU; `max_num_batched_tokens` of `engineArgs` sets another.
BATCHED_TOKENS = 8192
# Graphs, context and NCCL's buffers, beside tensors: an assumption, not measured.
RUNTIME_BYTES = 2 * 2**30


@dataclass(frozen=True)
class EngineMemory:
    """One GPU of an engine; vLLM takes `limit` bytes, and what is left after weights and workspace is the cache."""

    limit: float
    parts: tuple[Part, ...]
    """Without the cache."""
    sequence_bytes: float
    """Of the cache for one sequence of the recipe's full length."""
    sequence_tokens: int

    @property
    def cache(self) -> float:
        """Bytes of the cache; negative where the rest does not fit."""
        return self.limit - sum(part.num_bytes for part in self.parts)

    @property
    def sequences(self) -> int:
        """Sequences of full length that the cache holds at once."""
        return max(0, int(self.cache // self.sequence_bytes))


def engine_memory(shape: ModelShape, run: RLRun, device: Device) -> EngineMemory:
    """Return what each GPU of an engine holds; weights and heads are split over the engine's GPUs."""
    spec, recipe = run.spec.generator, run.spec.resolved_recipe()
    split, arguments = max(1, spec.gpus_per_replica), spec.engine_args
    item, layer_item = run.spec.model.item_bytes, layer_item_bytes(run)
    weights = (layer_item * (shape.parameters - shape.rest_parameters) + item * shape.rest_parameters) / split
    offloaded = arguments.get("cpu_offload_gb", 0)
    if isinstance(offloaded, int | float) and offloaded > 0:
        weights = max(0.0, weights - offloaded * 2**30)
    note = f"{item} bytes a parameter" + (f", {layer_item} in layers" if layer_item != item else "")
    note += f" over {split}" if split > 1 else ""
    tokens = recipe.length.sequence_tokens
    parts: tuple[Part, ...] = (
        Part("weights", weights, note),
        Part("workspace", _workspace(shape, run, split), "activations of a step, and logits in float32"),
        Part("CUDA, graphs, NCCL", RUNTIME_BYTES, "2 GiB: assumed"),
    )
    if (lora := run.spec.model.lora) is not None:
        numbers = count_engine_numbers(shape, lora, split)
        parts += (Part("adapters", run.spec.model.item_bytes * numbers, f"room for rank {lora.engine_rank}"),)
    return EngineMemory(
        limit=spec.gpu_memory_share * device.memory_bytes,
        parts=parts,
        sequence_bytes=cache_bytes(shape, run, tokens),
        sequence_tokens=tokens,
    )


def layer_item_bytes(run: RLRun) -> int:
    """Bytes of a weight in an engine's decoder layers. `quantization: fp8` leaves embedding and head as they are."""
    return 1 if run.spec.generator.engine_args.get("quantization") == "fp8" else run.spec.model.item_bytes


def cache_bytes(shape: ModelShape, run: RLRun, tokens: int) -> float:
    """Return the bytes that one sequence of `tokens` has in the cache of each GPU of an engine.

    Heads of keys are split over the GPUs, at least one on each; the latent of DeepSeek's attention is on all.
    """
    split = max(1, run.spec.generator.gpus_per_replica)
    numbers = shape.kv_numbers
    if not shape.is_latent:
        numbers = shape.kv_numbers // shape.kv_heads * -(-shape.kv_heads // split)
    return float(cache_item_bytes(run) * numbers * shape.kv_tokens(tokens))


def cache_item_bytes(run: RLRun) -> int:
    """Bytes of a number in an engine's cache."""
    kind = run.spec.generator.engine_args.get("kv_cache_dtype", "auto")
    return 1 if isinstance(kind, str) and kind.startswith("fp8") else run.spec.model.item_bytes


def _workspace(shape: ModelShape, run: RLRun, split: int) -> float:
    """Activations of one step of the engine, and float32 logits of all running sequences with their softmax."""
    batched = run.spec.generator.engine_args.get("max_num_batched_tokens", BATCHED_TOKENS)
    tokens = batched if isinstance(batched, int) and batched > 0 else BATCHED_TOKENS
    widest = max(each.width * max(1, each.chosen) + each.shared_width for each in shape.layer_shapes)
    activations = tokens * run.spec.model.item_bytes * (4 * shape.hidden + 3 * widest / split)
    return float(activations + 3 * 4 * run.spec.generator.max_sequences * shape.vocabulary)
