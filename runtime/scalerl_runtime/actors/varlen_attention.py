"""Exact causal attention for sequences packed into one row, a `transformers` attention called `scalerl_varlen`.

PURE but for `register_attention`, which enters the functions in transformers' registry, once per process.
No mask of row length squared exists: transformers calls `_describe_mask` for one, and gets its description.
Whatever a layer asks for that is not represented here is refused by name; nothing is ignored.
"""

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import pad as pad_last
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from scalerl_runtime.actors.block_attention import AttentionRule, attend_blocks
from scalerl_runtime.actors.packed_row import PackedRow, pad, plan_row, unpad
from scalerl_runtime.actors.sequence.sequence_group import SequenceGroup
from scalerl_runtime.models.parts import find_body

ATTENTION_NAME = "scalerl_varlen"  # value of `attn_implementation`
FLASH_CAPABILITY = (8, 0)  # torch's varlen kernel is FlashAttention 2, which needs an Ampere or newer device
FLASH_MAX_HEAD_DIM = 256
# Arguments that some layers pass to every attention, and that no attention of transformers uses.
UNUSED = frozenset({"position_ids", "position_embeddings", "cache_position", "hidden_states", "use_cache"})


@dataclass(frozen=True)
class RowMask:
    """Which earlier tokens a token sees; stands where transformers has a mask."""

    row: PackedRow  # only those of its own sequence
    window: int | None = None  # itself and the window - 1 before it
    chunk: int | None = None  # those of its own chunk
    group: SequenceGroup | None = None  # ranks that hold a part of the row each

    def __getattr__(self, name: str) -> object:
        """Refuse what a tensor would answer: a layer that computes with its mask has an attention of its own."""
        raise AttributeError(f"a layer reads the attention mask itself: {ATTENTION_NAME} has a description only")

    def __getitem__(self, index: object) -> object:
        """Refuse the same for an index."""
        raise TypeError(f"a layer reads the attention mask itself: {ATTENTION_NAME} has a description only")


# Of the row that a body runs on: transformers asks for the mask inside the body, and passes no argument of ours to it.
# The mask carries the row on, so that layers are functions of their arguments when a checkpoint runs them again.
_current_mask: ContextVar[RowMask] = ContextVar("row_mask")


