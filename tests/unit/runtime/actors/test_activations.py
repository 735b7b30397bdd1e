"""Layers that are computed again: the same gradients, the same experts, and what is kept for them."""

from typing import Any

import pytest
import torch
from activation_memory import SHAPES, measure_kept
from tiny_models import build_model
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from scalerl_api import InvalidRun
from scalerl_runtime.actors.activations import Activations, arrange_activations, find_layers
from scalerl_runtime.actors.policy import Policy
from scalerl_runtime.actors.start_check import make_checked_policy, pack_all, plan_sequences
from scalerl_runtime.models.parts import find_body
from scalerl_runtime.models.router_replay import RouterReplay

# Dense; soft caps; sinks, windows and experts; experts beside a shared one; latent attention; layers run many times.
FAMILIES = ("qwen3", "llama", "gemma2", "gpt_oss", "qwen3_moe", "glm4_moe", "deepseek_v3", "llama4_text", "hrm_text")
AGAIN: tuple[Activations, ...] = ("checkpoint", "offload")


def compute_gradients(family: str, activations: Activations, *, replay: bool = False) -> dict[str, Tensor]:
    policy = make_checked_policy(build_model(family), precision="fp32", temperature=1.0)
    row = pack_all(plan_sequences(policy.model))
    experts = None
    if replay:
        policy.replay = RouterReplay(policy.model)
        experts = torch.full((len(row[0]), policy.replay.num_layers, 2), -1)
        for layer in policy.replay.layers:  # two experts that no router chose
            experts[:, layer.number] = torch.tensor([0, layer.num_experts - 1])
    arrange_activations(policy.model, activations)
    logp, entropy = policy(*row, experts)
    (logp.sum() + 0.1 * entropy.sum()).backward()
    return {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("activations", AGAIN)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_keeping_everything_bit_for_bit(family: str, activations: Activations) -> None:
    expected, found = compute_gradients(family, "keep"), compute_gradients(family, activations)
    assert expected.keys() == found.keys()
    assert any(bool(each.any()) for each in expected.values())
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_replayed_experts_are_replayed_in_the_backward_pass_too(family: str) -> None:
    expected, own = compute_gradients(family, "keep", replay=True), compute_gradients(family, "keep")
    found = compute_gradients(family, "checkpoint", replay=True)
    assert any(not torch.equal(expected[name], own[name]) for name in expected), "the replay must matter"
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


def test_a_router_whose_scores_change_keeps_its_experts_in_the_backward_pass() -> None:
    """A kernel that adds in another order may turn a choice of two near scores; here the scores are turned outright."""
    policy = make_checked_policy(build_model("qwen3_moe"), precision="fp32", temperature=1.0)
    arrange_activations(policy.model, "checkpoint")
    chosen: dict[str, list[Tensor]] = {}
    for name, module in policy.named_modules():
        if name.endswith("mlp.experts"):

            def keep(_module: Any, args: Any, _kwargs: Any, name: str = name) -> None:
                chosen.setdefault(name, []).append(args[1])

            module.register_forward_pre_hook(keep, with_kwargs=True)
    row = pack_all(plan_sequences(policy.model))
    logp, _ = policy(*row)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if name.endswith("mlp.gate.weight"):
                parameter.data.neg_()  # past autograd's check of versions, as a kernel's rounding is
    logp.sum().backward()
    assert chosen
    for first, again in chosen.values():
        assert torch.equal(first, again)


@pytest.mark.parametrize("activations", AGAIN)
def test_log_probabilities_without_gradient_are_the_same(activations: Activations) -> None:
    policy = make_checked_policy(build_model("gemma2"), precision="fp32", temperature=1.0)
    row = pack_all(plan_sequences(policy.model))
    with torch.no_grad():
        expected = policy(*row)
        arrange_activations(policy.model, activations)
        found = policy(*row)
    assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))


def test_every_layer_is_computed_again_once() -> None:
    policy = make_checked_policy(build_model("qwen3"), precision="fp32", temperature=1.0)
    arrange_activations(policy.model, "checkpoint")
    runs = dict.fromkeys((layer.mlp for layer in find_layers(find_body(policy.model))), 0)

    def count(module: Any, _args: Any) -> None:
        runs[module] += 1

    for mlp in runs:
        mlp.register_forward_pre_hook(count)
    logp, _ = policy(*pack_all(plan_sequences(policy.model)))
    logp.sum().backward()
    assert len(runs) == policy.model.config.num_hidden_layers
    assert set(runs.values()) == {2}


def test_a_model_without_such_layers_is_refused_by_the_field() -> None:
    class Plain(torch.nn.Module):
        base_model = torch.nn.Sequential(torch.nn.Linear(2, 2))

    with pytest.raises(InvalidRun, match="spec.trainer.activations: checkpoint for Plain, none of whose layers"):
        arrange_activations(Plain(), "checkpoint")
    arrange_activations(Plain(), "keep")


def test_qwen3_8b_keeps_one_hidden_vector_a_layer() -> None:
    """By hand: 4096 values of two bytes. Without checkpoints a layer keeps 29 times as much."""
    kept = {each: measure_kept(SHAPES["Qwen3-8B"], each) for each in ("keep", *AGAIN)}
    assert kept["keep"].per_layer == pytest.approx(230 * 1024, rel=0.01)
    assert kept["checkpoint"].per_layer == pytest.approx(2 * 4096, rel=0.001)
    assert kept["offload"].per_layer == pytest.approx(0, abs=8)
    assert kept["checkpoint"].rest < 12 * 4096  # hidden states and the final norm's; logits are never kept


@pytest.mark.parametrize("tokens", [64, 640])
def test_the_head_keeps_no_logits(tokens: int) -> None:
    """Only hidden states, targets and three numbers a token, whatever the vocabulary."""
    policy = Policy(build_model("qwen3", vocab_size=50_000), precision="fp32", temperature=1.0)
    kept: list[Tensor] = []
    hidden = torch.randn(tokens, policy.head.weight.shape[1], requires_grad=True)
    with saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each):  # type: ignore[func-returns-value]
        policy.head(hidden, torch.zeros(tokens, dtype=torch.long))
    sizes = [each.numel() for each in kept if each is not policy.head.weight and each.shape != policy.head.weight.shape]
    assert sum(sizes) <= tokens * (hidden.shape[1] + 3)
