"""Time of an optimizer step from operations, bytes and links. PURE.

Operations of a token: 2 a parameter forward, 4 backward, and 2 more where activations are computed again; the fused
head computes its logits again in any case. With adapters the model's own weights take no gradient: 2 backward.
Attention is quadratic in a sequence's length; its backward takes 2.5
forwards.
Sums of gradients and collected weights travel beside the computation; the longer of the two counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import lcm
from types import MappingProxyType
from typing import Literal

from scalerl_operator.capacity.lengths import Lengths
from scalerl_operator.capacity.work import ModelWork


@dataclass(frozen=True)
class FlopsShare:
    """The share of a device's operations that training reaches, with what is computed again; causal attention once."""

    products: float
    """Of the products with weights, in (0, 1]."""
    attention: float
    """Of attention's, in (0, 1]."""
    source: str
    mfu: float | None = None
    """Given instead of both: model operations, without what is computed again, over what the device could do."""

    def seconds(self, counted: "StepFlops", flops: float) -> float:
        """Return the seconds of these operations on devices that do `flops` a second together."""
        if self.mfu is not None:
            return counted.model / (self.mfu * flops)
        return (counted.products / self.products + counted.attention / self.attention) / flops


@dataclass(frozen=True)
class StepFlops:
    """Operations of a step, all ranks."""

    products: float
    attention: float
    model: float
    """Of both, without what is computed again: the numerator of MFU."""


# Fitted to MosaicML's table (llm-foundry, scripts/train/benchmarking: MPT 7B and 13B at 4k to 32k tokens, recomputed,
# FSDP on 8 GPUs): .61 and .19 on H100 and .80 and .34 on A100 meet it within 2 %. torchtitan's Llama 3.1 8B, on H100 of
# 500 W, is at .45 of products. Taken is a little less than MosaicML's, as our kernels are transformers', not fused.
_MOSAIC = "MosaicML llm-foundry's MPT 7B and 13B with FSDP, a tenth less for products"
_PRIME = "prime-rl's SFT of Qwen3-4B at 16k and 65k tokens on 8 B200"
FLOPS_SHARES: Mapping[str, FlopsShare] = MappingProxyType(
    {
        "A100": FlopsShare(0.72, 0.34, _MOSAIC),
        "H100": FlopsShare(0.55, 0.19, _MOSAIC),
        "H200": FlopsShare(0.55, 0.19, _MOSAIC),
        "B200": FlopsShare(0.234, 0.16, _PRIME),
        "GB200": FlopsShare(0.234, 0.16, _PRIME),
    }
)
OTHER_SHARE = FlopsShare(0.55, 0.19, "no published number for the device: that of H100")
EXPERTS_FACTOR = 0.67  # of products, with experts: prime-rl's SFT of Qwen3-30B-A3B on 8 H200
HEAD_PASSES = 4  # the logits are computed twice; their gradient takes two products
ATTENTION_BACKWARD = 2.5
LINK_SHARE = 0.8  # of a link's or a memory's sheet value that long transfers reach
OPTIMIZER_BYTES = (
    34  # a parameter: reads gradient 4, weight 4, moments 8; writes weight 4, moments 8, gradient 4, bf16 2
)
GRADIENT_BYTES = 4  # sums of gradients are float32
PCIE_BANDWIDTH = 25e9  # bytes a second in one direction: what PCIe 4.0 x16 reaches; 5.0 about twice as much
HOST_ADAM_SECONDS = 1.0e-9  # a parameter, with the cores of an eighth of a node: 34 bytes at 34 GB/s
MICRO_BATCH_SECONDS = 0.02  # reads and launches of the host that no computation hides; an assumption


@dataclass(frozen=True, kw_only=True)
class TrainerSpeed:
    """The trainer group: a model on some GPUs, data parallel, and in groups that share rows."""

    work: ModelWork
    ranks: int
    flops: float
    """Of one GPU, operations a second in the model's type."""
    share: FlopsShare
    memory_bandwidth: float
    """Of one GPU, bytes a second."""
    link_bandwidth: float
    """Bytes a second that a GPU sends through the slowest link between the ranks."""
    weight_bytes: int
    """Of a parameter: 2 or 4."""
    zero_stage: Literal[1, 2, 3] = 1
    micro_batch_tokens: int = 16_384
    """Of a rank: its part of a row, where ranks share rows."""
    sequence_parallel: int = 1
    """Ranks that share a row."""
    exchange_bandwidth: float = float("inf")
    """Bytes a second that a GPU sends through the slowest link between them."""
    activations: Literal["checkpoint", "offload", "keep"] = "checkpoint"
    offload_optimizer: bool = False
    offload_parameters: bool = False

    @property
    def reduces_each_micro_batch(self) -> bool:
        """Whether gradients are summed over the ranks after each micro-batch: in bfloat16 at every stage (note 081)."""
        return self.zero_stage > 1 or self.weight_bytes == 2

    @property
    def sends_at(self) -> float:
        """Bytes a second of a collective's result: each rank sends all but its own share of it."""
        return self.link_bandwidth * LINK_SHARE * self.ranks / (self.ranks - 1) if self.ranks > 1 else float("inf")


