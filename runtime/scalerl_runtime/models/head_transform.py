"""Measures what a model does to its hidden states before its LM head, and to the head's output after it. PURE.

Configurations name it in a dozen ways, so nothing is read from them: the model's own forward runs with chosen numbers
in place of the head's output.
"""

from typing import Any

import torch
from torch import Tensor

from scalerl_runtime.algorithm.head import IDENTITY, HeadTransform
from scalerl_runtime.models.parts import find_body, find_head

SMALL, HUGE = 1e-3, 1e7  # logits where every soft cap of use is linear, and where it is saturated
RELATIVE_ERROR = 1e-4


class UnknownHead(ValueError):
    """The model's forward does something else than a linear head with a scale and a soft cap."""


@torch.no_grad()
def measure_transform(model: Any, tokens: Tensor) -> HeadTransform:
    """Return scale and soft cap of a causal LM whose head is in place.

    Args:
        model: any attention that takes a batch of one, such as eager.
        tokens: [T] any few ids.

    Raises:
        UnknownHead: the forward is none that `HeadTransform` represents.
    """
    head = model.get_submodule(find_head(model))
    states: list[Tensor] = []
    probe = _probe(head.out_features, len(tokens)).to(head.weight.device)
    handles = [
        find_body(model).register_forward_hook(lambda _module, _args, out: states.append(_hidden(out))),
        head.register_forward_pre_hook(lambda _module, args: states.append(args[0])),
        head.register_forward_hook(lambda *_: probe),
    ]
    try:
        logits = model(input_ids=tokens[None], use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    if len(states) != 2 or states[0].shape != states[1].shape or logits.shape != probe.shape:
        raise UnknownHead("hidden states reach the head, or logits leave it, in another shape")
    before = _factor(states[0].double(), states[1].double(), tolerance=2**-7)
    if before != 1.0 and head.bias is not None:
        raise UnknownHead(f"hidden states are multiplied by {before} before a head with a bias")
    after = _fit(probe[0].double(), logits[0].double())
    return HeadTransform(before * after.scale, after.softcap)


def _hidden(output: Any) -> Tensor:
    states: Tensor = output.last_hidden_state
    return states


def _probe(vocabulary: int, length: int) -> Tensor:
    """[1, T, V] logits in float32: huge, small, then some of a usual size."""
    usual = torch.linspace(-90.0, 90.0, vocabulary)
    usual[:2] = torch.tensor([HUGE, SMALL])
    return usual.repeat(1, length, 1)


def _fit(given: Tensor, returned: Tensor) -> HeadTransform:
    """Find the transform from [T, V] logits before and after."""
    scale = _round(float(returned[0, 1] / given[0, 1]))
    largest = float(returned[0, 0])
    softcap = None if abs(largest - scale * HUGE) <= RELATIVE_ERROR * scale * HUGE else _round(largest)
    found = HeadTransform(scale, softcap)
    if scale <= 0 or (softcap is not None and softcap <= 0) or not _matches(found, given, returned):
        raise UnknownHead("logits are changed after the head by more than a scale and a soft cap")
    return IDENTITY if found == IDENTITY else found


def _matches(found: HeadTransform, given: Tensor, returned: Tensor) -> bool:
    expected = found.apply(given)
    return bool(((expected - returned).abs() <= RELATIVE_ERROR * expected.abs().clamp(min=1e-2 * SMALL)).all())


def _factor(before: Tensor, after: Tensor, *, tolerance: float) -> float:
    """Return the number that makes `after` of `before`; hidden states may be rounded to bf16."""
    factor = _round(float((before * after).sum() / before.square().sum()))
    if abs(factor - 1.0) <= tolerance:
        factor = 1.0
    if float((after - factor * before).abs().max()) > tolerance * float(after.abs().max()):
        raise UnknownHead("hidden states are changed before the head by more than a factor")
    return factor


def _round(value: float) -> float:
    """The number that a configuration has, or one over it: float32 knows seven digits, nobody writes more than six."""
    for written in (float(f"{value:.6g}"), 1.0 / float(f"{1.0 / value:.6g}") if value else 0.0):
        if abs(written - value) <= 2e-7 * abs(value):
            return written
    return value
