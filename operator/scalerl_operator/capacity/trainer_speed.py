"""Time of an optimizer step from operations, bytes and links. PURE.

Operations of a token: 2 a parameter forward, 4 backward, and 2 more where activations are computed again; the fused head
computes its logits again in any case. Attention is quadratic in a sequence's length; its backward takes 2.5 forwards.
Sums of gradients and collected weights travel beside the computation; the longer of the two counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from scalerl_operator.capacity.lengths import Lengths
from scalerl_operator.capacity.work import ModelWork


@dataclass(frozen=True)
class FlopsShare:
    """The share of a device's operations that training reaches, with what is computed again; causal attention once."""

    value: float
    source: str


# MosaicML's table counts attention without its mask; here it is counted with it: .474 of theirs is .40, .721 is .61.
_MOSAIC = "MosaicML's llm-foundry, MPT-13B at 16,384 tokens, recomputed, FSDP on 8"
_PRIME = "prime-rl's SFT of Qwen3-4B at 16,384 tokens on 8 B200"
FLOPS_SHARES: Mapping[str, FlopsShare] = MappingProxyType(
    {
        "A100": FlopsShare(0.61, f"{_MOSAIC} A100"),
        "H100": FlopsShare(0.40, f"{_MOSAIC} H100"),
        "H200": FlopsShare(0.40, f"{_MOSAIC} H100"),
        "B200": FlopsShare(0.20, _PRIME),
        "GB200": FlopsShare(0.20, _PRIME),
    }
)
OTHER_SHARE = FlopsShare(0.40, "no published number for the device: that of H100")
EXPERTS_FACTOR = 0.6  # of the share, with experts: prime-rl's SFT on 8 H200 reaches .24 for Qwen3-30B-A3B, .37 for 4B
HEAD_PASSES = 4  # the logits are computed twice; their gradient takes two products
ATTENTION_BACKWARD = 2.5
LINK_SHARE = 0.8  # of a link's or a memory's sheet value that long transfers reach
OPTIMIZER_BYTES = 34  # a parameter: reads gradient 4, weight 4, moments 8; writes weight 4, moments 8, gradient 4, bf16 2
GRADIENT_BYTES = 4  # sums of gradients are float32
PCIE_BANDWIDTH = 25e9  # bytes a second in one direction: what PCIe 4.0 x16 reaches; 5.0 about twice as much
HOST_ADAM_SECONDS = 1.0e-9  # a parameter, with the cores of an eighth of a node: 34 bytes at 34 GB/s
MICRO_BATCH_SECONDS = 0.02  # reads and launches of the host that no computation hides; an assumption


@dataclass(frozen=True, kw_only=True)
class TrainerSpeed:
    """The trainer group: a model on some GPUs, data parallel."""

    work: ModelWork
    ranks: int
    flops: float
    """Of one GPU, operations a second in the model's type."""
    flops_share: float
    """Of them, what it reaches, recomputed operations counted; in (0, 1]."""
    memory_bandwidth: float
    """Of one GPU, bytes a second."""
    link_bandwidth: float
    """Bytes a second that a GPU sends through the slowest link between the ranks."""
    weight_bytes: int
    """Of a parameter: 2 or 4."""
    zero_stage: Literal[1, 2, 3] = 1
    micro_batch_tokens: int = 16_384
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
    weights: float
    """Updated weights to all ranks."""
    optimizer: float
    offload: float
    """Copies to and from host memory; nothing hides them."""
    launches: float
    flops: float
    """Operations of the step, all ranks."""
    model_flops: float
    """Without what is computed again: the numerator of MFU."""
    tokens: float

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.compute + self.links + self.weights + self.optimizer + self.offload + self.launches


def time_training(speed: TrainerSpeed, lengths: Lengths, sequences: float) -> TrainTime:
    """Return the time of a step that trains on so many sequences, > 0, of prompts and completions."""
    flops, model_flops = count_flops(speed, lengths, sequences)
    tokens = lengths.sequence * sequences
    micro_batches = max(1.0, tokens / speed.ranks / speed.micro_batch_tokens)
    compute = flops / (speed.flops * speed.flops_share * speed.ranks)
    weights = speed.work.parameters * speed.weight_bytes / speed.sends_at
    sums = speed.work.parameters * GRADIENT_BYTES / speed.sends_at
    if speed.reduces_each_micro_batch:
        sums *= micro_batches
    gathers = 2 * micro_batches * weights if speed.zero_stage == 3 else 0.0  # forward, and once for the backward
    return TrainTime(
        compute=compute,
        links=max(0.0, sums + gathers - compute),
        weights=0.0 if speed.zero_stage == 3 else weights,
        optimizer=_optimizer_seconds(speed),
        offload=_offload_seconds(speed, tokens / speed.ranks, micro_batches),
        launches=micro_batches * MICRO_BATCH_SECONDS,
        flops=flops,
        model_flops=model_flops,
        tokens=tokens,
    )


def find_flops_share(device: str, *, has_experts: bool) -> FlopsShare:
    """Return the share that a device's trainer reaches, by the device's name up to its first dash."""
    found = FLOPS_SHARES.get(device.split("-")[0], OTHER_SHARE)
    if not has_experts:
        return found
    return FlopsShare(found.value * EXPERTS_FACTOR, f"{found.source}; {EXPERTS_FACTOR} of it for experts")


def count_flops(speed: TrainerSpeed, lengths: Lengths, sequences: float) -> tuple[float, float]:
    """Return the operations of a step over all ranks, and those without what is computed again (for MFU)."""
    work, again = speed.work, speed.activations != "keep"
    tokens, completions = lengths.sequence * sequences, lengths.mean * sequences  # the head sees completions only
    attention = work.attention_flops(sequences, lengths.sequence, lengths.sequence_squared)
    body, head = 2.0 * work.body_parameters * tokens, 2.0 * work.head_parameters * completions
    flops = (3 + again) * body + HEAD_PASSES * head + (1 + ATTENTION_BACKWARD + again) * attention
    return flops, 3 * (body + head + attention)


def _optimizer_seconds(speed: TrainerSpeed) -> float:
    own = speed.work.parameters / speed.ranks
    if speed.offload_optimizer:
        return own * HOST_ADAM_SECONDS
    return own * OPTIMIZER_BYTES / (speed.memory_bandwidth * LINK_SHARE)


def _offload_seconds(speed: TrainerSpeed, tokens: float, micro_batches: float) -> float:
    own, copied = speed.work.parameters / speed.ranks, 0.0
    if speed.offload_optimizer:
        copied += own * (GRADIENT_BYTES + speed.weight_bytes)
    if speed.offload_parameters:
        copied += 2 * micro_batches * own * speed.weight_bytes
    if speed.activations == "offload":
        copied += 2 * tokens * speed.work.layers * speed.work.hidden * speed.weight_bytes
    return copied / PCIE_BANDWIDTH
