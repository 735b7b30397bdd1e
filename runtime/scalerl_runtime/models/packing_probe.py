"""Tries on a small copy whether the trainer's packed rows give what the model's own forward gives. PURE.

The reference is transformers' eager attention, one sequence at a time, with nothing but token ids given: so positions,
masks, windows, soft caps, sinks, the head and everything that a later model invents are compared, not only those that
somebody thought of. A second trial names the module at fault: with attention that passes each token its own value, no
token's state may depend on another token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from scalerl_runtime.algorithm.head import HeadTransform

LENGTHS = (19, 5, 11)  # tokens of the packed sequences; two are longer than the small copy's windows
TOLERANCE = 1e-3  # nats; float32 rounding leaves 1e-5
OWN_VALUE = "scalerl_own_value"  # an attention without any mixing of tokens
CHANGED = 6  # position of the token that is changed


@dataclass(frozen=True)
class PackedForward:
    """The trainer's own forward over packed rows."""

    attention: str  # its `attn_implementation`, already registered
    hidden: Callable[[Any, Tensor, Tensor, Tensor], Tensor]  # (model, tokens, positions, cu_seqlens) -> [N, H]
    in_parts: Callable[[Sequence[Any], Tensor, Tensor, Tensor], Tensor]  # the same by as many ranks as equal models


@torch.no_grad()
def largest_difference(eager: Any, packed: Any, forward: PackedForward, head: nn.Linear, made: HeadTransform) -> float:
    """Return the largest difference of log-probabilities (nats) between packed rows and sequences alone.

    Args:
        eager, packed: two models of the same weights, with eager attention and with `forward.attention`.
        forward: the trainer's forward.
        head: of `packed`.
        made: of the head's output.
    """
    sequences = [_tokens(length, seed) for seed, length in enumerate(LENGTHS)]
    alone = torch.cat([eager(input_ids=each[None], use_cache=False).logits[0] for each in sequences])
    cu_seqlens = torch.tensor([0, *accumulate(LENGTHS)])
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    logits = made.apply(head(forward.hidden(packed, torch.cat(sequences), positions, cu_seqlens)))
    if not bool(torch.isfinite(alone).all()):
        raise ValueError("the model's own forward gives numbers that are not finite")
    return float((logits.log_softmax(-1) - alone.float().log_softmax(-1)).abs().max())


@torch.no_grad()
def largest_part_difference(models: Sequence[Any], forward: PackedForward) -> float:
    """Return the largest relative difference of hidden states of a row, whole and in as many parts as equal `models`.

    A cut is inside of a sequence, and where the row is not divisible the last part is padded.
    """
    sequences = [_tokens(length, seed) for seed, length in enumerate(LENGTHS)]
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    row = torch.cat(sequences), positions, torch.tensor([0, *accumulate(LENGTHS)])
    whole, parts = forward.hidden(models[0], *row), forward.in_parts(models, *row)
    return float((whole - parts).abs().max() / whole.abs().max())


def _tokens(length: int, seed: int) -> Tensor:
    return torch.randint(8, 120, (length,), generator=torch.Generator().manual_seed(seed))


def register_own_value() -> None:
    """Make `attn_implementation=OWN_VALUE` known to transformers. Harmless when repeated."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(OWN_VALUE, _attend_own_value)
    AttentionMaskInterface.register(OWN_VALUE, lambda *_args, **_others: None)


def _attend_own_value(
    _module: nn.Module, query: Tensor, _key: Tensor, value: Tensor, *_args: object, **_others: object
) -> tuple[Tensor, None]:
    return value.repeat_interleave(query.shape[1] // value.shape[1], dim=1).transpose(1, 2).contiguous(), None


@torch.no_grad()
def find_mixing_module(body: Any) -> str | None:
    """Return class and name of the first module that mixes tokens outside attention; None if there is none.

    `body` makes the hidden states of a model with the attention OWN_VALUE.
    """
    tokens = _tokens(LENGTHS[0], 0)
    other = tokens.clone()
    other[CHANGED] = 7
    first, second = (_record(body, each) for each in (tokens, other))
    for name, (before, after) in first.items():
        again = second.get(name)
        if again is not None and not _spreads(before, again[0]) and _spreads(after, again[1]):
            return f"{type(dict(body.named_modules())[name]).__name__} ({name})" if name else type(body).__name__
    return None


def _record(body: Any, tokens: Tensor) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
    """Inputs and outputs of every module that has both by token, in the order in which they end."""
    found: dict[str, tuple[list[Tensor], list[Tensor]]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            found[name] = (_by_token([*args, *kwargs.values()]), _by_token(output))

        return hook

    handles = [each.register_forward_hook(keep(name), with_kwargs=True) for name, each in body.named_modules()]
    try:
        body(input_ids=tokens[None], position_ids=torch.arange(len(tokens))[None], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _by_token(values: Any) -> list[Tensor]:
    """The tensors among `values` with one axis as long as the row, that axis first."""
    if isinstance(values, Tensor):
        values = torch.view_as_real(values) if values.is_complex() else values
        axes = [axis for axis, size in enumerate(values.shape) if size == LENGTHS[0]]
        return [values.detach().clone().movedim(axes[0], 0)] if len(axes) == 1 else []
    if isinstance(values, dict):
        values = list(values.values())
    return [tensor for each in values for tensor in _by_token(each)] if isinstance(values, list | tuple) else []


def _spreads(before: list[Tensor], after: list[Tensor]) -> bool:
    """Whether anything but the changed token's entry differs."""
    others = [index for index in range(LENGTHS[0]) if index != CHANGED]
    pairs = [(b[others], a[others]) for b, a in zip(before, after, strict=False) if b.shape == a.shape]
    return any(not torch.allclose(b.float(), a.float(), rtol=1e-4, atol=1e-5) for b, a in pairs)
