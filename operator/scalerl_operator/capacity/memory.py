"""Memory of a trainer rank and of an engine's rank on its device, by part.

P is the number of parameters, R of ranks, N of tokens in a rank's part of a micro-batch, h the model's width, V its vocabulary.
`bench/runtime/plan_memory.py` compares the sums with counted allocations.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from scalerl_api import RLRun
from scalerl_operator.capacity.activations import head_bytes, input_bytes, layer_bytes
from scalerl_operator.capacity.model_shape import ModelShape
from scalerl_operator.capacity.work import bytes_of

REDUCE_BUCKET = 500_000_000  # DeepSpeed's default, in numbers
GATHERED_LIVE = 1_000_000_000  # `stage3_max_live_parameters` of DeepSpeed: whole weights that wait under stage 3
COPY_BUCKET_BYTES = 64 * 2**20  # of weights that are gathered at a time for the generators
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
    """Return the memory of a trainer rank; the first rank holds the copy for the generators too.

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


def host_memory(shape: ModelShape, run: RLRun) -> float:
    """Return the bytes of host memory that the tensors of one trainer pod need: what is offloaded, by its ranks.

    On a CPU everything is on the host: see `trainer_memory`.
    """
    trainer = run.spec.trainer
    ranks = max(1, trainer.gpus_per_replica)
    total = 0.0
    if trainer.offload.optimizer == "cpu":
        total += ranks * 16 * shape.parameters / trainer.ranks
    if trainer.offload.parameters == "cpu":
        total += ranks * item_bytes(run) * shape.parameters / trainer.ranks
    if trainer.activations == "offload":
        total += ranks * input_bytes(shape, run.spec.trainer.rank_tokens, item_bytes(run))
    if run.spec.generator.colocated:
        total += item_bytes(run) * shape.parameters
    return total


def item_bytes(run: RLRun) -> int:
    """Bytes of a weight."""
    return bytes_of(run.spec.model.dtype)


def _static_parts(shape: ModelShape, run: RLRun, *, is_first: bool) -> tuple[Part, ...]:
    """Weights, optimizer and the staged copy: there from the first step to the last."""
    trainer, item, count = run.spec.trainer, item_bytes(run), shape.parameters
    ranks, is_gpu = trainer.ranks, bool(trainer.gpus_per_replica)
    if trainer.zero_stage < 3:
        weights, note = item * count, f"{item} bytes a parameter"
    elif is_gpu and trainer.offload.parameters == "cpu":
        weights, note = 0, "on the host"
    else:
        weights, note = item * count // ranks, f"{item} bytes a parameter over {ranks}"
    parts = [Part("weights", weights, note)]
    if not (is_gpu and trainer.offload.optimizer == "cpu"):
        parts.append(Part("optimizer", 12 * count / ranks, f"float32 weights, two moments: 12 bytes over {ranks}"))
    if is_first and not run.spec.generator.colocated:
        parts.append(Part("copy for the generators", item * count, f"{item} bytes a parameter"))
    return tuple(parts)


def _sums(shape: ModelShape, run: RLRun) -> Part:
    """float32 sums of gradients; stage 1 in float32 has those of the whole model."""
    trainer = run.spec.trainer
    if trainer.gpus_per_replica and trainer.offload.optimizer == "cpu":
        return Part("sums of gradients", 0)
    whole = run.spec.model.dtype == "float32" and trainer.zero_stage == 1
    over = 1 if whole else trainer.ranks
    return Part("sums of gradients", 4 * shape.parameters / over, f"float32: 4 bytes a parameter over {over}")


def _buckets(shape: ModelShape, run: RLRun) -> Part:
    """DeepSpeed's buckets for gradients on their way; under stage 3 also weights that were gathered and wait."""
    trainer, item = run.spec.trainer, item_bytes(run)
    settings = trainer.deepspeed.get("zero_optimization")
    settings = settings if isinstance(settings, Mapping) else {}
    size = float(settings.get("reduce_bucket_size", REDUCE_BUCKET))
    if trainer.zero_stage == 1 and run.spec.model.dtype == "float32":
        size = 0.0
    twice = 2 if trainer.gpus_per_replica and trainer.zero_stage < 3 else 1  # communication beside the backward
    total = twice * item * size
    if trainer.zero_stage == 3 and trainer.ranks > 1:
        live = float(settings.get("stage3_max_live_parameters", GATHERED_LIVE))
        total += item * min(live, float(shape.parameters), 2.0 * shape.largest_layer.parameters + shape.head_parameters)
    return Part("gradients and weights on their way", total, f"{twice} x {size:.2g} numbers")


def _kept(shape: ModelShape, run: RLRun) -> Part:
    """Tensors that the forward pass keeps: inputs of layers, or all that the backward needs."""
    trainer, item = run.spec.trainer, item_bytes(run)
    tokens, is_gpu = trainer.rank_tokens, bool(trainer.gpus_per_replica)
    if trainer.activations == "keep":
        total = sum(layer_bytes(shape, each, tokens, item, is_gpu=is_gpu) for each in shape.layer_shapes)
        return Part("activations of all layers", total, "all that the backward needs")
    if trainer.activations == "offload" and is_gpu:
        return Part("inputs of layers", 0, "on the host")
    return Part("inputs of layers", input_bytes(shape, tokens, item), f"{item * shape.hidden} bytes a token and layer")


def _forward_parts(shape: ModelShape, run: RLRun) -> tuple[Part, ...]:
    head, _ = head_bytes(shape, run)
    return _kept(shape, run), Part("head", head, "pieces of float32 logits"), _sums(shape, run), _buckets(shape, run)


def _backward_parts(shape: ModelShape, run: RLRun) -> tuple[Part, ...]:
    """The largest of the head's backward and of a layer's, beside what the forward kept."""
    trainer, item = run.spec.trainer, item_bytes(run)
    tokens, is_gpu = trainer.rank_tokens, bool(trainer.gpus_per_replica)
    layer = max(layer_bytes(shape, each, tokens, item, is_gpu=is_gpu) for each in shape.layer_shapes)
    # Gradients of a layer's weights, and of the widest tensor and its input, are there before they are summed.
    widest = max(each.width * max(1, each.chosen) for each in shape.layer_shapes)
    gradients = item * shape.largest_layer.parameters + tokens * item * (2 * widest + 2 * shape.hidden)
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
    share = 4 * shape.parameters / trainer.ranks
    times = 1 if trainer.gpus_per_replica else 2
    own = Part("temporaries of the update", times * share, f"{4 * times} bytes a parameter over {trainer.ranks}")
    return _sums(shape, run), own
