"""Tensors of a checkpoint under the names of the disk, over every kind of family that transformers renames or fuses."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import UNBUILDABLE, architecture, save_model, shared_families
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from scalerl_runtime.export.checkpoint_weights import Weight
from scalerl_runtime.export.disk_layout import build_reference, check_complete, plan_groups
from scalerl_runtime.models.parts import auto_class


def is_converted(family: str) -> bool:
    return any(get_checkpoint_conversion_mapping(name) is not None for name in (family, architecture(family)))


CONVERTED = [f for f in shared_families() if f not in UNBUILDABLE and is_converted(f)]
PLAIN = ["qwen3", "gpt2", "opt", "phi", "gpt_oss"]


def checkpoint_weights(model: torch.nn.Module) -> list[Weight]:
    """As `open_weights` reads them: names in memory, a tied tensor once."""
    found: dict[int, Weight] = {}
    for name, value in model.state_dict().items():
        weight = Weight(name, tuple(value.shape), value.dtype, lambda value=value: value)
        found.setdefault(value.data_ptr() or id(value), weight)
    return list(found.values())


@pytest.mark.parametrize("family", [*CONVERTED, *PLAIN])
def test_an_export_has_the_names_shapes_and_values_of_the_folder(family: str, tmp_path: Path) -> None:
    save_model(tmp_path, family)
    reference = build_reference(tmp_path)
    model = auto_class(reference.config).from_pretrained(tmp_path, dtype=torch.float32)
    weights = checkpoint_weights(model)
    check_complete(weights, reference)
    disk = load_file(tmp_path / "model.safetensors")
    found = {entry.name: value for group in plan_groups(weights, reference) for entry, value in group.load()}
    assert set(found) == set(disk)
    assert [name for name, value in found.items() if not torch.equal(value.float(), disk[name].float())] == []


def test_the_families_are_of_every_kind() -> None:
    """Fused experts, another head, a prefix of a multimodal class, a router's buffer."""
    assert {"mixtral", "qwen3_moe", "gpt_neox", "gemma3", "glm4_moe"} <= set(CONVERTED)
