"""Layout of the sequences in one packed row, and moving tokens between the row and padded batches. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

BUCKET_RATIO = 2  # a bucket's longest over its shortest sequence: padding at most doubles the attention's tokens


@dataclass(frozen=True)
class LengthBucket:
    """Sequences of similar length, attended as one padded batch."""

    num_sequences: int
    length: int  # tokens of the longest


@dataclass(frozen=True)
class PackedRow:
    """Layout of the sequences in one packed row of N tokens; built once, used by every layer."""

    cu_seqlens: Tensor  # [S + 1] int32, on the row's device
    max_length: int
    buckets: tuple[LengthBucket, ...]
    slots: Tensor  # [N] int64: each token's position in the buckets' padded batches, laid end to end

    @property
    def num_slots(self) -> int:
        """Tokens of the padded batches, padding included."""
        return sum(bucket.num_sequences * bucket.length for bucket in self.buckets)


def plan_row(cu_seqlens: Tensor) -> PackedRow:
    """Lay out the row whose sequence i is tokens cu_seqlens[i] to cu_seqlens[i + 1].

    Args:
        cu_seqlens: [S + 1] integers, 0 first, strictly rising. One device synchronisation reads them.

    Raises:
        ValueError: does not start at 0, or a sequence is empty.
    """
    bounds: list[int] = cu_seqlens.tolist()
    lengths = [stop - start for start, stop in pairwise(bounds)]
    if bounds[:1] != [0] or not lengths or min(lengths) < 1:
        raise ValueError(f"cu_seqlens is {bounds[:8]}; need 0 first, then strictly rising ends of sequences")
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    buckets = _plan_buckets([lengths[i] for i in order])
    widths = [bucket.length for bucket in buckets for _ in range(bucket.num_sequences)]
    first_slot = [0] * len(lengths)  # by sequence
    filled = 0
    for sequence, width in zip(order, widths, strict=True):
        first_slot[sequence] = filled
        filled += width
    shift = torch.tensor([slot - start for slot, start in zip(first_slot, bounds, strict=False)])
    slots = torch.arange(bounds[-1]) + shift.repeat_interleave(torch.tensor(lengths))
    device = cu_seqlens.device
    return PackedRow(cu_seqlens.to(torch.int32), max(lengths), tuple(buckets), slots.to(device))


def _plan_buckets(lengths: Sequence[int]) -> list[LengthBucket]:
    """Start a new bucket wherever a length, in falling order, is below the bucket's longest over BUCKET_RATIO."""
    buckets: list[LengthBucket] = []
    for length in lengths:
        if buckets and length * BUCKET_RATIO >= buckets[-1].length:
            buckets[-1] = LengthBucket(buckets[-1].num_sequences + 1, buckets[-1].length)
        else:
            buckets.append(LengthBucket(1, length))
    return buckets


class _TakeRows(torch.autograd.Function):
    """Rows of `padded` at unique `slots`; its backward writes rows, where index_select's would add them one by one."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, padded: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.num_slots = padded.shape[0]  # type: ignore[attr-defined]  # contexts carry attributes
        return padded.index_select(0, slots)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        (slots,) = ctx.saved_tensors  # type: ignore[attr-defined]  # known only to the backward node
        padded = grad.new_zeros(ctx.num_slots, *grad.shape[1:])  # type: ignore[attr-defined]  # set in forward
        return padded.index_copy_(0, slots, grad), None


def pad(packed: Tensor, row: PackedRow) -> tuple[Tensor, ...]:
    """[N, heads, D] as one [sequences, heads, length, D] per bucket, zeros where padded."""
    padded = packed.new_zeros(row.num_slots, *packed.shape[1:]).index_copy(0, row.slots, packed)
    parts = torch.split(padded, [bucket.num_sequences * bucket.length for bucket in row.buckets])
    return tuple(
        part.view(bucket.num_sequences, bucket.length, *part.shape[1:]).transpose(1, 2)
        for bucket, part in zip(row.buckets, parts, strict=True)
    )


def unpad(batches: Sequence[Tensor], row: PackedRow) -> Tensor:
    """[sequences, heads, length, D] per bucket as [N, heads, D]."""
    flat = [batch.transpose(1, 2).flatten(0, 1) for batch in batches]
    padded = flat[0] if len(flat) == 1 else torch.cat(flat)
    taken: Tensor = _TakeRows.apply(padded, row.slots)  # type: ignore[no-untyped-call]  # torch does not type apply
    return taken
