"""Adapters of a model: their layers and names, the same gradients as PEFT's own, and what is refused."""

import warnings
from typing import Any

import pytest
import torch
from tiny_models import build_config, build_model
from torch import Tensor, nn

from scalerl_api import InvalidRun
from scalerl_api.rlrun import LoraSpec
from scalerl_runtime.actors.activations import Activations, arrange_activations
from scalerl_runtime.actors.policy import Policy
from scalerl_runtime.actors.sequence.thread_group import hidden_in_parts
from scalerl_runtime.actors.start_check import make_checked_policy, pack_all, plan_sequences
from scalerl_runtime.actors.varlen_attention import ATTENTION_NAME, forward_hidden, register_attention
from scalerl_runtime.actors.weight_copies import AdapterCopies
from scalerl_runtime.models.adapter_check import examine_adapters
from scalerl_runtime.models.adapters import (
    adapter_parameters,
    add_adapters,
    build_peft_config,
    count_trained,
    engine_names,
    file_names,
    find_targets,
    list_adaptable,
)
from scalerl_runtime.models.packing_probe import PackedForward

LORA = LoraSpec(rank=4, alpha=10.0)
# Dense; soft caps; experts and a shared one; sinks; matrices of several layers in one.
FAMILIES = ("qwen3", "gemma2", "qwen2_moe", "gpt_oss", "phi3")