def attend_row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    row: PackedRow,
    *,
    rule: AttentionRule | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Causal attention inside each sequence of a packed row, [N, heads, E], differentiable.

    Args:
        query: [N, heads, D].
        key, value: [N, key heads, D], [N, key heads, E]; key heads divides heads (grouped queries).
        row: the sequences' layout.
        rule: scale, window, chunk and soft cap; None is D ** -0.5 and nothing else.
        sinks: [heads]; see `attend_blocks`.

    bf16 and fp16 on a device that has the kernel: torch's varlen flash attention, which has windows. Else padded
    batches of similar length: a padding token comes after every token of its sequence, so causality excludes it.

    Raises:
        ValueError: the row has another number of tokens than the layout.
    """
    if not query.shape[0] == key.shape[0] == row.slots.shape[0]:
        raise ValueError(f"row has {query.shape[0]} queries and {key.shape[0]} keys; its layout {row.slots.shape[0]}")
    rule = rule or AttentionRule(query.shape[-1] ** -0.5)
    is_special = sinks is not None or rule.softcap is not None
    is_chunked = rule.chunk is not None and rule.chunk < row.max_length
    if not is_special and not is_chunked and _is_flash_able(query):
        return _attend_flash(query, key, value, row, rule)
    batches = zip(pad(query, row), pad(key, row), pad(value, row), strict=True)
    return unpad([_attend_batch(*batch, sinks, rule) for batch in batches], row)


def _attend_batch(query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None, rule: AttentionRule) -> Tensor:
    if sinks is not None or not rule.is_plain(query.shape[2]):
        return attend_blocks(query, key, value, sinks, rule)
    grouped = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(query, key, value, is_causal=True, scale=rule.scale, enable_gqa=grouped)


def _attend_flash(query: Tensor, key: Tensor, value: Tensor, row: PackedRow, rule: AttentionRule) -> Tensor:
    # The kernel's left size counts the tokens before the query's own; it wants values as wide as keys.
    left = -1 if rule.window is None or rule.window >= row.max_length else rule.window - 1
    attended = varlen_attn(
        query, key, pad_last(value, (0, query.shape[-1] - value.shape[-1])), row.cu_seqlens, row.cu_seqlens,
        row.max_length, row.max_length, scale=rule.scale, window_size=(left, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    assert isinstance(attended, Tensor)  # a pair only when log-sum-exps are requested
    return attended[..., : value.shape[-1]]


def _is_flash_able(query: Tensor) -> bool:
    head_dim = query.shape[-1]
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and head_dim % 8 == 0
        and head_dim <= FLASH_MAX_HEAD_DIM
        and torch.cuda.get_device_capability(query.device) >= FLASH_CAPABILITY
    )


def _transformers_attention(
    module: nn.Module,
    query: Tensor,  # [1, heads, N, D]
    key: Tensor,
    value: Tensor,
    attention_mask: object,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """The function that transformers calls; returns [1, N, heads, E] and no attention weights."""
    mask = attention_mask
    if not isinstance(mask, RowMask):
        found = f"{type(module).__name__} has a mask of its own, {type(mask).__name__}"
        raise ValueError(f"{found}: {ATTENTION_NAME} attends packed rows, by forward_hidden")
    if query.shape[0] != 1:
        raise ValueError(f"{ATTENTION_NAME} attends one packed row, by forward_hidden; got a batch of {query.shape[0]}")
    _refuse_others(module, {**others, "sliding_window": sliding_window if sliding_window != mask.window else None})
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rule = AttentionRule(scale, mask.window, mask.chunk, softcap)
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if mask.group is None:
        return attend_row(q, k, v, mask.row, rule=rule, sinks=s_aux)[None], None
    q, k, v = mask.group.to_heads(q, k, v)
    attended = attend_row(q, k, v, mask.row, rule=rule, sinks=mask.group.own_heads(s_aux))
    return mask.group.to_part(attended)[None], None


def _refuse_others(module: nn.Module, arguments: dict[str, object]) -> None:
    """Raise ValueError for an argument that changes the attention in a way that it does not represent."""
    refused = [
        f"{name} {given if isinstance(given, int | float) else type(given).__name__}"
        for name, given in arguments.items()
        if name not in UNUSED and not (given is None or (isinstance(given, bool | float) and not given))
    ]
    is_causal = arguments.get("is_causal")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        refused.append("attention to later tokens")
    if refused:
        raise ValueError(f"{type(module).__name__} has {', '.join(refused)}: {ATTENTION_NAME} has not")


def _describe_mask(
    *, mask_function: Callable[..., Any], attention_mask: Tensor | None = None, **_others: object
) -> RowMask:
    """Return what transformers' mask function does.

    Padding would be attended silently, so a padding mask is refused; so is every function that is not known here.
    """
    mask = _current_mask.get(None)
    if mask is None:
        raise ValueError(f"{ATTENTION_NAME} attends one packed row, by forward_hidden")
    if attention_mask is not None and not bool(attention_mask.all()):
        raise ValueError(f"{ATTENTION_NAME} packs without padding; got an attention mask {list(attention_mask.shape)}")
    sizes = _mask_sizes(mask_function)
    return replace(mask, window=_smallest(sizes, "sliding_window"), chunk=_smallest(sizes, "chunk_size"))


def _mask_sizes(mask_function: Callable[..., Any]) -> list[tuple[str, int]]:
    """Return name and tokens of each window and chunk in a causal mask function."""
    name = mask_function.__qualname__
    values = inspect.getclosurevars(mask_function).nonlocals
    if name == "and_masks.<locals>.and_mask":
        return [size for part in values["mask_functions"] for size in _mask_sizes(part)]
    # The row's layout says what is packed.
    if name in ("causal_mask_function", "packed_sequence_mask_function.<locals>.inner_mask"):
        return []
    known = {
        "sliding_window_overlay.<locals>.inner_mask": "sliding_window",
        "chunked_overlay.<locals>.inner_mask": "chunk_size",
    }
    if name not in known:
        raise ValueError(f"the model masks attention by {name}: {ATTENTION_NAME} has no such mask")
    return [(known[name], values[known[name]])]


def _smallest(sizes: list[tuple[str, int]], wanted: str) -> int | None:
    return min((size for name, size in sizes if name == wanted), default=None)


def register_attention() -> None:
    """Make `attn_implementation="scalerl_varlen"` known to transformers. Harmless when repeated."""
    AttentionInterface.register(ATTENTION_NAME, _transformers_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, _describe_mask)


def forward_hidden(
    model: PreTrainedModel, tokens: Tensor, positions: Tensor, cu_seqlens: Tensor, group: SequenceGroup | None = None
) -> Tensor:
    """Last hidden states [N, H] of a packed row: the decoder with its final norm, without the LM head.

    Args:
        model: causal LM loaded with `attn_implementation=ATTENTION_NAME`; its gradient checkpointing works as usual.
        tokens: [N] ids of all sequences, end to end.
        positions: [N], from 0 in each sequence.
        cu_seqlens: [S + 1] where sequences start and end; see `plan_row`.
        group: ranks that share the row: then the hidden states [P, H] of this rank's part.

    Raises:
        ValueError: the model has another attention, which would attend across sequences or build an N x N mask; or it
            asks for something that this attention has not.
    """
    if model.config._attn_implementation != ATTENTION_NAME:
        attention = model.config._attn_implementation
        raise ValueError(
            f"model's attention is {attention!r}; call register_attention, then load it with {ATTENTION_NAME!r}"
        )
    body = find_body(model)
    if group is not None:
        cu_seqlens = group.close(cu_seqlens, tokens.shape[0])
        tokens, positions = group.cut(tokens), group.cut(positions)
    token = _current_mask.set(RowMask(plan_row(cu_seqlens), group=group))
    try:
        out = body(input_ids=tokens[None], position_ids=positions[None], use_cache=False)
    finally:
        _current_mask.reset(token)
    hidden: Tensor = out.last_hidden_state
    return hidden[0]
