"""Routers replay given experts: exactly, with gradients, in every kind of router whose choice is a topk."""

from typing import Any

import pytest
import torch
from tiny_models import build_config, build_model
from torch import Tensor

from scalerl_runtime.actors.policy import Policy
from scalerl_runtime.actors.sequence.thread_group import hidden_in_parts
from scalerl_runtime.actors.start_check import make_checked_policy, pack_all, plan_sequences
from scalerl_runtime.actors.varlen_attention import ATTENTION_NAME, forward_hidden, register_attention
from scalerl_runtime.models.packing_probe import PackedForward
from scalerl_runtime.models.router_replay import OWN_CHOICE, RouterReplay, Unreplayable, examine_replay

FORWARD = PackedForward(ATTENTION_NAME, forward_hidden, hidden_in_parts)
# A family for each kind of router.
REPLAYED = {
    "qwen3_moe": "softmax over all, norm by a flag",
    "mixtral": "softmax over all, always norm",
    "gpt_oss": "softmax over the chosen, other names of arguments",
    "olmoe": "softmax over all, no norm",
    "deepseek_v3": "sigmoid, a bias and groups for the choice, a dense layer before",
    "glm4_moe": "the same with one group",
    "granitemoe": "softmax over the chosen",
}
REFUSED = {
    "qwen2": "no layer has experts",
    "phimoe": "PhimoeSparseMoeBlock of layer 0 chooses 0 times",
    "deepseek_v2": "DeepseekV2Moe gives experts no weight that it would not have chosen itself",
    "llama4_text": "no layer has experts",
}


@pytest.fixture(autouse=True)
def _registered() -> None:
    register_attention()


@pytest.mark.parametrize("family", REPLAYED)
def test_a_router_of_topk_replays(family: str) -> None:
    examine_replay(build_config(family), FORWARD)


@pytest.mark.parametrize(("family", "found"), REFUSED.items())
def test_another_router_is_refused_by_what_was_found(family: str, found: str) -> None:
    with pytest.raises(Unreplayable, match=found):
        examine_replay(build_config(family), FORWARD)


def build_policy(seed: int = 0, noise: float = 0.0) -> tuple[Policy, dict[int, Tensor]]:
    """A policy of random weights, its router's moved by `noise`; and what reached its experts last, by layer."""
    model = build_model("qwen3_moe", seed=seed)
    policy = make_checked_policy(model, precision="fp32", temperature=1.0)
    policy.replay = RouterReplay(policy.model)
    inputs: dict[int, Tensor] = {}
    generator = torch.Generator().manual_seed(1)
    for layer in policy.replay.layers:
        weight = layer.block.gate.weight
        with torch.no_grad():
            weight.add_(noise * weight.std() * torch.randn(weight.shape, generator=generator))

        def keep(_module: Any, args: Any, kwargs: Any, number: int = layer.number) -> None:
            inputs[number] = [*args, *kwargs.values()][1]

        layer.experts.register_forward_pre_hook(keep, with_kwargs=True)
    return policy, inputs


def choice(inputs: dict[int, Tensor]) -> Tensor:
    return torch.stack([inputs[number] for number in sorted(inputs)], dim=1)


def test_replay_of_its_own_choice_is_exact() -> None:
    policy, inputs = build_policy()
    row = pack_all(plan_sequences(policy.model))
    alone, _ = policy(*row)
    again, _ = policy(*row, choice(inputs))
    assert torch.equal(alone, again)


def test_replay_lowers_the_mismatch_of_a_router_that_rounds_differently() -> None:
    generator, inputs = build_policy(noise=0.1)
    trainer, own = build_policy()
    row = pack_all(plan_sequences(trainer.model))
    sampled, _ = generator(*row)
    experts = choice(inputs)
    without, _ = trainer(*row)
    assert (choice(own).sort(-1).values != experts.sort(-1).values).any()  # the noise turned a choice
    with_replay, _ = trainer(*row, experts)
    assert torch.equal(choice(own), experts)
    before, after = ((logp - sampled).abs().mean() for logp in (without, with_replay))
    assert after < 0.5 * before


def test_gradient_is_that_of_the_chosen_experts_and_reaches_the_router() -> None:
    policy, inputs = build_policy()
    assert policy.replay is not None
    row = pack_all(plan_sequences(policy.model))
    policy(*row)
    layer = policy.replay.layers[0]
    never = 3
    experts = choice(inputs)
    experts = torch.where(experts == never, torch.tensor(OWN_CHOICE), experts)
    experts[(experts == OWN_CHOICE).any(-1)] = torch.tensor([0, 1])
    policy(*row, experts)[0].sum().backward()
    assert layer.block.gate.weight.grad.abs().sum() > 0
    gradient = layer.experts.down_proj.grad
    assert gradient[never].abs().sum() == 0
    assert gradient[0].abs().sum() > 0


def test_a_token_without_recorded_experts_chooses_itself_and_a_row_is_forgotten() -> None:
    policy, inputs = build_policy()
    row = pack_all(plan_sequences(policy.model))
    alone, _ = policy(*row)
    own = choice(inputs).clone()
    other = (own + 1) % 4
    other[5:] = OWN_CHOICE
    policy(*row, other)
    assert torch.equal(choice(inputs)[:5], other[:5])
    assert torch.equal(choice(inputs)[5:, 0], own[5:, 0])  # the first layer's input is the same
    assert torch.equal(policy(*row)[0], alone)


@pytest.mark.parametrize(
    ("experts", "found"),
    [
        pytest.param(torch.zeros(4, 2, 2, dtype=torch.long), r"token 0 has experts \[0, 0\] in layer 0", id="twice"),
        pytest.param(torch.tensor([0, 4]).expand(4, 2, 2), "need different ones of 4", id="too large"),
        pytest.param(torch.tensor([0, OWN_CHOICE]).expand(4, 2, 2), "need different ones of 4", id="in part"),
        pytest.param(torch.tensor([0, 1]).expand(4, 3, 2), r"shape \[4, 3, 2\]; need \[tokens, 2, k\]", id="layers"),
    ],
)
def test_what_no_router_chose_is_refused(experts: Tensor, found: str) -> None:
    policy, _ = build_policy()
    assert policy.replay is not None
    with pytest.raises(ValueError, match=found):
        policy.replay.set_row(experts)


def test_experts_of_another_row_are_refused() -> None:
    policy, _ = build_policy()
    row = pack_all(plan_sequences(policy.model))
    with pytest.raises(Unreplayable, match="chooses 0 times; need once"):
        policy(*row, torch.tensor([0, 1]).expand(7, 2, 2))