def randomize(adapters: dict[str, nn.Parameter], seed: int = 1) -> None:
    """B starts as zeros, and A has no gradient then."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapters.values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def kinds(model: Any, lora: LoraSpec = LORA) -> set[str]:
    return {name.rpartition(".")[2] for name in find_targets(model, lora)}


def make_policy(family: str, activations: Activations = "checkpoint") -> Policy:
    model = build_model(family)
    adapters = add_adapters(model, LORA, seed=0)
    policy = make_checked_policy(model, precision="fp32", temperature=1.0)
    randomize(adapters)
    arrange_activations(policy.model, activations)
    return policy


def logprobs_of_peft(family: str, sequences: list[Tensor]) -> tuple[Tensor, nn.Module]:
    """The same adapters by PEFT alone, on transformers' own forward of each sequence."""
    from peft import get_peft_model

    model = build_model(family)
    model.set_attn_implementation("eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's own, of experts that have no adapter here
        wrapped = get_peft_model(model, build_peft_config(LORA, find_targets(model, LORA)))
    randomize(adapter_parameters(wrapped.base_model.model))
    found = []
    for tokens in sequences:
        logits = wrapped(input_ids=tokens[None], use_cache=False).logits[0, :-1].float()
        found.append(logits.log_softmax(-1).gather(1, tokens[1:, None]).squeeze(1))
    return torch.cat(found), wrapped.base_model.model


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_and_gradients_are_those_of_peft(family: str) -> None:
    policy = make_policy(family)
    sequences = plan_sequences(policy.model)
    row = pack_all(sequences)
    logp, _ = policy(*row)
    logp.sum().backward()
    expected, reference = logprobs_of_peft(family, sequences)
    expected.sum().backward()
    torch.testing.assert_close(logp, expected, atol=1e-4, rtol=1e-4)
    theirs, ours = adapter_parameters(reference), adapter_parameters(policy.model)
    assert theirs.keys() == ours.keys()
    assert ours
    for name, parameter in ours.items():
        assert parameter.grad is not None
        wanted = theirs[name].grad
        assert float((parameter.grad - wanted).norm()) <= 1e-3 * float(wanted.norm()), name
    others = [
        name for name, p in policy.named_parameters() if p.requires_grad and name.removeprefix("model.") not in ours
    ]
    assert others == []


@pytest.mark.parametrize("activations", ["checkpoint", "offload"])
@pytest.mark.parametrize("family", ["qwen3", "qwen2_moe"])
def test_layers_that_are_computed_again_give_the_same_gradients_bit_for_bit(
    family: str, activations: Activations
) -> None:
    """The embedding is frozen, so the first layer's input needs no gradient: a classic way to lose all of them."""

    def gradients(kind: Activations) -> dict[str, Tensor]:
        policy = make_policy(family, kind)
        logp, entropy = policy(*pack_all(plan_sequences(policy.model)))
        (logp.sum() + 0.1 * entropy.sum()).backward()
        return {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}

    expected, found = gradients("keep"), gradients(activations)
    assert expected.keys() == found.keys()
    assert len(expected) == len(adapter_parameters(build_with_adapters(family)))
    assert all(bool(each.any()) for each in expected.values())
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


def build_with_adapters(family: str) -> Any:
    model = build_model(family)
    add_adapters(model, LORA, seed=0)
    return model


def test_ranks_start_with_the_same_adapters_and_another_seed_with_others() -> None:
    first, second, other = (add_adapters(build_model("qwen3"), LORA, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert all(not bool(p.any()) for name, p in first.items() if "lora_B" in name), "a run starts as the model"


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("qwen3", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("phi3", {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}),
        pytest.param("mixtral", {"q_proj", "k_proj", "v_proj", "o_proj"}, id="no experts, no router"),
        pytest.param(
            "deepseek_v3",
            {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj", "gate_proj", "up_proj", "down_proj"},
            id="not the matrix that the engine takes apart; the shared expert's",
        ),
        pytest.param(
            "qwen2_moe",
            {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
            id="not the gate of the shared expert",
        ),
    ],
)
def test_layers_without_a_choice_of_the_user(family: str, expected: set[str]) -> None:
    model = build_model(family)
    assert kinds(model) == expected
    assert model.get_output_embeddings() not in list_adaptable(model).values()


def test_number_of_trained_values_by_hand() -> None:
    """rank * (in + out) of each layer: q 4 * (128 + 128), v 4 * (128 + 64), in each of the layers."""
    model = build_model("mistral")
    targets = find_targets(model, LoraSpec(rank=4, target_modules=["q_proj", "v_proj"]))
    layers = model.config.num_hidden_layers
    assert count_trained(targets, 4) == layers * (4 * 256 + 4 * 192)
    adapters = add_adapters(model, LoraSpec(rank=4, target_modules=["q_proj", "v_proj"]), seed=0)
    assert sum(p.numel() for p in adapters.values()) == layers * (4 * 256 + 4 * 192)


def faults(family: str, lora: LoraSpec) -> list[str]:
    register_attention()
    with pytest.raises(InvalidRun) as error:
        examine_adapters(build_config(family), lora, PackedForward(ATTENTION_NAME, forward_hidden, hidden_in_parts))
    return [str(fault) for fault in error.value.faults]


def test_names_that_the_model_does_not_have() -> None:
    (found,) = faults("qwen3", LoraSpec(target_modules=["q_proj", "query", "lm_head"]))
    assert found == (
        "spec.model.lora.targetModules: lm_head, query, linear layers of the model: down_proj, gate_proj, k_proj,"
        " o_proj, q_proj, up_proj, v_proj"
    )


def test_a_rank_above_a_layers_width() -> None:
    (found,) = faults("qwen3", LoraSpec(rank=100))
    assert found.startswith("spec.model.lora.rank: 100, at most 96, the width of ")


@pytest.mark.parametrize(
    ("family", "words"),
    [
        pytest.param("gpt2", "spec.model.lora: set, but GPT2LMHeadModel has no layer for it", id="Conv1D"),
        pytest.param("deepseek_v3", "layers that PEFT adapts", id="PEFT adapts experts"),
        pytest.param("hrm_text", "folder holds it in another form", id="several layers are one matrix on disk"),
    ],
)
def test_families_that_cannot_be_adapted_are_refused_by_name(family: str, words: str) -> None:
    assert words in faults(family, LoraSpec(rank=2))[0]


def test_names_for_the_engine_are_those_of_the_folder() -> None:
    """In memory `hy_v3` has `shared_experts`, in its folder `shared_mlp`."""
    model = build_model("hy_v3")
    names = engine_names(model, add_adapters(model, LORA, seed=0))
    shared = next(name for name in names if "shared_experts.up_proj.lora_A" in name)
    assert names[shared].endswith("mlp.shared_mlp.up_proj.lora_A.weight")
    assert names[shared].startswith("base_model.model.model.layers.")


def test_names_in_a_file_are_those_of_peft() -> None:
    from peft import get_peft_model, get_peft_model_state_dict

    model = build_model("qwen3")
    wrapped = get_peft_model(model, build_peft_config(LORA, find_targets(model, LORA)))
    ours = add_adapters(build_model("qwen3"), LORA, seed=0)
    assert set(file_names(ours).values()) == set(get_peft_model_state_dict(wrapped))


def test_a_push_has_the_bytes_of_the_adapters_alone() -> None:
    model = build_model("qwen3").bfloat16()
    whole = sum(p.numel() * 2 for p in model.parameters())
    adapters = add_adapters(model, LORA, seed=0)
    copies = AdapterCopies(model, adapters)
    copies.plan()
    sent = sum(bucket.num_bytes for bucket in copies.buckets)
    assert sent == sum(p.numel() * 2 for p in adapters.values())
    assert sent < whole / 4


def test_adapters_that_the_model_never_calls_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer whose weight is used without a call: the adapter would be trained to no effect."""
    from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

    def forward(self: Any, x: Tensor) -> Tensor:
        gate = nn.functional.linear(x, self.gate_proj.weight)
        found: Tensor = self.down_proj(self.act_fn(gate) * self.up_proj(x))
        return found

    monkeypatch.setattr(Qwen3MLP, "forward", forward)
    assert faults("qwen3", LoraSpec(rank=2)) == [
        "spec.model.lora.targetModules: gate_proj, layers that the model calls for each token of text"
    ]
