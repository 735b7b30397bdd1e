"""Has the routers of a mixture of experts use given experts in place of their own choice. PURE.

A router's `topk` is replaced: its indices by the given ones, its values by what they were taken from at these indices.
Everything after it, such as softmax, norm and scale, stays the model's own code, so gradients reach the router.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from scalerl_runtime.algorithm.microbatch import OWN_CHOICE
from scalerl_runtime.models.packing_probe import PackedForward
from scalerl_runtime.models.parts import find_body
from scalerl_runtime.models.small_copy import build_small

# The second and third parameter of an experts module: which experts a token uses, and with which weights.
EXPERT_ARGUMENTS = {("top_k_index", "top_k_weights"), ("router_indices", "routing_weights")}
LAYER_NUMBER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
REPLAY_FIELD = "spec.recipe.routerReplay"
PROBE_TOKENS = 12


class Unreplayable(ValueError):
    """The routers cannot replay a choice; the message says why."""


@dataclass(frozen=True)
class MoeLayer:
    """A layer with experts."""

    number: int  # among all layers
    block: nn.Module  # routes, and passes each token to its experts
    experts: nn.Module
    num_experts: int


class RouterReplay:
    """The routers of a model, which use the experts of the row that was set last.

    A row stays set until the next one, so that gradient checkpointing, which computes layers again in the backward
    pass, replays it too.
    """

    def __init__(self, model: Any):
        """Replace the forward of every layer with experts. Raises Unreplayable."""
        self.num_layers = int(model.config.get_text_config().num_hidden_layers)
        self._row: Tensor | None = None
        self.layers = find_moe_layers(model)
        for layer in self.layers:
            layer.block.forward = partial(self._route, layer, layer.block.forward)  # on the instance

    def set_row(self, experts: Tensor | None) -> None:
        """Replay `experts` [N, layers, K] in the next forward of N tokens; None: the routers choose themselves.

        A token whose experts are OWN_CHOICE chooses itself. Raises ValueError for what no router can have chosen.
        """
        if experts is not None:
            if experts.ndim != 3 or experts.shape[1] != self.num_layers:
                raise ValueError(f"experts are of shape {list(experts.shape)}; need [tokens, {self.num_layers}, k]")
            _require_choices(experts, self.layers)
        self._row = experts

    def _route(self, layer: MoeLayer, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._row is None:
            return forward(*args, **kwargs)
        with _ReplacedChoice(self._row[:, layer.number], layer.num_experts) as choice:
            result = forward(*args, **kwargs)
        if choice.count != 1:
            raise Unreplayable(
                f"{type(layer.block).__name__} of layer {layer.number} chooses {choice.count} times; need once"
            )
        return result


class _ReplacedChoice(TorchFunctionMode):
    """Replaces the result of the `topk` that chooses `chosen.shape[1]` of `num_experts` for every token."""

    def __init__(self, chosen: Tensor, num_experts: int):
        super().__init__()
        self._chosen = chosen  # [N, K]
        self._num_experts = num_experts
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is not torch.topk and func is not Tensor.topk:
            return result
        scores, own = (args[0] if args else kwargs["input"]), result[1]
        if scores.shape[-1] != self._num_experts or own.shape != self._chosen.shape:  # of groups, or of their experts
            return result
        self.count += 1
        chosen = self._chosen.to(own.device, own.dtype)
        indices = torch.where(chosen == OWN_CHOICE, own, chosen)
        return torch.return_types.topk((scores.gather(-1, indices), indices))


def _require_choices(experts: Tensor, layers: Sequence[MoeLayer]) -> None:
    """Raise ValueError unless each token has distinct experts of each layer, or none: rows of zeros are no choice.

    All layers are checked at once: on a device the wait for a result costs more than the check.
    """
    chosen = experts[:, [layer.number for layer in layers]].transpose(0, 1)  # [layers, N, K]
    limits = torch.tensor([layer.num_experts for layer in layers], device=chosen.device)[:, None]
    ordered = chosen.sort(-1).values
    is_own = (ordered == OWN_CHOICE).all(-1)
    is_chosen = (ordered[..., 0] >= 0) & (ordered[..., -1] < limits) & (ordered.diff(dim=-1) > 0).all(-1)
    is_valid = is_own | is_chosen
    if not bool(is_valid.all()):
        place, token = (~is_valid).nonzero()[0].tolist()
        raise ValueError(
            f"token {token} has experts {chosen[place, token].tolist()} in layer {layers[place].number};"
            f" need different ones of {layers[place].num_experts}"
        )


def find_moe_layers(model: Any) -> tuple[MoeLayer, ...]:
    """Return the layers with experts of the model's text part. Raises Unreplayable if there is none, or an odd one."""
    body = find_body(model)
    found = []
    for name, module in body.named_modules():
        if not is_experts(module):
            continue
        number, parent = LAYER_NUMBER.search(name), name.rpartition(".")[0]
        num_experts = getattr(module, "num_experts", None)
        if number is None or not isinstance(num_experts, int):
            raise Unreplayable(f"{type(module).__name__} ({name}) has no number of its layer, or of its experts")
        found.append(MoeLayer(int(number[1]), body.get_submodule(parent), module, num_experts))
    if not found:
        raise Unreplayable("no layer has experts that its router chooses by an index for each token")
    if len({layer.number for layer in found}) < len(found):
        raise Unreplayable("a layer has several modules of experts")
    return tuple(found)


