"""The check at the trainer's start passes every model that is represented, and finds every term that is dropped."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import build_model

from scalerl_api import InvalidRun
from scalerl_runtime.actors import policy, start_check, varlen_attention
from scalerl_runtime.actors.start_check import LENGTHS, compare, make_checked_policy, plan_sequences
from scalerl_runtime.algorithm.head import HeadTransform

RIGHT = ["qwen2", "gemma2", "gpt_oss", "phi", "granite", "mixtral", "deepseek_v2", "llama4_text"]


@pytest.mark.parametrize("family", RIGHT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_right_model_passes(family: str, dtype: torch.dtype) -> None:
    _, report = compare(build_model(family).to(dtype))
    assert report.faults == []
    assert report.leak < 1e-6
    if dtype == torch.float32:
        assert report.difference < 1e-5
        assert report.noise == 0.0
    else:
        assert report.difference < 2.5 * report.noise  # 4 is the limit


def _drop_sinks(monkeypatch: pytest.MonkeyPatch) -> None:
    real = varlen_attention.attend_row
    monkeypatch.setattr(varlen_attention, "attend_row", lambda *a, **k: real(*a, **{**k, "sinks": None}))


def _drop_rule(**changes: Any) -> Callable[[pytest.MonkeyPatch], None]:
    def drop(monkeypatch: pytest.MonkeyPatch) -> None:
        real = varlen_attention.AttentionRule

        def make(scale: float, window: int | None, chunk: int | None, softcap: float | None) -> Any:
            return real(**{**{"scale": scale, "window": window, "chunk": chunk, "softcap": softcap}, **changes})

        monkeypatch.setattr(varlen_attention, "AttentionRule", make)

    return drop


def _drop_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_check, "measure_transform", lambda *_: HeadTransform())


def _drop_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    real = policy.linear_logprob
    monkeypatch.setattr(policy, "linear_logprob", lambda *a, **k: real(*a, **{**k, "bias": None}))


def _mix_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    real = varlen_attention.plan_row
    monkeypatch.setattr(varlen_attention, "plan_row", lambda bounds: real(bounds[[0, -1]]))


@pytest.mark.parametrize(
    ("family", "drop"),
    [
        pytest.param("gpt_oss", _drop_sinks, id="sinks"),
        pytest.param("gpt_oss", _drop_rule(window=None), id="window"),
        pytest.param("llama4_text", _drop_rule(chunk=None), id="chunk"),
        pytest.param("gemma2", _drop_rule(softcap=None), id="soft cap of attention"),
        pytest.param("granite", _drop_rule(scale=1.0), id="scale of attention"),
        pytest.param("gemma2", _drop_transform, id="final soft cap"),
        pytest.param("granite", _drop_transform, id="logit scale"),
        pytest.param("phi", _drop_bias, id="head bias"),
        pytest.param("qwen2", _mix_neighbours, id="neighbours mixed"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_dropped_term_is_found(
    monkeypatch: pytest.MonkeyPatch, family: str, drop: Callable[[pytest.MonkeyPatch], None], dtype: torch.dtype
) -> None:
    model = build_model(family).to(dtype)
    drop(monkeypatch)
    with pytest.raises(InvalidRun, match=r"spec\.model\.source: \w+: log-probabilities differ .* by [0-9.]+ nats"):
        make_checked_policy(model, precision="fp32", temperature=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["qwen3_next", "falcon_h1", "mamba"])
def test_state_that_runs_from_neighbour_to_neighbour_is_found(family: str, dtype: torch.dtype) -> None:
    with pytest.raises(InvalidRun, match="a sequence changes by .* when its neighbours in a packed row do"):
        make_checked_policy(build_model(family).to(dtype), precision="fp32", temperature=1.0)


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("falcon", "an attention of their own"),  # no attention interface
        ("bert", "changed before the head"),
        ("deepseek_v32", "a layer reads the attention mask itself"),
        ("inkling_text", "InklingAttention has position_bias"),
    ],
)
def test_a_model_that_cannot_run_is_the_users_fault(family: str, said: str) -> None:
    with pytest.raises(InvalidRun, match=said):
        make_checked_policy(build_model(family), precision="fp32", temperature=1.0)


def test_policy_has_the_wanted_head_and_mode() -> None:
    model = build_model("phi").train()
    made = make_checked_policy(model, precision="bf16", temperature=0.7)
    assert (made.head.precision, made.head.temperature) == ("bf16", 0.7)
    assert made.training
    assert "model.lm_head.bias" in dict(made.named_parameters())


def test_sequences_exceed_a_short_window_and_have_no_special_token() -> None:
    model = build_model("gemma3")
    sequences = plan_sequences(model)
    assert [len(tokens) for tokens in sequences] == [8 + LENGTHS[0], *LENGTHS[1:]]
    model.config.image_token_id = special = int(sequences[0][0])
    assert special not in torch.cat(plan_sequences(model)).tolist()


def test_a_models_fault_crosses_processes() -> None:
    with pytest.raises(InvalidRun) as raised:
        make_checked_policy(build_model("bert"), precision="fp32", temperature=1.0)
    copy = pickle.loads(pickle.dumps(raised.value))
    assert str(copy) == str(raised.value)
    assert copy.faults == raised.value.faults


@pytest.mark.parametrize("family", ["qwen2_5_vl", "mistral3", "gemma3"])
def test_the_text_part_of_a_multimodal_class_is_trained_and_the_rest_frozen(family: str) -> None:
    made = make_checked_policy(build_model(family), precision="fp32", temperature=1.0)
    frozen = {name for name, parameter in made.named_parameters() if not parameter.requires_grad}
    assert frozen
    assert all("vision" in name or "visual" in name or "projector" in name for name in frozen)
    tokens = torch.arange(3, 12)
    inputs = (tokens, torch.arange(9), torch.tensor([0, 9]), torch.arange(8), tokens[1:])
    made(*inputs)[0].sum().backward()
    trained = {name for name, parameter in made.named_parameters() if parameter.grad is not None}
    assert trained == set(dict(made.named_parameters())) - frozen


def test_a_text_model_is_trained_whole() -> None:
    made = make_checked_policy(build_model("gpt_oss"), precision="fp32", temperature=1.0)
    assert all(parameter.requires_grad for parameter in made.parameters())
