"""Every family has a verdict; what no list names is represented right or refused; big models take seconds."""

import resource

import pytest
import tiny_models
import torch
from published_configs import PUBLISHED
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

from scalerl_runtime.actors.sequence.thread_group import hidden_in_parts
from scalerl_runtime.actors.varlen_attention import ATTENTION_NAME, forward_hidden, register_attention
from scalerl_runtime.algorithm.head import HeadTransform
from scalerl_runtime.models.architecture import Unrepresentable, examine
from scalerl_runtime.models.packing_probe import PackedForward

PLAIN = HeadTransform()
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, for what models' code uses


def verdict(config) -> HeadTransform | str:
    register_attention()
    try:
        return examine(config, PackedForward(ATTENTION_NAME, forward_hidden, hidden_in_parts))
    except Unrepresentable as error:
        return str(error)


# -- families of transformers ----------------------------------------------------------------------------------------

REPRESENTED = {
    "cohere": HeadTransform(scale=0.25),
    "deepseek_v3": PLAIN,
    "gemma2": HeadTransform(softcap=3.0),
    "gemma3": PLAIN,
    "glm4_moe": PLAIN,
    "gpt2": PLAIN,
    "gpt_oss": PLAIN,
    "granite": HeadTransform(scale=4.0),
    "llama4": PLAIN,
    "mistral": PLAIN,
    "mixtral": PLAIN,
    "olmo3": PLAIN,
    "opt": PLAIN,
    "phi": PLAIN,
    "qwen2": PLAIN,
    "qwen2_5_vl": PLAIN,
    "qwen3_moe": PLAIN,
    "smollm3": PLAIN,
    "stablelm": PLAIN,
}
REFUSED = {
    "bart": "bidirectional_mask_function",
    "bert": "head: layers of its own",
    "bloom": "BloomAttention (h.0.self_attention) mixes tokens outside attention",
    "deepseek_v32": "attention: ",
    "falcon": "'scalerl_varlen'",
    "falcon_h1": "FalconH1Mixer (layers.0.mamba) mixes tokens outside attention",
    "inkling_text": "InklingShortConvolution",
    "jamba": "JambaMambaMixer",
    "kimi_linear": "KimiLinearDeltaAttention",
    "lfm2": "Lfm2ShortConv",
    "minimax": "MiniMaxLightningAttention",
    "mamba2": "Mamba2Mixer",
    "nemotron_h": "NemotronHMamba2Mixer",
    "paligemma": "attention to later tokens",
    "qwen3_5": "Qwen3_5GatedDeltaNet",
    "qwen3_next": "Qwen3NextGatedDeltaNet (layers.0.linear_attn) mixes tokens outside attention",
    "recurrent_gemma": "RecurrentGemmaRecurrentBlock",
    "rwkv": "mixes tokens outside attention",
    "zaya": "mixes tokens outside attention",
}


@pytest.mark.parametrize(("family", "transform"), REPRESENTED.items(), ids=list(REPRESENTED))
def test_family_is_represented(family: str, transform: HeadTransform) -> None:
    assert verdict(tiny_models.build_config(family)) == transform


@pytest.mark.parametrize(("family", "words"), REFUSED.items(), ids=list(REFUSED))
def test_family_is_refused_with_words(family: str, words: str) -> None:
    found = verdict(tiny_models.build_config(family))
    assert isinstance(found, str)
    assert words in found


# -- architectures that no list names --------------------------------------------------------------------------------


class SyntheticConfig(LlamaConfig):
    """Llama with one more feature, chosen by a setting that no other model has."""

    model_type = "synthetic"
    feature: str = "none"
    strength: float = 1.0