def is_experts(module: nn.Module) -> bool:
    """Whether `module` holds the experts of a layer, of the kinds whose choice is an argument."""
    return tuple(inspect.signature(type(module).forward).parameters)[2:4] in EXPERT_ARGUMENTS


@dataclass
class _ExpertInputs:
    """Inputs of the experts, by layer."""

    indices: dict[int, Tensor] = field(default_factory=dict)  # [N, K]
    weights: dict[int, Tensor] = field(default_factory=dict)  # [N, K]

    def keep(self, number: int, _module: nn.Module, args: Any, kwargs: Any) -> None:
        """Hook before the experts' forward."""
        given: list[Tensor] = [*args, *kwargs.values()]
        _, self.indices[number], self.weights[number] = given


def examine_replay(config: Any, forward: PackedForward) -> None:
    """Try a replay on a small copy of the model. Raises Unreplayable.

    Its own choice must change nothing, and any other one must reach the experts, with weights that the router learns
    from. A router that weighs experts by masked scores, for one, gives others no weight.
    """
    small = build_small(config, forward.attention)
    replay, inputs = RouterReplay(small), _ExpertInputs()
    for layer in replay.layers:
        layer.experts.register_forward_pre_hook(partial(inputs.keep, layer.number), with_kwargs=True)

    def compute(row: Tensor | None) -> Tensor:
        replay.set_row(row)
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(8, 120, (PROBE_TOKENS,), generator=generator)
        return forward.hidden(small, tokens, torch.arange(PROBE_TOKENS), torch.tensor([0, PROBE_TOKENS]))

    alone = compute(None)
    widths = {tuple(each.shape) for each in inputs.indices.values()}
    if len(widths) != 1 or next(iter(widths))[0] != PROBE_TOKENS or len(inputs.indices) < len(replay.layers):
        raise Unreplayable(f"experts are chosen by indices of shapes {sorted(widths)}; need [tokens, k] in each layer")
    own = _build_row(replay, inputs.indices)
    if not torch.equal(compute(own), alone):
        raise Unreplayable("the replay of a router's own choice changes what it computes")
    other = _build_row(replay, {layer.number: _draw_choice(layer, own.shape[-1]) for layer in replay.layers})
    compute(other)
    for layer in replay.layers:
        _require_replayed(layer, other[:, layer.number], inputs)


def _build_row(replay: RouterReplay, indices: dict[int, Tensor]) -> Tensor:
    width = next(iter(indices.values())).shape[-1]
    row = torch.full((PROBE_TOKENS, replay.num_layers, width), OWN_CHOICE)
    for number, chosen in indices.items():
        row[:, number] = chosen
    return row


def _draw_choice(layer: MoeLayer, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1 + layer.number)
    return torch.multinomial(torch.ones(PROBE_TOKENS, layer.num_experts), width, generator=generator)


def _require_replayed(layer: MoeLayer, chosen: Tensor, inputs: _ExpertInputs) -> None:
    name = type(layer.block).__name__
    if not torch.equal(inputs.indices[layer.number], chosen):
        raise Unreplayable(f"{name} does not choose its experts by one topk")
    weights = inputs.weights[layer.number]
    if not bool((weights.isfinite() & (weights != 0)).all()):
        raise Unreplayable(f"{name} gives experts no weight that it would not have chosen itself")
    if weights.shape[-1] > 1 and not weights.requires_grad:
        raise Unreplayable(f"{name} learns nothing from the weights of its experts")
