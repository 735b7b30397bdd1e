"""Memory of a trainer rank and of an engine's rank on its device, by part.

P is the number of parameters, R of ranks, N of tokens in a micro-batch, h the model's width, V its vocabulary. With
adapters the weights are the model's and theirs; gradients, optimizer and the copy for generators are theirs alone.
`bench/runtime/plan_memory.py` compares the sums with counted allocations.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from scalerl_api import RLRun
from scalerl_operator.capacity.activations import head_bytes, input_bytes, layer_bytes
from scalerl_operator.capacity.adapters import count_held, count_trained, largest_trained_layer
from scalerl_operator.capacity.model_shape import ModelShape

REDUCE_BUCKET = 500_000_000  # DeepSpeed's default, in numbers
GATHERED_LIVE = 1_000_000_000  # `stage3_max_live_parameters` of DeepSpeed: whole weights that wait under stage 3
PACKET_BYTES = 512 * 2**20  # of weights on their way to the generators; a packet has one tensor more
PACKETS = 2  # one comes from the host while the other is sent
# Not of tensors: CUDA's context, NCCL's channels, and what the allocator cannot use. An assumption, not measured.
CONTEXT_BYTES = 2 * 2**30
FRAGMENTATION = 0.05  # of the tensors


@dataclass(frozen=True)
class Part:
    """A part of a process's memory."""

    name: str
    num_bytes: float
    note: str = ""
    """The sum in words."""


@dataclass(frozen=True)
class RankMemory:
    """Memory of one process at its largest moment, by part."""

    role: str
    moment: str
    parts: tuple[Part, ...]

    @property
    def total(self) -> float:
        """Bytes of all parts."""
        return sum(part.num_bytes for part in self.parts)


def trainer_memory(shape: ModelShape, run: RLRun, *, is_first: bool) -> RankMemory:
    """Return the memory of a trainer rank; on a GPU the first one also has weights on their way to the generators.

    Three moments may be the largest: the head's forward, the backward pass, and the optimizer's update, when no
    activation is left. On a CPU the process's memory is meant, without Python and libraries.
    """
    kept = _static_parts(shape, run, is_first=is_first)
    moments = {
        "forward pass": _forward_parts(shape, run),
        "backward pass": _backward_parts(shape, run),
        "optimizer's update": _update_parts(shape, run),
    }
    largest = max(moments, key=lambda name: sum(part.num_bytes for part in moments[name]))
    parts = (*kept, *moments[largest])
    if run.spec.trainer.gpus_per_replica:
        tensors = sum(part.num_bytes for part in parts)
        note = "2 GiB, and 5 % of the tensors: assumed"
        parts += (Part("CUDA, NCCL, fragments", CONTEXT_BYTES + FRAGMENTATION * tensors, note),)
    role = "trainer rank 0" if is_first else "other trainer ranks"
    return RankMemory(role, largest, tuple(part for part in parts if part.num_bytes))


def host_memory(shape: ModelShape, run: RLRun, *, is_first: bool) -> tuple[Part, ...]:
    """Return the host memory of the tensors of one trainer pod with GPUs, by part; the first pod's has rank 0's copy.

    On a CPU everything is on the host: see `trainer_memory`. Python, libraries and the pages of files are not in it.
    """
    trainer, held, trained = run.spec.trainer, count_held(shape, run), count_trained(shape, run)
    share = max(1, trainer.gpus_per_replica) / trainer.ranks
    tokens, item = trainer.rank_tokens, run.spec.model.item_bytes
    parts = [
        Part("copy of a checkpoint", 12 * trained * share, "float32 weights, two moments: its ranks' share, pinned")
    ]
    if is_first:
        parts.append(Part("copy for the generators", item * trained, f"{item} bytes a parameter, pinned"))
    if trainer.offload.optimizer == "cpu":
        parts.append(
            Part("optimizer and sums of gradients", 16 * trained * share, "16 bytes a parameter: its ranks' share")
        )
    if trainer.offload.parameters == "cpu":
        parts.append(Part("weights", item * held * share, f"{item} bytes a parameter: its ranks' share"))
    if trainer.activations == "offload":
        inputs = trainer.gpus_per_replica * input_bytes(shape, tokens, item)
        parts.append(Part("inputs of layers", inputs, f"{trainer.gpus_per_replica} ranks"))
    return tuple(parts)


def _static_parts(shape: ModelShape, run: RLRun, *, is_first: bool) -> tuple[Part, ...]:
    """Weights, optimizer, and what rank 0 has for the generators: there from the first step to the last."""
    trainer, item, held, trained = (
        run.spec.trainer,
        run.spec.model.item_bytes,
        count_held(shape, run),
        count_trained(shape, run),
    )
    ranks, is_gpu = trainer.ranks, bool(trainer.gpus_per_replica)
    if trainer.zero_stage < 3:
        weights, note = item * held, f"{item} bytes a parameter"
    elif is_gpu and trainer.offload.parameters == "cpu":
        weights, note = 0, "on the host"
    else:
        weights, note = item * held // ranks, f"{item} bytes a parameter over {ranks}"
    if run.spec.model.lora is not None:
        note += ", the adapters' included"
    parts = [Part("weights", weights, note)]
    if not (is_gpu and trainer.offload.optimizer == "cpu"):
        parts.append(Part("optimizer", 12 * trained / ranks, f"float32 weights, two moments: 12 bytes over {ranks}"))
    if is_first and not is_gpu:
        parts.append(Part("copy for the generators", item * trained, f"{item} bytes a parameter"))
    elif is_first and not run.spec.generator.colocated and run.spec.model.lora is None:  # else by the host's memory
        parts.append(_packets(shape, item))
    return tuple(parts)


