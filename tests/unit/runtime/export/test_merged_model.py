"""Adapters in the weights of their base: files that transformers loads, and the logits of PEFT's own merge."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import build_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from scalerl_api.rlrun import LoraSpec
from scalerl_runtime.export.checkpoint_weights import ExportError, Weight
from scalerl_runtime.export.disk_layout import build_reference
from scalerl_runtime.export.merged_model import plan_merged
from scalerl_runtime.export.safetensors_file import file_pieces
from scalerl_runtime.models.adapters import add_adapters

# Dense, tied; soft caps and tied; matrices of several layers in one; other names on disk than in memory; experts.
FAMILIES = ("qwen3", "gemma2", "phi3", "hy_v3", "qwen2_moe")
LORA = LoraSpec(rank=3, alpha=7.0)


def make_adapted(family: str, lora: LoraSpec) -> tuple[Any, list[Weight]]:
    """A model with PEFT's adapters, none of them zero, and these as a checkpoint has them."""
    model = build_model(family)
    adapters = add_adapters(model, lora, seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in adapters.values():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    weights = [Weight(n, tuple(p.shape), p.dtype, partial(Tensor.detach, p)) for n, p in adapters.items()]
    return model, weights


def write_merged(folder: Path, base: Path, weights: list[Weight], lora: LoraSpec) -> None:
    folder.mkdir()
    for name, tensors in plan_merged(base, weights, build_reference(base), lora).items():
        (folder / name).write_bytes(b"".join(file_pieces(tensors)[1]))
    for path in base.iterdir():
        if not (folder / path.name).exists():
            (folder / path.name).write_bytes(path.read_bytes())


@pytest.mark.parametrize("lora", [LORA, LORA.model_copy(update={"use_rslora": True})], ids=["lora", "rslora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_pefts_merge(family: str, lora: LoraSpec, tmp_path: Path) -> None:
    model, weights = make_adapted(family, lora)
    build_model(family).save_pretrained(tmp_path / "base", max_shard_size="100KB")
    write_merged(tmp_path / "merged", tmp_path / "base", weights, lora)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    tokens = torch.randint(8, 120, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, before = merged(tokens).logits, build_model(family)(tokens).logits
        for module in model.modules():
            if hasattr(module, "merge"):
                module.merge()
        expected = model(tokens).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found - before).abs().mean() > 1e-2, "the adapters must matter"


def test_a_low_precision_weight_is_rounded_once(tmp_path: Path) -> None:
    _, weights = make_adapted("qwen3", LORA)
    build_model("qwen3").bfloat16().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16).state_dict()
    write_merged(tmp_path / "merged", tmp_path / "base", weights, LORA)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto").state_dict()
    a, b = (next(w.load() for w in weights if f"0.self_attn.q_proj.{part}" in w.name) for part in ("lora_A", "lora_B"))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert merged[name].dtype == torch.bfloat16
    torch.testing.assert_close(merged[name], (base[name].float() + 7 / 3 * (b @ a)).bfloat16(), atol=0, rtol=0)
    others = [name for name in base if "proj" not in name]
    assert all(torch.equal(merged[name], base[name]) for name in others)
    assert "model.embed_tokens.weight" in others


def test_another_base_is_refused(tmp_path: Path) -> None:
    _, weights = make_adapted("qwen3", LORA)
    reference = build_model("qwen3")
    build_model("qwen3", num_hidden_layers=1, layer_types=["full_attention"]).save_pretrained(tmp_path / "short")
    with pytest.raises(ExportError, match="has no tensor in"):
        plan_merged(tmp_path / "short", weights, reference, LORA)
    build_model("qwen3", hidden_size=64).save_pretrained(tmp_path / "narrow")
    with pytest.raises(ExportError, match=r"model.layers.0.*; need \["):
        plan_merged(tmp_path / "narrow", weights, reference, LORA)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExportError, match="only a model in safetensors"):
        plan_merged(tmp_path / "empty", weights, reference, LORA)
    with pytest.raises(ExportError, match="belongs to the model"):
        plan_merged(tmp_path / "short", weights[:-1], reference, LORA)
