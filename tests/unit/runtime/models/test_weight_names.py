"""Names and shapes of a folder from a loaded model, over every family that transformers renames or fuses."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import UNBUILDABLE, architecture, save_model, shared_families
from transformers import AutoModelForCausalLM
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from scalerl_runtime.models.weight_names import (
    TensorShape,
    WeightGroup,
    batch_groups,
    check_loading,
    convert_group,
    list_names,
    named_weights,
    plan_groups,
)


def is_converted(family: str) -> bool:
    """Whether transformers has rules for the family, by its name or its class's."""
    return any(get_checkpoint_conversion_mapping(name) is not None for name in (family, architecture(family)))


CONVERTED = [f for f in shared_families() if f not in UNBUILDABLE and is_converted(f)]
PLAIN = ["qwen3", "gpt2", "opt", "phi", "gpt_oss"]


def shapes_of(weights):
    return [TensorShape(n, str(t.dtype).removeprefix("torch."), tuple(t.shape)) for n, t in weights.items()]


@pytest.mark.parametrize("family", [*CONVERTED, *PLAIN])
def test_names_shapes_and_values_are_the_folders(family: str, tmp_path: Path) -> None:
    save_model(tmp_path, family)
    disk = load_file(tmp_path / "model.safetensors")
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert check_loading(family, info) == []
    weights = named_weights(model)
    found = {}
    for group in plan_groups(model, shapes_of(weights)):
        values = convert_group(model, group, {name: weights[name].detach() for name in group.sources})
        assert [t.shape for t in group.targets] == [tuple(value.shape) for value in values]
        found |= {target.name: value for target, value in zip(group.targets, values, strict=True)}
    assert set(found) == set(disk)
    assert [name for name, value in found.items() if not torch.equal(value, disk[name])] == []


def test_the_rules_cover_experts_heads_prefixes_and_buffers() -> None:
    """The families above are of use only if they are of every kind."""
    assert {"mixtral", "qwen3_moe", "gpt_neox", "gemma3", "glm4_moe"} <= set(CONVERTED)


def test_experts_are_views_of_the_fused_tensor(tmp_path: Path) -> None:
    """A copy of a layer's experts would need a layer's memory more on the device."""
    save_model(tmp_path, "mixtral")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    weights = named_weights(model)
    fused = [g for g in plan_groups(model, shapes_of(weights)) if g.is_converted]
    assert len(fused) == 2 * model.config.num_hidden_layers
    for group in fused:
        (source,) = group.sources
        storage = weights[source].untyped_storage().data_ptr()
        parts = convert_group(model, group, {source: weights[source].detach()})
        assert len(parts) > 1
        assert {part.untyped_storage().data_ptr() for part in parts} == {storage}


def test_a_tied_head_has_the_embeddings_name_alone(tmp_path: Path) -> None:
    save_model(tmp_path, "qwen3", tie_word_embeddings=True)
    weights = named_weights(AutoModelForCausalLM.from_pretrained(tmp_path))
    assert "model.embed_tokens.weight" in weights
    assert "lm_head.weight" not in weights


def test_batches_by_hand() -> None:
    """Limit 40: 24 and 16 bytes fill a batch; 48 is too large and has its own; 4 comes after it."""
    sizes = {"a": 6, "b": 4, "c": 12, "d": 1}
    groups = [WeightGroup((n,), (TensorShape(n, "float32", (size,)),), False) for n, size in sizes.items()]
    found = [[g.sources[0] for g in batch] for batch in batch_groups(groups, limit=40)]
    assert found == [["a", "b"], ["c"], ["d"]]
    assert batch_groups([], limit=40) == ()


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"missing_keys": {"lm_head.weight"}}, "1 parameters that the folder lacks, .*: lm_head.weight"),
        ({"unexpected_keys": {f"score.{i}" for i in range(10)}}, "10 tensors of the folder .* and 2 more"),
        ({"mismatched_keys": {("model.norm.weight", (3,), (4,))}}, "shape differs .*: model.norm.weight"),
    ],
)
def test_what_was_not_placed_is_a_fault_with_the_names(info: dict[str, object], words: str) -> None:
    (fault,) = check_loading("folder", info)
    assert fault.path == "spec.model.source"
    assert re.search(words, fault.allowed)


def test_names_are_listed_in_order() -> None:
    assert list_names(["b", "a"]) == "a, b"


def test_a_folder_with_a_foreign_tensor_is_refused_by_name(tmp_path: Path) -> None:
    """As a reward model's folder, whose head a causal LM has no place for."""
    save_model(tmp_path, "qwen3")
    disk = load_file(tmp_path / "model.safetensors")
    disk["score.weight"] = torch.zeros(1, 128)
    del disk["model.norm.weight"]
    save_file(disk, tmp_path / "model.safetensors", metadata={"format": "pt"})
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    text = " ".join(map(str, check_loading("folder", info)))
    assert "score.weight" in text
    assert "model.norm.weight" in text