class ExtraAttention(modeling_llama.LlamaAttention):
    """Llama's attention with an argument that nobody knows, or none through the interface."""

    def forward(self, hidden_states, position_embeddings=None, attention_mask=None, **kwargs):
        if self.config.feature == "bias":
            kwargs["alibi_slopes"] = torch.ones(self.config.num_attention_heads)
        if self.config.feature == "temperature":
            kwargs["score_temperature"] = 2.0
        if self.config.feature == "later":
            kwargs["is_causal"] = False
        if self.config.feature == "by_hand":
            return self.by_hand(hidden_states), None
        return super().forward(hidden_states, position_embeddings, attention_mask, **kwargs)

    def by_hand(self, states):
        shape = (*states.shape[:-1], -1, self.head_dim)
        query, key, value = (p(states).view(shape).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        out = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class ExtraLayer(modeling_llama.LlamaDecoderLayer):
    """Llama's layer with a second mixer beside its attention."""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.self_attn = ExtraAttention(config, layer_idx)
        self.feature = config.feature
        if config.feature == "conv":
            self.conv = nn.Conv1d(config.hidden_size, config.hidden_size, 3, padding=2, groups=config.hidden_size)

    def forward(self, hidden_states, **kwargs):
        hidden_states = super().forward(hidden_states, **kwargs)
        if self.feature == "conv":
            hidden_states = hidden_states + self.conv(hidden_states.mT)[..., : hidden_states.shape[1]].mT
        if self.feature == "shift":
            hidden_states = hidden_states + 0.1 * nn.functional.pad(hidden_states, (0, 0, 1, -1))
        if self.feature == "cumsum":
            hidden_states = hidden_states + 0.1 * hidden_states.cumsum(1)
        if self.feature == "row_mean":
            hidden_states = hidden_states - 0.1 * hidden_states.mean(1, keepdim=True)
        return hidden_states


class SyntheticForCausalLM(LlamaForCausalLM):
    """Llama's causal LM with a changed head or layers."""

    config_class = SyntheticConfig

    def __init__(self, config):
        super().__init__(config)
        self.model.layers = nn.ModuleList(ExtraLayer(config, i) for i in range(config.num_hidden_layers))
        if config.feature == "head_bias":
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=True)
        if config.feature == "head_norm":
            self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def forward(self, input_ids=None, **kwargs):
        hidden = self.model(input_ids=input_ids, **kwargs).last_hidden_state
        strength, feature = self.config.strength, self.config.feature
        if feature == "mup":
            hidden = hidden / (self.config.hidden_size / 64)
        if feature == "head_norm":
            hidden = self.norm(hidden)
        logits = self.lm_head(hidden)
        if feature == "scale":
            logits = logits * strength
        if feature == "cap":
            logits = strength * torch.tanh(logits / strength)
        if feature == "square":
            logits = logits + 0.01 * logits**2
        if feature == "centred":
            logits = logits - logits.mean(-1, keepdim=True)
        return modeling_llama.CausalLMOutputWithPast(logits=logits)


AutoConfig.register("synthetic", SyntheticConfig)
AutoModelForCausalLM.register(SyntheticConfig, SyntheticForCausalLM)


def synthetic(feature: str, strength: float = 1.0, **sizes: int) -> SyntheticConfig:
    settings = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 8}
    config = SyntheticConfig(**{**settings, "num_key_value_heads": 2, "vocab_size": 1000, **sizes})
    config.feature, config.strength = feature, strength
    return config


@pytest.mark.parametrize(
    ("feature", "strength", "expected"),
    [
        ("none", 1.0, PLAIN),
        ("head_bias", 1.0, PLAIN),
        ("scale", 0.0625, HeadTransform(scale=0.0625)),
        ("cap", 30.0, HeadTransform(softcap=30.0)),
        ("mup", 1.0, HeadTransform(scale=0.25)),  # by the width of the model itself, not of its small copy
    ],
)
def test_new_architecture_is_represented(feature: str, strength: float, expected: HeadTransform) -> None:
    assert verdict(synthetic(feature, strength)) == expected


@pytest.mark.parametrize(
    ("feature", "words"),
    [
        ("bias", "alibi_slopes"),
        ("temperature", "score_temperature 2.0"),
        ("later", "attention to later tokens"),
        ("by_hand", "ExtraAttention (layers.0.self_attn) mixes tokens outside attention"),
        ("conv", "ExtraLayer (layers.0) mixes tokens outside attention"),
        ("shift", "ExtraLayer (layers.0) mixes tokens outside attention"),
        ("cumsum", "ExtraLayer (layers.0) mixes tokens outside attention"),
        ("row_mean", "ExtraLayer (layers.0) mixes tokens outside attention"),
        ("head_norm", "head: "),
        ("square", "head: "),
        ("centred", "head: "),
    ],
)
def test_new_architecture_is_refused(feature: str, words: str) -> None:
    found = verdict(synthetic(feature))
    assert isinstance(found, str)
    assert words in found


def test_an_examination_that_fails_is_a_refusal() -> None:
    found = verdict(synthetic("none", hidden_size=255))
    assert isinstance(found, str)
    assert found


# -- published models ------------------------------------------------------------------------------------------------

NOT_PACKED = {"Qwen3-Next-80B-A3B": "GatedDeltaNet", "Falcon-H1-34B": "FalconH1Mixer"}
HEADS = {"gemma-2-9b-it": HeadTransform(softcap=30.0), "MiniCPM3-4B": HeadTransform(scale=0.1)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_model_is_examined_without_its_memory(name: str) -> None:
    settings = dict(PUBLISHED[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = verdict(AutoConfig.for_model(settings.pop("model_type"), **settings))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    if name in NOT_PACKED:
        assert NOT_PACKED[name] in str(found)
    else:
        assert found == HEADS.get(name, PLAIN)
    assert grown < 1024 * 1024
