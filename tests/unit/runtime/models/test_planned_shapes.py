"""A model's parameters, counted by the operator's arithmetic, are those of transformers' model, or it is refused.

The same for the values of adapters, which PEFT makes.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from large_run import make_run
from model_table import read_table
from published_configs import PUBLISHED
from tiny_models import build_config
from transformers import AutoConfig

from scalerl_api import InvalidRun
from scalerl_api.rlrun import LoraSpec
from scalerl_operator.capacity.adapters import check_adapters, count_trained
from scalerl_operator.capacity.families import FAMILIES, PARTS
from scalerl_operator.capacity.model_shape import parse_model
from scalerl_runtime.models.adapters import add_adapters
from scalerl_runtime.models.architecture import build_empty

PAGE = Path(__file__).parents[4] / "docs" / "models.md"
TRAINED = [family for family, row in read_table(PAGE.read_text()).items() if row["trainer"] == "trained"]
CHANGES: list[dict[str, Any]] = [
    {},
    *({name: value} for name in ("attention_bias", "tie_word_embeddings", "use_bias") for value in (True, False)),
    *({name: True} for name in ("mlp_bias", "use_qk_norm", "attention_out_bias", "qk_layernorm")),
    {"num_key_value_heads": 1},
    {"head_dim": 64},
    {"q_lora_rank": None},
    {"decoder_sparse_step": 2},
    {"mlp_only_layers": [0]},
    {"interleave_moe_layer_step": 2, "moe_layers": None},
    {"shared_intermediate_size": 64},
    {"first_k_dense_replace": 0},
]


def count(config: Any) -> int:
    return sum(parameter.numel() for parameter in build_empty(config).parameters())


def count_of_peft(config: Any, lora: LoraSpec) -> int | None:
    """The values of PEFT's adapters; None where the trainer refuses them."""
    try:
        return sum(parameter.numel() for parameter in add_adapters(build_empty(config), lora, seed=0).values())
    except InvalidRun:
        return None


def planned_adapters(config: dict[str, Any], lora: LoraSpec) -> int | None:
    shape = parse_model(config, "tiny")
    try:
        check_adapters(shape, lora)
    except InvalidRun:
        return None
    return count_trained(shape, make_run(model__lora=lora.model_dump(by_alias=True)))


def planned(config: dict[str, Any]) -> int | None:
    """The operator's count; None where it refuses the model."""
    try:
        return parse_model(config, "tiny").parameters
    except InvalidRun:
        return None


@pytest.mark.parametrize("family", TRAINED)
def test_no_family_is_counted_wrong(family: str) -> None:
    default = build_config(family)
    document = json.loads(default.to_json_string())
    known = document["model_type"] in {*FAMILIES, *PARTS}
    assert (planned(document) is not None) == known
    if not known:
        return
    fields = default.get_text_config().to_dict()
    for changes in CHANGES:
        if changes.keys() - fields.keys():
            continue
        try:
            config = build_config(family, **({"text_config": changes} if family in PARTS else changes))
            wanted = count(config)
        except Exception:  # noqa: BLE001  # this family cannot have the change, for any reason
            continue
        assert planned(json.loads(config.to_json_string())) in (wanted, None), changes


LORAS = [
    LoraSpec(rank=3),
    LoraSpec(rank=3, target_modules=["o_proj"]),
    LoraSpec(rank=3, target_modules=["q_proj", "v_proj"]),
    LoraSpec(rank=3, target_modules=["down_proj"]),
    LoraSpec(rank=3, target_modules=["qkv_proj", "gate_up_proj"]),
    LoraSpec(rank=3, target_modules=["other"]),
    LoraSpec(rank=500),
]


@pytest.mark.parametrize("family", [each for each in TRAINED if build_config(each).model_type in FAMILIES])
def test_adapters_of_no_family_are_counted_wrong(family: str) -> None:
    counted = 0
    for changes in (
        {},
        {"num_key_value_heads": 1},
        {"mlp_only_layers": [0]},
        {"shared_intermediate_size": 64},
        {"q_lora_rank": None},
    ):
        default = build_config(family)
        if changes.keys() - default.get_text_config().to_dict().keys():
            continue
        config = build_config(family, **changes)
        document = json.loads(config.to_json_string())
        if planned(document) is None:
            continue
        for lora in LORAS:
            wanted = count_of_peft(config, lora)
            assert planned_adapters(document, lora) == wanted, (changes, lora)
            counted += wanted is not None
    assert counted > 0 or family in ("gpt2", "gpt-sw3"), "something must be comparable"


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_are_counted_as_transformers_counts(name: str) -> None:
    config = json.loads(json.dumps(PUBLISHED[name]))
    found = planned(config)
    assert (found is None) == (config["model_type"] not in {*FAMILIES, *PARTS})
    if found is not None:
        assert found == count(AutoConfig.for_model(**config))