def _packets(shape: ModelShape, item: int) -> Part:
    """Buffers on the device for weights on their way; the copy itself is on the host."""
    widest = max(max(each.width, each.shared_width) for each in shape.layer_shapes)
    largest = item * max(shape.head_parameters, shape.hidden * widest)
    size = min(item * shape.parameters, PACKET_BYTES + largest)
    return Part(
        "weights on their way to the generators", PACKETS * size, f"{PACKETS} packets of {size / 2**30:.1f} GiB"
    )


def _sums(shape: ModelShape, run: RLRun) -> Part:
    """float32 sums of gradients; stage 1 in float32 has those of the whole model."""
    trainer = run.spec.trainer
    if trainer.gpus_per_replica and trainer.offload.optimizer == "cpu":
        return Part("sums of gradients", 0)
    whole = run.spec.model.dtype == "float32" and trainer.zero_stage == 1
    over = 1 if whole else trainer.ranks
    return Part("sums of gradients", 4 * count_trained(shape, run) / over, f"float32: 4 bytes a parameter over {over}")


def _buckets(shape: ModelShape, run: RLRun) -> Part:
    """DeepSpeed's buckets for gradients on their way; under stage 3 also weights that were gathered and wait."""
    trainer, item = run.spec.trainer, run.spec.model.item_bytes
    settings = trainer.deepspeed.get("zero_optimization")
    settings = settings if isinstance(settings, Mapping) else {}
    size = float(settings.get("reduce_bucket_size", REDUCE_BUCKET))
    is_small = (
        run.spec.model.lora is not None and count_trained(shape, run) < size
    )  # waits in the bucket for the others
    if trainer.zero_stage == 1 and run.spec.model.dtype == "float32" and not is_small:
        size = 0.0
    twice = 2 if trainer.gpus_per_replica and trainer.zero_stage < 3 else 1  # communication beside the backward
    total = twice * item * size
    if trainer.zero_stage == 3 and trainer.ranks > 1:
        live = float(settings.get("stage3_max_live_parameters", GATHERED_LIVE))
        total += item * min(live, float(shape.parameters), 2.0 * shape.largest_layer.parameters + shape.head_parameters)
    return Part("gradients and weights on their way", total, f"{twice} x {size:.2g} numbers")


def _kept(shape: ModelShape, run: RLRun) -> Part:
    """Tensors that the forward pass keeps: inputs of layers, or all that the backward needs."""
    trainer, item = run.spec.trainer, run.spec.model.item_bytes
    tokens, is_gpu = trainer.rank_tokens, bool(trainer.gpus_per_replica)
    if trainer.activations == "keep":
        total = sum(layer_bytes(shape, each, run) for each in shape.layer_shapes)
        return Part("activations of all layers", total, "all that the backward needs")
    if trainer.activations == "offload" and is_gpu:
        return Part("inputs of layers", 0, "on the host")
    return Part("inputs of layers", input_bytes(shape, tokens, item), f"{item * shape.hidden} bytes a token and layer")


def _forward_parts(shape: ModelShape, run: RLRun) -> tuple[Part, ...]:
    head, _ = head_bytes(shape, run)
    return _kept(shape, run), Part("head", head, "pieces of float32 logits"), _sums(shape, run), _buckets(shape, run)


def _backward_parts(shape: ModelShape, run: RLRun) -> tuple[Part, ...]:
    """The largest of the head's backward and of a layer's, beside what the forward kept."""
    trainer, item = run.spec.trainer, run.spec.model.item_bytes
    tokens = trainer.rank_tokens
    layer = max(layer_bytes(shape, each, run) for each in shape.layer_shapes)
    # Gradients of a layer's weights, and of the widest tensor and its input, are there before they are summed.
    widest = max(each.width * max(1, each.chosen) for each in shape.layer_shapes)
    gradients = item * largest_trained_layer(shape, run) + tokens * item * (2 * widest + 2 * shape.hidden)
    again = 0 if trainer.activations == "keep" else layer
    _, head = head_bytes(shape, run)
    own: tuple[Part, ...]
    if head > again + gradients:
        own = (Part("head", head, "its gradients, and pieces of logits"),)
    else:
        own = (
            Part("the layer that is computed again", again, "all that its backward needs"),
            Part("gradients of a layer", gradients, "before they are summed"),
        )
    return _kept(shape, run), *own, _sums(shape, run), _buckets(shape, run)


def _update_parts(shape: ModelShape, run: RLRun) -> tuple[Part, ...]:
    """Gradients of the share, and AdamW's temporaries: 4 bytes a parameter of the share on a GPU, 8 on a CPU."""
    trainer = run.spec.trainer
    if trainer.gpus_per_replica and trainer.offload.optimizer == "cpu":
        return (_buckets(shape, run),)
    share = 4 * count_trained(shape, run) / trainer.ranks
    times = 1 if trainer.gpus_per_replica else 2
    own = Part("temporaries of the update", times * share, f"{4 * times} bytes a parameter over {trainer.ranks}")
    return _sums(shape, run), own
