"""Sizes of a model and its parameters, from its config.json by arithmetic.

h is the model's width, V its vocabulary, L its layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from scalerl_operator.capacity.config_fields import MODEL_PATH, ConfigFields
from scalerl_operator.capacity.families import FAMILIES, PARTS, Experts, Family


@dataclass(frozen=True)
class Linear:
    """A linear layer of a decoder block that can have a low-rank adapter."""

    name: str
    """The last one of its module."""
    inputs: int
    outputs: int
    kind: Literal["heads", "attention output", "wide", "mlp output", "latent"]
    """Queries, keys and values; an MLP's layers before its last one; projections into the latents."""


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """A decoder layer."""

    parameters: int
    active_parameters: int
    """Those that a token is multiplied with: all but the experts that are not chosen."""
    width: int
    """Of the MLP, or of one expert."""
    experts: int = 0
    chosen: int = 0
    """Experts of a token."""
    shared_width: int = 0
    """Of the MLP that every token passes beside its experts."""
    window: int | None = None
    """Tokens that a query attends at most; None: all before it."""
    linears: tuple[Linear, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A model's sizes; nothing here depends on a device or a run."""

    label: str
    family: str
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    """Of a query and a key."""
    value_dim: int
    vocabulary: int
    tied: bool
    layer_shapes: tuple[LayerShape, ...]
    rest_parameters: int
    """Embedding, positions, final norm and head; a tied matrix counts once."""
    kv_numbers: int
    """Numbers that a layer's cache has for a token: keys and values, or the latent of DeepSeek's attention."""
    is_latent: bool
    traits: Family

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return len(self.layer_shapes)

    @cached_property
    def parameters(self) -> int:
        """All trained values; a tied matrix counts once."""
        return self.rest_parameters + sum(each.parameters for each in self.layer_shapes)

    @cached_property
    def active_parameters(self) -> int:
        """Values that a token is multiplied with in one pass: layers without the experts not chosen, and the head."""
        return self.head_parameters + sum(each.active_parameters for each in self.layer_shapes)

    @property
    def head_parameters(self) -> int:
        """Values of the head's matrix: V h. A tied head is the embedding."""
        return self.vocabulary * self.hidden

    @property
    def largest_layer(self) -> LayerShape:
        """The layer with the most parameters."""
        return max(self.layer_shapes, key=lambda each: each.parameters)

    @property
    def has_experts(self) -> bool:
        """Whether any layer has experts."""
        return any(each.experts for each in self.layer_shapes)

    def attention_flops(self, pairs: float) -> float:
        """Floating-point operations of the forward's attention over `pairs` of a query and a key, in all layers.

        Two for each multiply-add of scores and of values. Windows are the caller's: they bound the pairs.
        """
        return 2.0 * self.layers * self.heads * (self.head_dim + self.value_dim) * pairs

    def kv_tokens(self, tokens: int) -> int:
        """Return the layer-tokens that a sequence of `tokens` has in the cache: a window bounds those of its layer."""
        return sum(min(tokens, each.window or tokens) for each in self.layer_shapes)


def parse_model(config: Mapping[str, object], label: str) -> ModelShape:
    """Return the shape of a model.

    Args:
        config: its config.json.
        label: what the user calls it, for faults.

    Raises:
        InvalidRun: a family that is not known here, or a field that is missing or impossible.
    """
    family = config.get("model_type")
    values = config
    if family in PARTS:
        part = config.get("text_config")
        if not isinstance(part, Mapping):
            raise ConfigFields(config, label).fault("no text_config", f"one, as {family} has")
        family, values = PARTS[str(family)], part
    fields = ConfigFields(values, label)
    if family not in FAMILIES:
        raise fields.fault(
            f"model_type {family!r}, whose layers are not known here",
            f"one of {', '.join(sorted({*FAMILIES, *PARTS}))}; a run of another family is not planned",
        )
    return _parse_family(str(family), fields)


def _parse_family(family: str, fields: ConfigFields) -> ModelShape:
    traits = FAMILIES[family]
    sizes = _read_sizes(traits, fields)
    windows = _read_windows(family, fields, sizes.layers)
    kinds = _expert_layers(traits.experts, fields, sizes.layers)
    attention = _attention_parameters(traits, fields, sizes)
    layers = tuple(
        _layer(traits, fields, sizes, attention, window, has_experts)
        for window, has_experts in zip(windows, kinds, strict=True)
    )
    tied = fields.flag(("tie_word_embeddings", traits.tied))
    return ModelShape(
        label=fields.label,
        family=family,
        hidden=sizes.hidden,
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        value_dim=sizes.value_dim,
        vocabulary=sizes.vocabulary,
        tied=tied,
        layer_shapes=layers,
        rest_parameters=_rest_parameters(traits, fields, sizes, tied=tied),
        kv_numbers=_kv_numbers(traits, fields, sizes),
        is_latent=traits.latent,
        traits=traits,
    )


@dataclass(frozen=True)
class _Sizes:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    vocabulary: int


def _read_sizes(traits: Family, fields: ConfigFields) -> _Sizes:
    hidden = fields.integer("hidden_size", "n_embd")
    heads = fields.integer("num_attention_heads", "n_head")
    kv_heads = fields.integer("num_key_value_heads", default=heads) if traits.grouped else heads
    if traits.latent:
        head_dim = fields.integer("qk_nope_head_dim") + fields.integer("qk_rope_head_dim")
        value_dim = fields.integer("v_head_dim")
    else:
        head_dim = value_dim = fields.integer("head_dim", default=max(1, hidden // heads))
        if not traits.own_head_dim and head_dim != hidden // heads:
            raise fields.fault(f"head_dim {head_dim}", f"{hidden // heads} or none for this family")
    if heads % kv_heads:
        raise fields.fault(f"num_key_value_heads {kv_heads}", f"a divisor of num_attention_heads, {heads}")
    layers = fields.integer("num_hidden_layers", "n_layer")
    return _Sizes(hidden, layers, heads, kv_heads, head_dim, value_dim, fields.integer("vocab_size"))


def _attention_parameters(traits: Family, fields: ConfigFields, sizes: _Sizes) -> int:
    if traits.latent:
        return _latent_parameters(traits, fields, sizes)
    h, q, kv = sizes.hidden, sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    count = h * (q + 2 * kv) + q * h
    count += (q + 2 * kv) * fields.flag(traits.qkv_bias) + h * fields.flag(traits.out_bias)
    if fields.flag(traits.qk_norm_if):
        count += {"none": 0, "head": 2 * sizes.head_dim, "head-bias": 4 * sizes.head_dim, "width": q + kv}[
            traits.qk_norm
        ]
    return count + sizes.heads * traits.sinks


def _latent_parameters(traits: Family, fields: ConfigFields, sizes: _Sizes) -> int:
    """Return those of DeepSeek's attention: queries and keys through a latent, each with a norm."""
    h, q = sizes.hidden, sizes.heads * sizes.head_dim
    latent, rotary = fields.integer("kv_lora_rank"), fields.integer("qk_rope_head_dim")
    bias = fields.flag(traits.latent_bias)
    rank = fields.values.get("q_lora_rank")
    if rank is None:
        count = h * q
    else:
        width = fields.integer("q_lora_rank")
        count = h * width + width + width * q + bias * width
    count += h * (latent + rotary) + latent + bias * (latent + rotary)
    count += latent * sizes.heads * (sizes.head_dim - rotary + sizes.value_dim)
    return count + sizes.heads * sizes.value_dim * h + bias * h


def _norm_parameters(traits: Family, sizes: _Sizes) -> int:
    """Return those of one norm of the model's width."""
    return {"rms": 1, "rms-float": 1, "layer": 2, "layer-no-bias": 1, "plain": 0}[traits.norm] * sizes.hidden


def _mlp_parameters(traits: Family, fields: ConfigFields, sizes: _Sizes, width: int) -> int:
    wide = width * (2 if traits.gated else 1)
    return sizes.hidden * (wide + width) + (wide + sizes.hidden) * fields.flag(traits.mlp_bias)


def _layer(
    traits: Family, fields: ConfigFields, sizes: _Sizes, attention: int, window: int | None, has_experts: bool
) -> LayerShape:
    base = attention + traits.layer_norms * _norm_parameters(traits, sizes)
    if not has_experts or traits.experts is None:
        width = _dense_width(traits, fields, sizes)
        count = base + _mlp_parameters(traits, fields, sizes, width)
        linears = (*_attention_linears(traits, fields, sizes), *_mlp_linears(traits, traits.mlp_linears, sizes, width))
        return LayerShape(parameters=count, active_parameters=count, width=width, window=window, linears=linears)
    experts = traits.experts
    width, number = fields.integer(*experts.width), fields.integer(*experts.number)
    chosen = fields.integer(*experts.chosen, default=experts.default_chosen)
    shared = _shared_width(experts, fields, width)
    one = 3 * sizes.hidden * width + (2 * width + sizes.hidden) * experts.expert_bias
    base += number * (sizes.hidden + experts.router_bias)
    base += _mlp_parameters(traits, fields, sizes, shared) if shared else 0
    base += sizes.hidden * (experts.shared == "gated")
    return LayerShape(
        parameters=base + number * one,
        active_parameters=base + min(chosen, number) * one,
        width=width,
        experts=number,
        chosen=min(chosen, number),
        shared_width=shared,
        window=window,
        linears=(
            *_attention_linears(traits, fields, sizes),
            *_mlp_linears(traits, experts.shared_linears or traits.mlp_linears, sizes, shared),
        ),
    )


def _attention_linears(traits: Family, fields: ConfigFields, sizes: _Sizes) -> tuple[Linear, ...]:
    """Return those that can have an adapter. Engines take `kv_b_proj` of latent attention apart."""
    h, q, kv = sizes.hidden, sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    if traits.latent:
        latent = fields.integer("kv_lora_rank") + fields.integer("qk_rope_head_dim")
        queries = [Linear("q_proj", h, q, "heads")]
        if fields.values.get("q_lora_rank") is not None:
            width = fields.integer("q_lora_rank")
            queries = [Linear("q_a_proj", h, width, "latent"), Linear("q_b_proj", width, q, "heads")]
        output = Linear("o_proj", sizes.heads * sizes.value_dim, h, "attention output")
        return (*queries, Linear("kv_a_proj_with_mqa", h, latent, "latent"), output)
    if not traits.attention_linears:
        return ()
    *names, last = traits.attention_linears
    widths = [q + 2 * kv] if len(names) == 1 else [q, kv, kv]
    heads = [Linear(name, h, width, "heads") for name, width in zip(names, widths, strict=True)]
    return (*heads, Linear(last, q, h, "attention output"))


def _mlp_linears(traits: Family, names: tuple[str, ...], sizes: _Sizes, width: int) -> tuple[Linear, ...]:
    """Return those of an MLP of `width`; none of a shared expert that is not there, of width 0."""
    if not width or not names:
        return ()
    *before, last = names
    each = width * (2 if traits.gated and len(before) == 1 else 1)
    wide = [Linear(name, sizes.hidden, each, "wide") for name in before]
    return (*wide, Linear(last, width, sizes.hidden, "mlp output"))


def _dense_width(traits: Family, fields: ConfigFields, sizes: _Sizes) -> int:
    if "n_embd" in fields.values:
        return fields.integer("n_inner", default=4 * sizes.hidden)
    return fields.integer(*((traits.wide_dense,) if traits.wide_dense else ()), "intermediate_size")


def _shared_width(experts: Experts, fields: ConfigFields, width: int) -> int:
    if experts.shared == "counted":
        return width * fields.integer(*experts.shared_fields, default=0, least=0)
    if experts.shared in ("sized", "gated"):
        return fields.integer(*experts.shared_fields, least=0)
    return width if experts.shared == "width" else 0


def _expert_layers(experts: Experts | None, fields: ConfigFields, layers: int) -> tuple[bool, ...]:
    """Return for each layer whether it has experts.

    `first-dense`: all but the first `first_k_dense_replace`. `sparse-step`: every `decoder_sparse_step`-th layer but
    those of `mlp_only_layers`. `interleaved`: `moe_layers`, else every `interleave_moe_layer_step`-th.
    """
    if experts is None:
        return (False,) * layers
    if experts.rule == "first-dense":
        dense = fields.integer("first_k_dense_replace", default=0, least=0)
        return tuple(index >= dense for index in range(layers))
    if experts.rule == "sparse-step":
        step, only = fields.integer("decoder_sparse_step", default=1), fields.integers("mlp_only_layers") or ()
        number = fields.integer(*experts.number, least=0)
        return tuple(index not in only and number > 0 and (index + 1) % step == 0 for index in range(layers))
    if experts.rule == "interleaved":
        step = fields.integer("interleave_moe_layer_step", default=1)
        listed = fields.integers("moe_layers")
        chosen = range(step - 1, layers, step) if listed is None else listed
        return tuple(index in chosen for index in range(layers))
    return (True,) * layers


def _rest_parameters(traits: Family, fields: ConfigFields, sizes: _Sizes, *, tied: bool) -> int:
    matrix = sizes.vocabulary * sizes.hidden
    count = matrix + _norm_parameters(traits, sizes) + (0 if tied else matrix)
    count += sizes.vocabulary * traits.head_bias
    if traits.positions is not None:
        name, more = traits.positions
        count += (fields.integer(name, "max_position_embeddings") + more) * sizes.hidden
    return count


def _kv_numbers(traits: Family, fields: ConfigFields, sizes: _Sizes) -> int:
    if traits.latent:
        return fields.integer("kv_lora_rank") + fields.integer("qk_rope_head_dim")
    return 2 * sizes.kv_heads * sizes.head_dim


def _read_windows(family: str, fields: ConfigFields, layers: int) -> tuple[int | None, ...]:
    """Return the window of every layer: of those that `layer_types` names as sliding, else of all that have one."""
    size = fields.integer("sliding_window", "attention_chunk_size", default=0, least=0)
    kinds = fields.words("layer_types")
    if not size or fields.values.get("use_sliding_window") is False:
        return (None,) * layers
    if kinds is not None and len(kinds) == layers:
        return tuple(size if kind != "full_attention" else None for kind in kinds)
    # Without a list only Mistral's and Phi-3's windows are of all layers; elsewhere the whole length is an upper bound.
    return (size if family in ("mistral", "phi3", "mixtral", "starcoder2") else None,) * layers


__all__ = ["MODEL_PATH", "LayerShape", "Linear", "ModelShape", "parse_model"]
