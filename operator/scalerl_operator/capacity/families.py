"""Parts of the decoder layers of each model family: biases, norms, MLP, experts.

One entry a `model_type` of transformers. `tests/unit/runtime/models/test_planned_shapes.py` compares the counts of
every family with transformers' own model, for several configurations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from scalerl_operator.capacity.config_fields import Flag

QkNorm = Literal["none", "head", "head-bias", "width"]
"""A norm of queries and keys: of a head's dimension, the same with a bias, or of all heads together."""


@dataclass(frozen=True)
class Experts:
    """A mixture of experts, in the fields of its config.json."""

    width: tuple[str, ...] = ("moe_intermediate_size", "intermediate_size")
    number: tuple[str, ...] = ("num_local_experts", "num_experts")
    chosen: tuple[str, ...] = ("num_experts_per_tok",)
    default_chosen: int | None = None
    rule: Literal["all", "first-dense", "sparse-step", "interleaved", "range"] = "all"
    """Which layers have experts: see `model_shape.py`."""
    shared: Literal["none", "counted", "sized", "gated", "width"] = "none"
    """An expert for every token: `counted` times the width, of a `sized` field, that with a gate, or of `width`."""
    shared_fields: tuple[str, ...] = ()
    router_bias: bool = False
    expert_bias: bool = False
    """A bias for each expert's two products."""
    shared_linears: tuple[str, ...] | None = None
    """Linear layers of the shared expert; None: named as those of an MLP."""
    hides_mlp: bool = False
    """PEFT adapts the experts too where an adapter has the name of an MLP's layer: such adapters are refused."""


@dataclass(frozen=True)
class Family:
    """Parts of a decoder layer and of the rest of a model."""

    qkv_bias: Flag = False
    out_bias: Flag = False
    qk_norm: QkNorm = "none"
    qk_norm_if: Flag = True
    layer_norms: int = 2
    """Norms of a layer, each of the model's width."""
    norm: Literal["rms", "rms-float", "layer", "layer-no-bias", "plain"] = "rms"
    """`rms-float`: multiplied by the weight in float32 (Gemma). `plain`: without a weight."""
    gated: bool = True
    """The MLP has a gate: three matrices, not two."""
    mlp_bias: Flag = False
    head_bias: bool = False
    tied: bool = False
    """`tie_word_embeddings` where config.json does not say."""
    experts: Experts | None = None
    latent: bool = False
    """DeepSeek's latent attention."""
    latent_bias: Flag = False
    sinks: bool = False
    wide_dense: str | None = None
    """Field with the width of layers without experts, where it is not `intermediate_size`."""
    positions: tuple[str, int] | None = None
    """Trained positions: the field with their number, and how many more there are."""
    own_head_dim: bool = True
    """`head_dim` of config.json may differ from the width over the heads."""
    grouped: bool = True
    """Fewer heads of keys than of queries are possible."""
    attention_linears: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """Last names of attention's linear layers; two: queries, keys and values are one. Latent attention has its own."""
    mlp_linears: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    """Last names of an MLP's linear layers; two with a gate: gate and up are one."""


UP_DOWN, GATE_UP_DOWN = ("up_proj", "down_proj"), ("gate_up_proj", "down_proj")
LLAMA = Family(qkv_bias=("attention_bias", False), out_bias=("attention_bias", False), mlp_bias=("mlp_bias", False))
ATTENTION_BIAS = replace(LLAMA, mlp_bias=False)
PLAIN = Family()
QWEN2 = Family(qkv_bias=True)
QWEN3 = replace(ATTENTION_BIAS, qk_norm="head")
GEMMA = replace(ATTENTION_BIAS, norm="rms-float", tied=True)
STEP_EXPERTS = Experts(width=("moe_intermediate_size",), rule="sparse-step")
FIRST_DENSE = Experts(
    width=("moe_intermediate_size",),
    number=("n_routed_experts", "num_local_experts"),
    rule="first-dense",
    shared="counted",
    shared_fields=("n_shared_experts",),
    hides_mlp=True,
)
DEEPSEEK = Family(latent=True, latent_bias=("attention_bias", False), mlp_bias=False, experts=FIRST_DENSE)

