"""Examines whether the trainer represents an architecture, from its configuration alone. PURE.

The model is built once on the `meta` device, which takes no memory, for what depends on its sizes; and once as a small
copy with real numbers, on which the trainer's own forward is compared with the model's. An examination that fails is a
refusal, never a pass.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.modeling_outputs import BaseModelOutputWithPast

from scalerl_runtime.algorithm.head import HeadTransform
from scalerl_runtime.models.head_transform import UnknownHead, measure_transform
from scalerl_runtime.models.packing_probe import (
    OWN_VALUE,
    TOLERANCE,
    PackedForward,
    find_mixing_module,
    largest_difference,
    largest_part_difference,
    register_own_value,
)
from scalerl_runtime.models.parts import auto_class, find_body, find_head
from scalerl_runtime.models.small_copy import build_small, kinds_of, require_kinds

HEAD_ROWS = 64  # of the small real head on which the transform is measured
# Model code may raise these on a configuration that it does not fit.
MODEL_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NotImplementedError, RuntimeError,
    StrictDataclassError, TypeError, ValueError,
)  # fmt: skip


class Unrepresentable(ValueError):
    """The trainer cannot represent the model; the message says what was found."""


def examine(config: Any, forward: PackedForward) -> HeadTransform:
    """Return what the model does to its head's output.

    Args:
        config: transformers' configuration.
        forward: the trainer's.

    Raises Unrepresentable.
    """
    with _explained("its class cannot be built"):
        model = build_empty(config)
        kinds = kinds_of(model)
    with _explained("head"):
        transform = measure_head(model)
    with _explained("a small copy cannot be built"):
        eager, packed = (build_small(config, attention) for attention in ("eager", forward.attention))
    with _explained("examination"):
        require_kinds(kinds, eager)
    _compare(config, eager, packed, forward)
    return transform


def examine_parts(config: Any, forward: PackedForward) -> None:
    """Try on small copies whether ranks that hold a part of a row each compute what one computes.

    Raises Unrepresentable.
    """
    with _explained("a row in parts"):
        difference = largest_part_difference([build_small(config, forward.attention) for _ in range(2)], forward)
    if not difference <= TOLERANCE:
        raise Unrepresentable(f"a row in parts gives other hidden states than the whole row (by {difference:.2g})")


def build_empty(config: Any) -> Any:
    """Return the model on the meta device: shapes without memory."""
    with torch.device("meta"):
        return auto_class(config).from_config(config, attn_implementation="eager").eval()


@torch.no_grad()
def measure_head(model: Any) -> HeadTransform:
    """Measure the head's transform on a model without weights, which has a small head and no body afterwards."""
    head = model.get_submodule(find_head(model))
    small = nn.Linear(head.in_features, HEAD_ROWS, bias=head.bias is not None)
    model.set_submodule(find_head(model), small)
    states = torch.randn(1, 4, head.in_features, generator=torch.Generator().manual_seed(0))
    find_body(model).forward = lambda *_args, **_others: _AnyOutput(last_hidden_state=states)
    try:
        with _DecideFalse():  # type: ignore[no-untyped-call]  # torch has no types here
            return measure_transform(model, torch.arange(4, device="meta"))
    except RuntimeError as error:
        if "meta" not in str(error):
            raise
        raise UnknownHead("layers of its own stand between the last hidden state and the logits") from error


class _DecideFalse(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Answer a model's question about a number that does not exist, such as "is this row packed?", with 0."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return torch.zeros((), dtype=args[0].dtype).item()
        return func(*args, **(kwargs or {}))


class _AnyOutput(BaseModelOutputWithPast):  # type: ignore[misc]  # transformers has no types here
    """A body's output in which everything but the hidden states is None, whatever the model looks for."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


def _compare(config: Any, eager: Any, packed: Any, forward: PackedForward) -> None:
    with _explained("small copy, eager attention"):
        made = measure_transform(eager, torch.arange(8, 12))
    _refuse_mixing(config)
    with _explained("packed rows"):
        head = packed.get_submodule(find_head(packed))
        difference = largest_difference(eager, packed, forward, head, made)
    if not difference <= TOLERANCE:
        found = f"packed rows give other log-probabilities than the model's own forward (by {difference:.2g} nats)"
        raise Unrepresentable(found)


def _refuse_mixing(config: Any) -> None:
    register_own_value()
    with _explained("attention: its code fails on rows without a mask"):
        mixing = find_mixing_module(find_body(build_small(config, OWN_VALUE)))
    if mixing is not None:
        raise Unrepresentable(f"{mixing} mixes tokens outside attention, so sequences of a packed row would mix")


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except MODEL_ERRORS as error:
        if isinstance(error, Unrepresentable):
            raise
        words = " ".join(str(error).split())[:300]
        raise Unrepresentable(f"{what}: {words or type(error).__name__}") from error
