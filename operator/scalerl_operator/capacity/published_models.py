"""Sizes of published models, as in their config.json, so that a run of one is planned without the hub.

`tests/unit/operator/capacity/test_published_models.py` compares each with the number of parameters on its page.
"""

from collections.abc import Mapping
from types import MappingProxyType

from scalerl_api.rlrun import ScratchModel

SCRATCH_VOCABULARY = 128  # of single characters, `runtime/scalerl_runtime/data/scratch_model.py`

Config = Mapping[str, object]


def _dense(
    family: str, hidden: int, intermediate: int, layers: int, heads: tuple[int, int], vocabulary: int, **others: object
) -> Config:
    """Return the config of a dense decoder; `heads` are of queries and of keys."""
    return {
        "model_type": family,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        **others,
    }


def _qwen3(hidden: int, intermediate: int, layers: int, heads: tuple[int, int], *, tied: bool = False) -> Config:
    return _dense("qwen3", hidden, intermediate, layers, heads, 151_936, head_dim=128, tie_word_embeddings=tied)


def _experts(config: Config, number: int, chosen: int, width: int | None = None) -> Config:
    """Add a mixture of experts; `width` where it is not `intermediate_size`."""
    sizes = {} if width is None else {"moe_intermediate_size": width}
    return {**config, "num_experts": number, "num_experts_per_tok": chosen, **sizes}


_LLAMA4 = _dense(
    "llama4_text", 5120, 8192, 48, (40, 8), 202_048, head_dim=128, intermediate_size_mlp=16_384,
    attention_chunk_size=8192,
    layer_types=["full_attention" if index % 4 == 3 else "chunked_attention" for index in range(48)],
)  # fmt: skip
_LLAMA_8B = _dense("llama", 4096, 14_336, 32, (32, 8), 128_256)
_LLAMA_70B = _dense("llama", 8192, 28_672, 80, (64, 8), 128_256)
_MISTRAL_7B = _dense("mistral", 4096, 14_336, 32, (32, 8), 32_768)
_QWEN25_7B = _dense("qwen2", 3584, 18_944, 28, (28, 4), 152_064)
_QWEN25_14B = _dense("qwen2", 5120, 13_824, 48, (40, 8), 152_064)
_QWEN25_32B = _dense("qwen2", 5120, 27_648, 64, (40, 8), 152_064)


