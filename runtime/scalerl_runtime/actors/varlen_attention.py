"""Exact causal attention for sequences packed into one row, a `transformers` attention called `scalerl_varlen`.

PURE but for `register_attention`, which enters the function in transformers' registry, once per process.
No mask of row length squared exists: neither here nor in transformers, which calls `_no_mask` for one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

ATTENTION_NAME = "scalerl_varlen"  # value of `attn_implementation`
BUCKET_RATIO = 2  # a bucket's longest over its shortest sequence: padding at most doubles the attention's tokens
FLASH_CAPABILITY = (8, 0)  # torch's varlen kernel is FlashAttention 2, which needs an Ampere or newer device
FLASH_MAX_HEAD_DIM = 256


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


def attend_row(query: Tensor, key: Tensor, value: Tensor, row: PackedRow, *, scale: float | None = None) -> Tensor:
    """Causal attention inside each sequence of a packed row, [N, heads, D], differentiable.

    Args:
        query: [N, heads, D].
        key, value: [N, key heads, D]; key heads divides heads (grouped queries).
        scale: of the scores; None is D ** -0.5.

    bf16 and fp16 on a device that has the kernel: torch's varlen flash attention. Else padded batches of similar
    length: a padding token comes after every token of its sequence, so the causal mask alone excludes it.

    Raises:
        ValueError: the row has another number of tokens than the layout.
    """
    if not query.shape[0] == key.shape[0] == row.slots.shape[0]:
        raise ValueError(f"row has {query.shape[0]} queries and {key.shape[0]} keys; its layout {row.slots.shape[0]}")
    if _is_flash_able(query):
        attended = varlen_attn(
            query, key, value, row.cu_seqlens, row.cu_seqlens, row.max_length, row.max_length,
            scale=scale, window_size=(-1, 0), enable_gqa=query.shape[1] != key.shape[1],
        )  # fmt: skip
        assert isinstance(attended, Tensor)  # a pair only when log-sum-exps are requested
        return attended
    return _attend_padded(query, key, value, row, scale=scale)


def _is_flash_able(query: Tensor) -> bool:
    head_dim = query.shape[-1]
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and head_dim % 8 == 0
        and head_dim <= FLASH_MAX_HEAD_DIM
        and torch.cuda.get_device_capability(query.device) >= FLASH_CAPABILITY
    )


def _attend_padded(query: Tensor, key: Tensor, value: Tensor, row: PackedRow, *, scale: float | None) -> Tensor:
    split = [_pad(tensor, row) for tensor in (query, key, value)]
    attended = []
    for bucket, *batch in zip(row.buckets, *split, strict=True):
        q, k, v = (part.view(bucket.num_sequences, bucket.length, *part.shape[1:]).transpose(1, 2) for part in batch)
        out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
        attended.append(out.transpose(1, 2).flatten(0, 1))
    padded = attended[0] if len(attended) == 1 else torch.cat(attended)
    taken: Tensor = _TakeRows.apply(padded, row.slots)  # type: ignore[no-untyped-call]  # torch does not type apply
    return taken


def _pad(packed: Tensor, row: PackedRow) -> tuple[Tensor, ...]:
    """[N, heads, D] as one [sequences * length, heads, D] per bucket, zeros where padded."""
    padded = packed.new_zeros(row.num_slots, *packed.shape[1:]).index_copy(0, row.slots, packed)
    return torch.split(padded, [bucket.num_sequences * bucket.length for bucket in row.buckets])


def _transformers_attention(
    _module: nn.Module,
    query: Tensor,  # [1, heads, N, D]
    key: Tensor,
    value: Tensor,
    _mask: None,
    *,
    packed_row: PackedRow | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_others: object,  # arguments that transformers passes to every attention and this one does not use
) -> tuple[Tensor, None]:
    """The function that transformers calls; returns [1, N, heads, D] and no attention weights."""
    if packed_row is None or query.shape[0] != 1:
        raise ValueError(f"{ATTENTION_NAME} attends one packed row, by forward_hidden; got a batch of {query.shape[0]}")
    if dropout or (sliding_window is not None and sliding_window < packed_row.max_length):
        raise ValueError(f"{ATTENTION_NAME} has neither dropout ({dropout}) nor a sliding window ({sliding_window})")
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return attend_row(q, k, v, packed_row, scale=scaling)[None], None


def _no_mask(*_args: object, attention_mask: Tensor | None = None, **_others: object) -> None:
    """Return no mask. Padding would be attended silently, so a padding mask is refused."""
    if attention_mask is not None:
        raise ValueError(f"{ATTENTION_NAME} packs without padding; got an attention mask {list(attention_mask.shape)}")


def register_attention() -> None:
    """Make `attn_implementation="scalerl_varlen"` known to transformers. Harmless when repeated."""
    AttentionInterface.register(ATTENTION_NAME, _transformers_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, _no_mask)


def forward_hidden(model: PreTrainedModel, tokens: Tensor, positions: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Last hidden states [N, H] of a packed row: the decoder with its final norm, without the LM head.

    Args:
        model: causal LM loaded with `attn_implementation=ATTENTION_NAME`; its gradient checkpointing works as usual.
        tokens: [N] ids of all sequences, end to end.
        positions: [N], from 0 in each sequence.
        cu_seqlens: [S + 1] where sequences start and end; see `plan_row`.

    Raises:
        ValueError: the model has another attention, which would attend across sequences or build an N x N mask.
    """
    if model.config._attn_implementation != ATTENTION_NAME:
        attention = model.config._attn_implementation
        raise ValueError(
            f"model's attention is {attention!r}; call register_attention, then load it with {ATTENTION_NAME!r}"
        )
    body = model.base_model
    out = body(input_ids=tokens[None], position_ids=positions[None], use_cache=False, packed_row=plan_row(cu_seqlens))
    hidden: Tensor = out.last_hidden_state
    return hidden[0]
