"""Activation checkpointing: a decoder layer keeps its input, and is computed again in the backward pass. PURE."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from scalerl_api import Fault, InvalidRun
from scalerl_runtime.models.parts import find_body, find_layers
from scalerl_runtime.models.router_replay import is_experts

Activations = Literal["checkpoint", "offload", "keep"]

HOLDER = -1  # stands among the numbers of the modules that use a weight; DeepSpeed's begin at 0
ACTIVATIONS_PATH = "spec.trainer.activations"


def arrange_activations(model: Any, activations: Activations) -> None:
    """Have every decoder layer of `model` keep only its input for the backward pass, or everything with `keep`.

    transformers' own switch acts in training mode only, which turns dropout on: a policy is in eval mode.

    Args:
        model: a causal LM of transformers; its layers' `forward` is replaced on the instances.
        activations: `checkpoint` keeps a layer's input where it is, `offload` in host memory.

    Raises:
        InvalidRun: the model has no decoder layers of transformers' kind.
    """
    if activations == "keep":
        return
    layers = find_layers(find_body(model))
    if not layers:
        found = f"{activations} for {type(model).__name__}, none of whose layers can be computed again"
        raise InvalidRun([Fault(ACTIVATIONS_PATH, found, "keep for this model")])
    for layer in layers:
        has_experts = any(is_experts(module) for module in layer.modules())
        layer.forward = partial(
            _run_layer,
            layer.forward,
            partial(_make_contexts, layer, has_experts=has_experts),
            offload=activations == "offload",
        )


def _run_layer(
    forward: Callable[..., Any], make_contexts: Callable[[], Any], *args: Any, offload: bool, **kwargs: Any
) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    if not args and "hidden_states" in kwargs:
        args = (kwargs.pop("hidden_states"),)
    # Keywords are kept by reference: the mask's layout, and cosines that all layers share.
    with _offloading(args) if offload else nullcontext():
        # ZeRO-3 has hooks after each module's forward, so each must run to its end.
        return checkpoint(
            partial(forward, **kwargs), *args, use_reentrant=False, early_stop=False, context_fn=make_contexts
        )


def _make_contexts(
    layer: nn.Module, *, has_experts: bool
) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Return contexts for the first and the second computation of `layer`.

    Experts are chosen once: a rounding could turn the choice of a router.
    """
    if not has_experts:
        return nullcontext(), _holding_weights(layer)
    choices: list[tuple[Tensor, Tensor]] = []
    return _KeepChoices(choices), _enter_both(_TakeChoices(choices), _holding_weights(layer))


@contextmanager
def _enter_both(outer: AbstractContextManager[Any], inner: AbstractContextManager[Any]) -> Iterator[None]:
    with outer, inner:
        yield


@contextmanager
def _holding_weights(layer: nn.Module) -> Iterator[None]:
    """Keep ZeRO-3 from freeing weights after a module's second forward: its backward, which follows, would lack them.

    DeepSpeed frees a weight that no module uses; the hook after a module's backward frees it then.
    """
    users: list[set[int]] = [
        parameter.ds_active_sub_modules  # type: ignore[attr-defined]  # DeepSpeed's
        for parameter in layer.parameters()
        if hasattr(parameter, "ds_id")
    ]
    for each in users:
        each.add(HOLDER)
    try:
        yield
    finally:
        for each in users:
            each.discard(HOLDER)


class _KeepChoices(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Keeps the results of every `topk`, in order.

    Not by torch's selective checkpoints: they want the same operators in both computations, and under ZeRO-3 weights
    are gathered in the one or before the other.
    """

    def __init__(self, choices: list[tuple[Tensor, Tensor]]):
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self._choices = choices

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.topk.default:
            self._choices.append((result[0].detach(), result[1].detach()))
        return result


class _TakeChoices(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Returns the kept results, in order, in place of those of every `topk`."""

    def __init__(self, choices: list[tuple[Tensor, Tensor]]):
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self._choices = iter(choices)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.topk.default:
            return next(self._choices)
        return func(*args, **(kwargs or {}))


def _offloading(args: tuple[Any, ...]) -> AbstractContextManager[Any]:
    """A context in which the first of `args`, the hidden states, is saved in host memory; pinned for a GPU.

    The copies are ordered by the stream that computes, so nothing waits for them; they are not hidden behind compute.
    """
    hidden = args[0] if args else None

    def pack(tensor: Tensor) -> Any:
        if not isinstance(hidden, Tensor) or tensor.data_ptr() != hidden.data_ptr() or tensor.shape != hidden.shape:
            return tensor
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        return host.copy_(tensor, non_blocking=True), tensor.device

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        host, device = packed
        return torch.as_tensor(host.to(device, non_blocking=True))

    return saved_tensors_hooks(pack, unpack)