FAMILIES: Mapping[str, Family] = {
    "llama": LLAMA,
    "mistral": PLAIN,
    "ministral": PLAIN,
    "ministral3": PLAIN,
    "cwm": replace(PLAIN, mlp_bias=("mlp_bias", False)),
    "arcee": replace(LLAMA, gated=False, mlp_linears=UP_DOWN),
    "granite": LLAMA,
    "seed_oss": replace(LLAMA, qkv_bias=("attention_bias", True), out_bias=("attention_out_bias", False)),
    "smollm3": replace(LLAMA, tied=True),
    "ernie4_5": Family(
        qkv_bias=("use_bias", False), out_bias=("use_bias", False), mlp_bias=("use_bias", False), tied=True
    ),
    "phi3": replace(PLAIN, attention_linears=("qkv_proj", "o_proj"), mlp_linears=GATE_UP_DOWN),
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "exaone4": replace(PLAIN, qk_norm="head"),
    "hunyuan_v1_dense": QWEN3,
    "olmo": replace(ATTENTION_BIAS, norm="plain"),
    "olmo2": replace(ATTENTION_BIAS, qk_norm="width"),
    "olmo3": replace(ATTENTION_BIAS, qk_norm="width"),
    "gemma": GEMMA,
    "gemma2": replace(GEMMA, layer_norms=4),
    "gemma3_text": replace(GEMMA, layer_norms=4, qk_norm="head"),
    "glm": Family(qkv_bias=("attention_bias", True), mlp_linears=GATE_UP_DOWN),
    "glm4": Family(qkv_bias=("attention_bias", True), layer_norms=4, mlp_linears=GATE_UP_DOWN),
    "cohere": replace(
        ATTENTION_BIAS,
        layer_norms=1,
        norm="layer-no-bias",
        qk_norm="width",
        qk_norm_if=("use_qk_norm", False),
        tied=True,
    ),
    "cohere2": replace(ATTENTION_BIAS, layer_norms=1, norm="layer-no-bias", tied=True),
    "phi": Family(
        qk_norm="head-bias",
        qk_norm_if=("qk_layernorm", False),
        qkv_bias=True,
        out_bias=True,
        layer_norms=1,
        norm="layer",
        gated=False,
        mlp_bias=True,
        head_bias=True,
        attention_linears=("q_proj", "k_proj", "v_proj", "dense"),
        mlp_linears=("fc1", "fc2"),
    ),
    "starcoder2": Family(
        qkv_bias=("use_bias", True),
        out_bias=("use_bias", True),
        norm="layer",
        gated=False,
        mlp_bias=("use_bias", True),
        tied=True,
        mlp_linears=("c_fc", "c_proj"),
    ),
    "nemotron": replace(LLAMA, norm="layer", gated=False, mlp_linears=UP_DOWN),
    "gpt_neox": Family(
        qkv_bias=("attention_bias", True),
        out_bias=("attention_bias", True),
        norm="layer",
        gated=False,
        mlp_bias=True,
        own_head_dim=False,
        grouped=False,
        attention_linears=("query_key_value", "dense"),
        mlp_linears=("dense_h_to_4h", "dense_4h_to_h"),
    ),
    "gpt2": Family(
        qkv_bias=True,
        out_bias=True,
        norm="layer",
        gated=False,
        mlp_bias=True,
        tied=True,
        positions=("n_positions", 0),
        own_head_dim=False,
        grouped=False,
        attention_linears=(),  # its layers are `Conv1D`
        mlp_linears=(),
    ),
    "mixtral": replace(PLAIN, experts=Experts(width=("intermediate_size",))),
    "minimax_m2": replace(PLAIN, qk_norm="width", experts=Experts(width=("intermediate_size",))),
    "olmoe": replace(
        ATTENTION_BIAS,
        qk_norm="width",
        own_head_dim=False,
        experts=Experts(width=("intermediate_size",), default_chosen=8),
    ),
    "granitemoe": replace(ATTENTION_BIAS, experts=Experts(width=("intermediate_size",))),
    "granitemoeshared": replace(
        ATTENTION_BIAS,
        experts=Experts(
            width=("intermediate_size",),
            shared="sized",
            shared_fields=("shared_intermediate_size",),
            shared_linears=("input_linear", "output_linear"),
        ),
    ),
    "qwen2_moe": replace(
        QWEN2,
        qkv_bias=("qkv_bias", True),
        experts=replace(STEP_EXPERTS, shared="gated", shared_fields=("shared_expert_intermediate_size",)),
    ),
    "qwen3_moe": replace(QWEN3, experts=replace(STEP_EXPERTS, hides_mlp=True)),
    "gpt_oss": Family(
        qkv_bias=("attention_bias", True),
        out_bias=("attention_bias", True),
        sinks=True,
        experts=Experts(width=("intermediate_size",), router_bias=True, expert_bias=True),
    ),
    "hunyuan_v1_moe": replace(
        QWEN3,
        experts=Experts(
            width=("intermediate_size",),
            number=("num_experts",),
            chosen=("moe_topk",),
            shared="width",
            hides_mlp=True,
        ),
    ),
    "glm4_moe": replace(
        Family(qkv_bias=("attention_bias", False), qk_norm="head", qk_norm_if=("use_qk_norm", False)),
        experts=FIRST_DENSE,
    ),
    "dots1": replace(QWEN3, experts=FIRST_DENSE),
    "deepseek_v2": replace(DEEPSEEK, mlp_bias=("mlp_bias", False)),
    "deepseek_v3": DEEPSEEK,
    "llama4_text": replace(
        ATTENTION_BIAS,
        wide_dense="intermediate_size_mlp",
        experts=Experts(width=("intermediate_size",), rule="interleaved", shared="width"),
    ),
}
PARTS: Mapping[str, str] = {"llama4": "llama4_text"}
"""Families of text and images whose text part alone is trained, under `text_config`."""
