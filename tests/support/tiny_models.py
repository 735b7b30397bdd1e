"""Tiny random models of every causal-LM family of transformers, and a tokenizer to save beside them.

A family is a `model_type`. Its configuration is the default one of its class, made small by the product's own
`shrink_settings`; `CHANGES` has what a default leaves out or sets so that a term does nothing.
"""

import ast
import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from scalerl_runtime.models.shrink import HEAD_DIM, VOCABULARY, shrink_settings
from scalerl_runtime.models.small_copy import randomize

CAUSAL = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
# Classes for text and images; some of them are in both lists.
MULTIMODAL = tuple(sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES))

# Families that are not built, with the reason. `test_models_zoo` checks that each of them still fails.
UNBUILDABLE: Mapping[str, str] = {
    "musicgen": "audio codes, no text; its configuration needs an encoder's",
    "musicgen_melody": "audio codes, no text; its configuration needs an encoder's",
    "dbrx": "transformers' own class fails: its attention's configuration has no rope_theta",
    "gemma3n": "its vision tower needs timm; gemma3n_text is the text part",
    **dict.fromkeys(("fast_vlm", "perception_lm"), "its vision tower needs timm"),
    **dict.fromkeys(
        (
            "aria",
            "chameleon",
            "cohere_compass",
            "deepseek_ocr2",
            "diffusion_gemma",
            "ernie4_5_vl_moe",
            "evolla",
            "glm5_next",
            "granite4_vision",
            "hunyuan_vl",
            "vision-encoder-decoder",
        ),
        "its default configuration, made small, is none; a checkpoint's would be",
    ),
    "gemma4_assistant": "a drafter that reads another model's states",
    "gemma4_unified_assistant": "a drafter that reads another model's states",
}

GRANITE = {"embedding_multiplier": 3.0, "logits_scaling": 0.25, "residual_multiplier": 0.5, "attention_multiplier": 0.3}
COMPASS_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 6, 4]}
MROPE = {
    "text_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}}
}
ZAMBA = {"attention_hidden_size": 256, "attention_head_dim": 64}  # two hidden states side by side
QSA = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": HEAD_DIM,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
}
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25},
    "cohere_compass_text": {
        "rope_parameters": {kind: COMPASS_ROPE for kind in ("full_attention", "sliding_attention")}
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "topk_method": "group_limited_greedy"},
    "glm4_moe": {"head_dim": HEAD_DIM, "partial_rotary_factor": 1.0},
    "deepseek_v3": {"topk_method": "noaux_tc"},  # of its published checkpoints; the engine reads it
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "falcon_h1": {"lm_head_multiplier": 0.5, "embedding_multiplier": 3.0},
    "glm46v": MROPE,
    "glm4v": MROPE,
    "glm4v_moe": {"text_config": {**MROPE["text_config"], "head_dim": HEAD_DIM, "partial_rotary_factor": 1.0}},
    "glm_ocr": MROPE,
    "paddleocr_vl": MROPE,
    "qwen2_5_vl": MROPE,
    "qwen2_vl": MROPE,
    "gemma2": {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma3_text": {"final_logit_softcapping": None},
    "granite": GRANITE,
    "granitemoe": GRANITE,
    "granitemoeshared": GRANITE,
    "granitemoehybrid": GRANITE,
    "hunyuan_v1_dense": {"head_dim": HEAD_DIM},
    "hunyuan_v1_moe": {"head_dim": HEAD_DIM, "num_experts": 4, "moe_topk": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "mamba2": {"num_heads": 8},
    "ministral": {"head_dim": HEAD_DIM},
    "nemotron": {"num_key_value_heads": 4, "head_dim": HEAD_DIM},
    "qwen4_exp": {"text_config": QSA},
    "qwen4_exp_text": QSA,
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": [64, 64]},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 3, "num_hidden_layers": 6, **ZAMBA},
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "hybrid_layer_ids": [1, 3],
        "num_hidden_layers": 4,
        "mamba_headdim": 32,
        "n_mamba_heads": 8,
        **ZAMBA,
    },
    "xmod": {"default_language": "en_XX"},
}

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIALS = ("<pad>", "<eos>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")


def build_config(family: str, **changes: Any) -> Any:
    """A tiny configuration. Raises whatever the class raises for a family that cannot be built."""
    default = CONFIG_MAPPING[family]()
    small = shrink_settings(default.to_dict())
    return type(default).from_dict(_merge(_merge(small, CHANGES.get(family, {})), changes))


def _merge(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the changes; those of a part (`text_config`) are merged, not replaced."""
    parts = {name: _merge(settings[name], value) for name, value in changes.items() if name.endswith("_config")}
    return {**settings, **changes, **parts}


def build_model(family: str, *, seed: int = 0, **changes: Any) -> Any:
    """A tiny causal LM in float32 with random weights at which a dropped term is visible."""
    config = build_config(family, **changes)
    auto = AutoModelForCausalLM if family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else AutoModelForImageTextToText
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)  # of the parameters that `randomize` leaves
        model = auto.from_config(config, dtype=torch.float32).eval()
    randomize(model, seed)
    return model


def build_tokenizer(*, think_tokens: bool = False, chat_template: str | None = CHAT_TEMPLATE) -> Any:
    """A byte-level BPE tokenizer of VOCABULARY tokens, trained on a few lines; optionally with think tokens."""
    specials = [*SPECIALS, *(("<think>", "</think>") if think_tokens else ())]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    lines = [
        f"What is {a} + {b}? The answer is {a + b}. Think step by step, then give it."
        for a in range(40)
        for b in range(9)
    ]
    tokenizer.train_from_iterator(lines, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    fast.chat_template = chat_template
    return fast


def save_model(folder: Path, family: str, *, seed: int = 0, tokenizer: Any = None, **changes: Any) -> Any:
    """Write model and tokenizer as a user's folder; return the model."""
    model = build_model(family, seed=seed, **changes)
    tokenizer = tokenizer or build_tokenizer()
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.pad_token_id, config.bos_token_id = 1, 0, None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


@cache
def engine_architectures() -> frozenset[str]:
    """Names in vLLM's registry, read from its source: an import takes ten seconds and more."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    path = Path(spec.submodule_search_locations[0]) / "model_executor" / "models" / "registry.py"
    wanted = ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS", "_TRANSFORMERS_SUPPORTED_MODELS")
    return frozenset(
        key.value
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
        and isinstance(node.targets[0], ast.Name) and node.targets[0].id in wanted
        for key in node.value.keys
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    )  # fmt: skip


def architecture(family: str) -> str:
    """The class's name, as in a config.json's `architectures`."""
    names = {**MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, **MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}
    return str(names[family])


def shared_families() -> tuple[str, ...]:
    """Families of causal LMs that the engine has too."""
    return tuple(family for family in CAUSAL if architecture(family) in engine_architectures())