@dataclass(frozen=True, kw_only=True)
class TrainTime:
    """Seconds of an optimizer step, by part."""

    compute: float
    links: float
    """Sums of gradients and, with ZeRO 3, collected weights, beyond what the computation hides."""
    exchange: float
    """All-to-alls around attention; nothing hides them."""
    weights: float
    """Updated weights to all ranks."""
    optimizer: float
    offload: float
    """Copies to and from host memory; nothing hides them."""
    launches: float
    flops: StepFlops
    tokens: float

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.compute + self.links + self.exchange + self.weights + self.optimizer + self.offload + self.launches


def time_training(speed: TrainerSpeed, lengths: Lengths, sequences: float) -> TrainTime:
    """Return the time of a step that trains on so many sequences, > 0, of prompts and completions."""
    flops = count_flops(speed, lengths, sequences)
    tokens = lengths.sequence * sequences
    micro_batches = max(1.0, tokens / speed.ranks / speed.micro_batch_tokens)
    compute = speed.share.seconds(flops, speed.flops * speed.ranks)
    weights = speed.work.parameters * speed.weight_bytes / speed.sends_at
    updated = speed.work.trained_parameters * speed.weight_bytes / speed.sends_at
    sums = speed.work.trained_parameters * GRADIENT_BYTES / speed.sends_at
    if speed.reduces_each_micro_batch:
        sums *= micro_batches
    gathers = 2 * micro_batches * weights if speed.zero_stage == 3 else 0.0  # forward, and once for the backward
    return TrainTime(
        compute=compute,
        links=max(0.0, sums + gathers - compute),
        exchange=_exchange_seconds(speed, tokens / speed.ranks),
        weights=0.0 if speed.zero_stage == 3 else updated,
        optimizer=_optimizer_seconds(speed),
        offload=_offload_seconds(speed, tokens / speed.ranks, micro_batches),
        launches=micro_batches * MICRO_BATCH_SECONDS,
        flops=flops,
        tokens=tokens,
    )


def find_flops_share(device: str, *, has_experts: bool) -> FlopsShare:
    """Return the share that a device's trainer reaches, by the device's name up to its first dash."""
    found = FLOPS_SHARES.get(device.split("-")[0], OTHER_SHARE)
    if not has_experts:
        return found
    return replace(
        found, products=found.products * EXPERTS_FACTOR, source=f"{found.source}; {EXPERTS_FACTOR} for experts"
    )


def count_flops(speed: TrainerSpeed, lengths: Lengths, sequences: float) -> StepFlops:
    """Return the operations of a step over all ranks."""
    work, again = speed.work, speed.activations != "keep"
    tokens, completions = lengths.sequence * sequences, lengths.mean * sequences  # the head sees completions only
    attention = work.attention_flops(sequences, lengths.sequence, lengths.sequence_squared)
    body, head = 2.0 * work.body_parameters * tokens, 2.0 * work.head_parameters * completions
    # The gradient of a weight is a product as large as its forward.
    own = 0 if work.adapters is None else 1
    adapters = 6.0 * (work.adapters or 0) * tokens
    return StepFlops(
        products=(3 + again - own) * body + (HEAD_PASSES - own) * head + adapters,
        attention=(1 + ATTENTION_BACKWARD + again) * attention,
        model=(3 - own) * (body + head) + 3 * attention + adapters,
    )


def _optimizer_seconds(speed: TrainerSpeed) -> float:
    own = speed.work.trained_parameters / speed.ranks
    if speed.offload_optimizer:
        return own * HOST_ADAM_SECONDS
    return own * OPTIMIZER_BYTES / (speed.memory_bandwidth * LINK_SHARE)


def _exchange_seconds(speed: TrainerSpeed, tokens: float) -> float:
    """Queries, keys and values out and results back, of all layers; in the forward, once more, and in the backward.

    Key heads are repeated until the ranks divide them.
    """
    work, size = speed.work, speed.sequence_parallel
    numbers = 2 * work.attention_width + lcm(work.kv_heads, size) * work.kv_width
    passes = 2 if speed.activations == "keep" else 3
    sent = passes * tokens * work.layers * numbers * speed.weight_bytes * (size - 1) / size
    return sent / (speed.exchange_bandwidth * LINK_SHARE)


def _offload_seconds(speed: TrainerSpeed, tokens: float, micro_batches: float) -> float:
    copied = 0.0
    if speed.offload_optimizer:
        copied += speed.work.trained_parameters / speed.ranks * (GRADIENT_BYTES + speed.weight_bytes)
    if speed.offload_parameters:
        copied += 2 * micro_batches * speed.work.parameters / speed.ranks * speed.weight_bytes
    if speed.activations == "offload":
        copied += 2 * tokens * speed.work.layers * speed.work.hidden * speed.weight_bytes
    return copied / PCIE_BANDWIDTH
