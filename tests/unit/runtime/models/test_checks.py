"""A model that trainer or engine cannot represent is refused by what was found, before anything starts."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from transformers import AutoConfig, Qwen2Config

from scalerl_api import InvalidRun, RLRun, parse_run
from scalerl_runtime.actors.sequence.thread_group import hidden_in_parts
from scalerl_runtime.actors.varlen_attention import ATTENTION_NAME, forward_hidden, register_attention
from scalerl_runtime.models.checks import (
    Candidate,
    check_context,
    check_engine,
    check_kind,
    check_parts,
    check_replay,
    check_trainer,
)
from scalerl_runtime.models.dimensions import attention_width, context_limit, head_dim
from scalerl_runtime.models.engine_support import cpu_head_sizes, engine_architectures
from scalerl_runtime.models.load import load_candidate
from scalerl_runtime.models.packing_probe import PackedForward
from scalerl_runtime.models.source import find_at_hand

FORWARD = PackedForward(ATTENTION_NAME, forward_hidden, hidden_in_parts)


def build_run(source: str, *, gpus: int = 0, recipe: dict[str, Any] | None = None, **length: int) -> RLRun:
    spec: dict[str, Any] = {
        "model": {"source": source},
        "data": {"train": {"source": "prompts.jsonl"}},
        "reward": {"verifier": "math"},
        "budget": {"steps": 1000},
        "recipe": {"length": {"control": "none", **length}, **(recipe or {})},
        "generator": {"gpusPerReplica": gpus},
        "trainer": {"gpusPerReplica": gpus},
    }
    return parse_run({"apiVersion": "scalerl.io/v1alpha1", "kind": "RLRun", "metadata": {"name": "x"}, "spec": spec})


def candidate(config: Any, **options: Any) -> Candidate:
    register_attention()
    run = build_run("some/model", **options)
    tokenizer = tiny_models.build_tokenizer()
    return Candidate(run, run.spec.resolved_recipe(), "some/model", config, tokenizer, FORWARD)


def tiny(family: str, **changes: Any) -> Any:
    config = tiny_models.build_config(family, **changes)
    config.architectures = [tiny_models.architecture(family)]
    return config


def words(faults: Any) -> str:
    return "\n".join(map(str, faults))


def test_a_represented_family_has_no_fault() -> None:
    for check in (check_kind, check_trainer, check_engine):
        assert words(check(candidate(tiny("qwen2")))) == ""


def test_trainer_refuses_by_layer_and_class() -> None:
    found = words(check_trainer(candidate(tiny("falcon_h1"))))
    assert found.startswith("spec.model.source: some/model: FalconH1ForCausalLM: FalconH1Mixer (layers.0.mamba) mixes")
    assert "docs/models.md" in found


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (tiny_models.build_config("bart", architectures=["BartForConditionalGeneration"]), "an encoder with a decoder"),
        (Qwen2Config(architectures=None), "names no architectures"),
        (
            Qwen2Config(architectures=["Qwen2ForCausalLM"], quantization_config={"quant_method": "gptq", "bits": 4}),
            "quantization_config of method 'gptq'",
        ),
    ],
)
def test_kind_is_refused(config: Any, expected: str) -> None:
    assert expected in words(check_kind(candidate(config)))


@pytest.mark.parametrize("name", ["Qwen2ForSequenceClassification", "Qwen2ForRewardModel", "HeliumForCausalLM", "Mine"])
def test_engine_lacks_the_architecture(name: str) -> None:
    found = words(check_engine(candidate(Qwen2Config(architectures=[name]))))
    assert f"has no {name}" in found
    assert found.startswith("spec.model.source: some/model: vLLM 0.")


def test_head_dimension_matters_on_cpus_only() -> None:
    config = tiny("llama", hidden_size=160, head_dim=40)
    assert "heads of dimension 40, one of 32, 64, " in words(check_engine(candidate(config)))
    assert words(check_engine(candidate(config, gpus=1))) == ""


def test_registry_is_read_without_an_import() -> None:
    assert {"LlamaForCausalLM", "Gemma3ForConditionalGeneration", "Olmo2ForCausalLM"} <= engine_architectures()
    assert 128 in cpu_head_sizes()


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 32768, "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0,
                                                               "original_max_position_embeddings": 32768}}, 131072),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4,
                                                              "factor": 2.0}}, 8192),
        ({"max_position_embeddings": 131072, "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}}, 131072),
    ],
)  # fmt: skip
def test_context_limit_counts_rotary_scaling(settings: dict[str, Any], limit: int) -> None:
    assert context_limit(Qwen2Config(**settings)) == limit


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 512}  # fmt: skip


@pytest.mark.parametrize(
    ("positions", "rope"), [pytest.param(512, DYNAMIC, id="dynamic"), pytest.param(8192, LONG, id="longrope")]
)
def test_lengths_may_not_reach_another_rotary_scaling(positions: int, rope: dict[str, Any]) -> None:
    """A packed row has one set of frequencies: that of its longest sequence."""
    lengths = {"promptTokens": 100, "thinkTokens": 300, "answerTokens": 113}
    config = Qwen2Config(
        max_position_embeddings=positions, hidden_size=32, num_attention_heads=4, num_key_value_heads=4,
        rope_parameters=rope,
    )  # fmt: skip
    found = words(check_context(candidate(config, **lengths)))
    assert f"rotary scaling {rope['rope_type']!r}, which treats sequences beyond 512 tokens" in found
    assert words(check_context(candidate(config, **{**lengths, "answerTokens": 112}))) == ""


def test_lengths_must_fit_into_the_positions() -> None:
    lengths = {"promptTokens": 100, "thinkTokens": 300, "answerTokens": 113}
    config = Qwen2Config(max_position_embeddings=512)
    found = words(check_context(candidate(config, **lengths)))
    assert "512 positions, but promptTokens + thinkTokens + answerTokens are 513" in found
    assert words(check_context(candidate(config, **{**lengths, "answerTokens": 112}))) == ""


@pytest.mark.parametrize(
    ("family", "dim", "width"),
    [("qwen2", 32, 2 * 4 * 32), ("gpt2", 32, 2 * 4 * 32), ("deepseek_v3", 64, 2 * 4 * 64), ("gemma3", 32, 2 * 4 * 32)],
)
def test_dimensions_of_any_family(family: str, dim: int, width: int) -> None:
    config = tiny_models.build_config(family)
    layers = config.get_text_config().num_hidden_layers
    assert (head_dim(config), attention_width(config)) == (dim, width // 2 * layers)


# -- folders -----------------------------------------------------------------------------------------------------------


def test_a_folder_becomes_a_candidate(tmp_path: Path) -> None:
    tiny_models.save_model(tmp_path, "qwen2")
    loaded = load_candidate(build_run(str(tmp_path)), tmp_path, FORWARD)
    assert loaded.config.model_type == "qwen2"
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("12 + 3", add_special_tokens=False)) == "12 + 3"


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    tiny_models.save_model(tmp_path, "qwen2")
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "mine.py").write_text("raise SystemExit('it ran')\n")
    own = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (tmp_path / "config.json").write_text(json.dumps({**written, **own}))
    with pytest.raises(InvalidRun, match="model_type 'mine' needs the model's own code"):
        load_candidate(build_run(str(tmp_path)), tmp_path, FORWARD)


def test_an_unknown_model_type_is_a_fault(tmp_path: Path) -> None:
    tiny_models.save_model(tmp_path, "qwen2")
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**written, "model_type": "of-tomorrow"}))
    with pytest.raises(InvalidRun, match="of-tomorrow"):
        load_candidate(build_run(str(tmp_path)), tmp_path, FORWARD)


def test_what_is_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    tiny_models.save_model(tmp_path / "model", "qwen2")
    assert find_at_hand(str(tmp_path / "model")) == tmp_path / "model"
    assert find_at_hand("scalerl-tests/no-such-model") is None
    with pytest.raises(InvalidRun):
        find_at_hand(str(tmp_path / "missing"))


def test_a_published_config_passes_as_a_file(tmp_path: Path) -> None:
    """Settings of before transformers 5 (`rope_theta` at the top) are read as they are written."""
    settings = {"model_type": "qwen2", "hidden_size": 3584, "num_attention_heads": 28, "rope_theta": 1000000.0}
    (tmp_path / "config.json").write_text(json.dumps({**settings, "architectures": ["Qwen2ForCausalLM"]}))
    config = AutoConfig.from_pretrained(tmp_path)
    assert head_dim(config) == 128
    assert words(check_kind(candidate(config))) == ""


def test_gate_names_the_field_and_asks_only_where_the_recipe_does() -> None:
    assert words(check_replay(candidate(tiny("qwen2")))) == ""
    asked = candidate(tiny("qwen2"), recipe={"routerReplay": True})
    assert words(check_replay(asked)).startswith(
        "spec.recipe.routerReplay: true for some/model, Qwen2ForCausalLM: no layer has experts"
    )
    assert words(check_replay(candidate(tiny("qwen3_moe"), recipe={"routerReplay": True}))) == ""


def sharing(config: Any, size: int) -> Candidate:
    found = candidate(config)
    trainer = found.run.spec.trainer.model_copy(update={"replicas": size, "sequence_parallel": size})
    spec = found.run.spec.model_copy(update={"trainer": trainer})
    return dataclasses.replace(found, run=found.run.model_copy(update={"spec": spec}))


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gpt_oss", "llama4_text", "deepseek_v3"])
def test_ranks_that_share_rows_compute_a_family(family: str) -> None:
    assert list(check_parts(sharing(tiny(family), 2))) == []


def test_heads_that_the_ranks_do_not_divide_are_refused_with_what_is_allowed() -> None:
    (fault,) = check_parts(sharing(tiny("qwen2"), 3))
    assert fault.path == "spec.trainer.sequenceParallel"
    assert "3 for some/model, Qwen2ForCausalLM, with 4 attention heads" in str(fault)
    assert "one of 1, 2, 4: it must divide the heads" in str(fault)


def test_a_model_that_computes_by_the_place_in_the_row_is_refused_in_parts() -> None:
    def by_place(model: Any, *row: Any) -> Any:
        hidden = forward_hidden(model, *row)
        return hidden * (1 + torch.arange(len(hidden))[:, None])

    found = dataclasses.replace(sharing(tiny("qwen2"), 2), forward=dataclasses.replace(FORWARD, hidden=by_place))
    (fault,) = check_parts(found)
    assert "a row in parts gives other hidden states than the whole row" in str(fault)