def _gpt_oss(layers: int, experts: int) -> Config:
    config = _dense(
        "gpt_oss", 2880, 2880, layers, (64, 8), 201_088, head_dim=64, attention_bias=True, sliding_window=128,
        layer_types=["sliding_attention", "full_attention"] * (layers // 2),
    )  # fmt: skip
    return _experts(config, experts, 4)


def _gemma(
    family: str, sizes: tuple[int, int, int], heads: tuple[int, int], head_dim: int, window: tuple[int, int]
) -> Config:
    """Return a Gemma's config; every `window[1]`-th layer attends everything, the others `window[0]` tokens."""
    hidden, intermediate, layers = sizes
    kinds = ["full_attention" if (n + 1) % window[1] == 0 else "sliding_attention" for n in range(layers)]
    vocabulary = 256_000 if family == "gemma2" else 262_144
    return _dense(
        family, hidden, intermediate, layers, heads, vocabulary, head_dim=head_dim, sliding_window=window[0],
        layer_types=kinds, tie_word_embeddings=True,
    )  # fmt: skip


_BY_NAME: Mapping[str, Config] = {
    "Qwen/Qwen2.5-0.5B": _dense("qwen2", 896, 4864, 24, (14, 2), 151_936, tie_word_embeddings=True),
    "Qwen/Qwen2.5-1.5B": _dense("qwen2", 1536, 8960, 28, (12, 2), 151_936, tie_word_embeddings=True),
    "Qwen/Qwen2.5-3B": _dense("qwen2", 2048, 11_008, 36, (16, 2), 151_936, tie_word_embeddings=True),
    "Qwen/Qwen2.5-7B": _QWEN25_7B,
    "Qwen/Qwen2.5-14B": _QWEN25_14B,
    "Qwen/Qwen2.5-32B": _QWEN25_32B,
    "Qwen/Qwen2.5-72B": _dense("qwen2", 8192, 29_568, 80, (64, 8), 152_064),
    "Qwen/Qwen3-0.6B": _qwen3(1024, 3072, 28, (16, 8), tied=True),
    "Qwen/Qwen3-1.7B": _qwen3(2048, 6144, 28, (16, 8), tied=True),
    "Qwen/Qwen3-4B": _qwen3(2560, 9728, 36, (32, 8), tied=True),
    "Qwen/Qwen3-8B": _qwen3(4096, 12_288, 36, (32, 8)),
    "Qwen/Qwen3-14B": _qwen3(5120, 17_408, 40, (40, 8)),
    "Qwen/Qwen3-32B": _qwen3(5120, 25_600, 64, (64, 8)),
    "Qwen/Qwen3-30B-A3B": _experts(
        {**_qwen3(2048, 6144, 48, (32, 4)), "model_type": "qwen3_moe"}, 128, 8, width=768
    ),
    "Qwen/Qwen3-235B-A22B": _experts(
        {**_qwen3(4096, 12_288, 94, (64, 4)), "model_type": "qwen3_moe"}, 128, 8, width=1536
    ),
    "meta-llama/Meta-Llama-3-8B": _LLAMA_8B,
    "meta-llama/Meta-Llama-3-70B": _LLAMA_70B,
    "meta-llama/Llama-3.1-8B": _LLAMA_8B,
    "meta-llama/Llama-3.1-70B": _LLAMA_70B,
    "meta-llama/Llama-3.3-70B": _LLAMA_70B,
    "meta-llama/Llama-3.2-1B": _dense("llama", 2048, 8192, 16, (32, 8), 128_256, tie_word_embeddings=True),
    "meta-llama/Llama-3.2-3B": _dense("llama", 3072, 8192, 28, (24, 8), 128_256, tie_word_embeddings=True),
    "meta-llama/Llama-4-Scout-17B-16E": {
        "model_type": "llama4",
        "text_config": _experts({**_LLAMA4, "interleave_moe_layer_step": 1}, 16, 1),
    },
    "meta-llama/Llama-4-Maverick-17B-128E": {
        "model_type": "llama4",
        "text_config": _experts({**_LLAMA4, "interleave_moe_layer_step": 2}, 128, 1),
    },
    "mistralai/Mistral-7B-v0.1": {**_MISTRAL_7B, "vocab_size": 32_000, "sliding_window": 4096},
    "mistralai/Mistral-7B-v0.3": _MISTRAL_7B,
    "mistralai/Mixtral-8x7B-v0.1": _experts(_dense("mixtral", 4096, 14_336, 32, (32, 8), 32_000), 8, 2),
    "google/gemma-2-2b": _gemma("gemma2", (2304, 9216, 26), (8, 4), 256, (4096, 2)),
    "google/gemma-2-9b": _gemma("gemma2", (3584, 14_336, 42), (16, 8), 256, (4096, 2)),
    "google/gemma-2-27b": _gemma("gemma2", (4608, 36_864, 46), (32, 16), 128, (4096, 2)),
    "google/gemma-3-1b": _gemma("gemma3_text", (1152, 6912, 26), (4, 1), 256, (512, 6)),
    "openai/gpt-oss-20b": _gpt_oss(24, 32),
    "openai/gpt-oss-120b": _gpt_oss(36, 128),
    "HuggingFaceTB/SmolLM2-135M": _dense("llama", 576, 1536, 30, (9, 3), 49_152, tie_word_embeddings=True),
    "HuggingFaceTB/SmolLM2-360M": _dense("llama", 960, 2560, 32, (15, 5), 49_152, tie_word_embeddings=True),
    "HuggingFaceTB/SmolLM2-1.7B": _dense("llama", 2048, 8192, 24, (32, 32), 49_152, tie_word_embeddings=True),
    "HuggingFaceTB/SmolLM3-3B": _dense("smollm3", 2048, 11_008, 36, (16, 4), 128_256, tie_word_embeddings=True),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": _QWEN25_7B,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B": _QWEN25_14B,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B": _QWEN25_32B,
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": _LLAMA_8B,
    "deepseek-ai/DeepSeek-R1-Distill-Llama-70B": _LLAMA_70B,
    "microsoft/phi-4": _dense("phi3", 5120, 17_920, 40, (40, 10), 100_352),
    "allenai/OLMo-2-1124-7B": _dense("olmo2", 4096, 11_008, 32, (32, 32), 100_352),
    "allenai/OLMo-2-1124-13B": _dense("olmo2", 5120, 13_824, 40, (40, 40), 100_352),
    "allenai/OLMoE-1B-7B-0924": _experts(_dense("olmoe", 2048, 1024, 16, (16, 16), 50_304), 64, 8),
    "zai-org/GLM-4.5-Air": {
        **_dense("glm4_moe", 4096, 10_944, 46, (96, 8), 151_552, head_dim=128, attention_bias=True),
        "moe_intermediate_size": 1408, "n_routed_experts": 128, "n_shared_experts": 1, "num_experts_per_tok": 8,
        "first_k_dense_replace": 1,
    },
}  # fmt: skip
VARIANTS = ("", "-Base", "-Instruct", "-it", "-pt", "-Instruct-2507", "-Thinking-2507", "-SFT", "-DPO")
"""Endings of models that were trained further: their sizes are the same."""
_EXACT: Mapping[str, str] = {
    "mistralai/Mistral-7B-Instruct-v0.3": "mistralai/Mistral-7B-v0.3",
    "mistralai/Mixtral-8x7B-Instruct-v0.1": "mistralai/Mixtral-8x7B-v0.1",
}
PUBLISHED_MODELS: Mapping[str, Config] = MappingProxyType(_BY_NAME)


def find_published(source: str) -> Config | None:
    """Return the config of a hub id; None for one that is not in the table. Names are compared in any case."""
    names = {key.lower(): value for key, value in _BY_NAME.items()}
    wanted = {key.lower(): value for key, value in _EXACT.items()}.get(source.lower(), source).lower()
    for ending in VARIANTS:
        if wanted.endswith(ending.lower()):
            found = names.get(wanted.removesuffix(ending.lower()))
            if found is not None:
                return found
    return None


def scratch_config(sizes: ScratchModel) -> Config:
    """Return the config of a model that is made at the start."""
    return {
        "model_type": "qwen3",
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "vocab_size": SCRATCH_VOCABULARY,
        "tie_word_embeddings": sizes.tied_embeddings,
    }
