"""The tiny models that other tests build on: they exist, are small, and every family has one or a reason."""

import pytest
import tiny_models
import torch
from huggingface_hub.errors import StrictDataclassError


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gpt_oss", "falcon_h1", "mixtral", "phi", "qwen2_5_vl"])
def test_a_model_is_small_and_runs(family: str) -> None:
    model = tiny_models.build_model(family)
    assert sum(parameter.numel() for parameter in model.parameters()) < 8_000_000
    with torch.no_grad():
        logits = model(input_ids=torch.arange(20)[None] + 3, use_cache=False).logits
    assert logits.shape == (1, 20, tiny_models.VOCABULARY)
    assert 0.2 < float(logits.std()) < 5


def test_every_kind_of_layer_is_kept() -> None:
    assert set(tiny_models.build_config("gpt_oss").layer_types) == {"sliding_attention", "full_attention"}
    assert set(tiny_models.build_config("qwen3_next").layer_types) == {"linear_attention", "full_attention"}
    assert set(tiny_models.build_config("deepseek_v32").mlp_layer_types) == {"dense", "sparse"}


def test_unbuildable_families_fail() -> None:
    """One that builds after an upgrade of transformers leaves the list."""
    for family in tiny_models.UNBUILDABLE:
        with pytest.raises(
            (TypeError, ValueError, AttributeError, KeyError, RuntimeError, ImportError, StrictDataclassError)
        ):
            tiny_models.build_model(family)


def test_the_engine_shares_families() -> None:
    shared = tiny_models.shared_families()
    assert {"qwen2", "qwen3", "llama", "gemma2", "gpt_oss", "olmo2", "phi", "mixtral"} <= set(shared)
    assert len(shared) > 80


def test_a_tokenizer_spells_text_and_knows_its_chat() -> None:
    tokenizer = tiny_models.build_tokenizer()
    ids = tokenizer.encode("What is 12 + 3? é", add_special_tokens=False)
    assert tokenizer.decode(ids) == "What is 12 + 3? é"
    assert len(tokenizer) == tiny_models.VOCABULARY
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True)
    assert chat == "<|user|>x<|end|><|assistant|>"
    assert "<think>" in tiny_models.build_tokenizer(think_tokens=True).get_vocab()
