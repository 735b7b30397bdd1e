"""A model's parameters, counted by the operator's arithmetic, are those of transformers' model, or it is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from model_table import read_table
from published_configs import PUBLISHED
from tiny_models import build_config
from transformers import AutoConfig, AutoModelForCausalLM

from scalerl_api import InvalidRun
from scalerl_operator.capacity.families import FAMILIES, PARTS
from scalerl_operator.capacity.model_shape import parse_model

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
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


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


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_are_counted_as_transformers_counts(name: str) -> None:
    config = json.loads(json.dumps(PUBLISHED[name]))
    found = planned(config)
    assert (found is None) == (config["model_type"] not in {*FAMILIES, *PARTS})
    if found is not None:
        assert found == count(AutoConfig.for_model(**config))
