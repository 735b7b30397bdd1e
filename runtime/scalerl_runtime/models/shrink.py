"""A tiny configuration of the same architecture: every width, count and window small, every kind of layer kept. PURE.

Configurations have no common names, so a number is shrunk by what its name says. One whose name says nothing is kept.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

HEADS, HEAD_DIM = 4, 32  # 32 is the smallest head that the engine's CPU attention has
WIDTH = HEADS * HEAD_DIM
WINDOW = 8  # tokens
VOCABULARY = 320  # all bytes and some pairs
MAX_LAYERS = 12

_LAYER_COUNTS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "num_blocks",
    "decoder_layers",
    "num_decoder_layers",
)
# First match wins. A rule's value is the largest that is kept; `None` keeps the number.
_LIMITS: tuple[tuple[str, int | None], ...] = (
    (r"max_position|n_positions|n_ctx|max_seq_len|context_length|max_target|original_max|token_id|^seed$", None),
    (r"^(type|task_type)_vocab_size$|_cycles$", None),
    (r"vocab_size", VOCABULARY),
    (r"(num|n)_group$", 2),
    (r"topk_group$", 1),
    (r"shared_experts?$", 1),
    (r"experts_per_tok(en)?$|^moe_topk$|^moe_k$|^top_k_experts$|^num_selected_experts$", 2),
    (r"zero_expert_num$", 2),
    (r"(num|n)(_\w+)?_experts$|^n_routed_experts$", 4),
    (r"sliding_window$|window_size$|^local_attention$|chunk_size$|^keep_window_size$|^sliding_window_size$", WINDOW),
    (r"^index_topk$", WINDOW),
    (r"^index_block_size$|^index_topk_blocks$", 4),
    (r"^index_n_heads$", 2),
    (r"num_key_value_heads|num_kv_heads|num_query_groups", HEADS),
    (r"(mamba|ssm)_n(um)?_heads$|^mamba_num_heads$", 8),
    (r"mamba_d_head$|mamba_head_?dim$", 32),
    (r"mamba_d_ssm$", 2 * WIDTH),
    (r"linear_num_key_heads$|linear_num_heads$", 2),
    (r"qk_head_dim$", 2 * HEAD_DIM),
    (r"head_dim|head_size|^d_head$|^dim_head$|^kv_channels$|^rotary_dim$|query_pre_attn_scalar", HEAD_DIM),
    (r"heads?$|_heads_", HEADS),
    (r"d_state$|state_size$", 16),
    (r"n_?groups$", 2),
    (r"time_step_rank$|dt_rank$|laurel_rank$|hc_lowrank|adapter_rank|gated_norm_rank|^d_rel$", 8),
    (r"lora_rank$", 32),
    (r"per_layer_input|ple_embed_dim", 16),
    (r"intermediate_size|inner|ffn|dff|dim_ff|feed_forward", 96),
    (r"hidden_size|^d_model$|n_embd$|embed_dim|emb_dim|embedding_(size|dim)|dim_model|proj_dim|lru_width", WIDTH),
    (r"_size$|_dim$", WIDTH),
    (r"^first_k_dense_replace$|^num_dense_layers$|^moe_layer_start_index$", 1),
    (r"^global_attn_every_n_layers$", 2),
)  # fmt: skip
_PERIODS = r"(period|interval|pattern|step|every_n_layers)$"


def shrink_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's settings (`to_dict`) with small sizes; nested ones too.

    Layers: two of each kind, by every setting that has an entry a layer.
    """
    count = next((settings[name] for name in _LAYER_COUNTS if isinstance(settings.get(name), int)), 0)
    kept = _kept_layers(settings, count)
    small = {name: _shrink(name, value, count, kept) for name, value in settings.items()}
    small.update({name: len(kept) for name in _LAYER_COUNTS if isinstance(settings.get(name), int) and kept})
    _keep_grouped_heads(settings, small)
    _fit_rotary(small)
    _fit_state_heads(small)
    return small


def _shrink(name: str, value: Any, count: int, kept: Sequence[int]) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        if name.endswith("token_id"):
            return value % VOCABULARY  # its row must exist
        return min(value, limit) if (limit := _limit(name)) is not None else value
    if isinstance(value, dict) and name not in ("rope_parameters", "rope_scaling", "id2label", "label2id"):
        return _shrink_nested(name, value, kept)
    if isinstance(value, (list, tuple)) and not isinstance(value, str):
        return _shrink_list(name, value, count, kept)
    return value


def _limit(name: str) -> int | None:
    return next((limit for pattern, limit in _LIMITS if re.search(pattern, name)), None)


def _shrink_nested(name: str, value: dict[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    if value and all(str(key).isdigit() for key in value):  # by layer
        places = {old: new for new, old in enumerate(kept)}
        found = {key: places[int(key)] for key in value if int(key) in places}
        return {str(new).zfill(len(str(old))): shrink_settings(value[old]) for old, new in found.items()}
    small = shrink_settings(value) if name.endswith("config") or "model_type" in value else value
    return {key: each for key, each in small.items() if key not in ("_name_or_path", "output_attentions")}


def _shrink_list(name: str, value: Sequence[Any], count: int, kept: Sequence[int]) -> list[Any]:
    if count and len(value) == count and not _is_indices(name, value):
        return [_shrink(name, value[layer], 0, ()) for layer in kept]
    if _is_indices(name, value):
        places = {old: new for new, old in enumerate(kept)}
        return [places[layer] for layer in value if layer in places]
    return [_shrink(name, each, 0, ()) for each in value]


def _is_indices(name: str, value: Sequence[Any]) -> bool:
    """Whether a list holds numbers of layers."""
    named = re.search(r"idxs$|_indices$|layer_ids$|only_layers$|^moe_layers$|cross_attention_layers$", name)
    return named is not None and all(isinstance(each, int) for each in value)


def _kept_layers(settings: Mapping[str, Any], count: int) -> list[int]:
    """The first two layers of each kind: some share weights or keys with an earlier one."""
    by_layer = [value for name, value in settings.items() if isinstance(value, list) and len(value) == count]
    indices = [set(value) for name, value in settings.items() if isinstance(value, list) and _is_indices(name, value)]
    periods = [v for name, v in settings.items() if re.search(_PERIODS, name) and type(v) is int and not by_layer]
    periods += [v for name, v in settings.items() if re.search(r"pattern$", name) and type(v) is int]
    dense = [settings.get(name) or 0 for name in ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")]
    kinds: dict[str, list[int]] = {}
    for layer in range(count):
        kind = [value[layer] for value in by_layer] + [layer in each for each in indices] + [layer < max(dense)]
        kinds.setdefault(str(kind), []).append(layer)
    kept = sorted(layer for layers in kinds.values() for layer in layers[:2])
    if periods and not by_layer:
        kept = list(range(min(count, max(len(kept), *periods), MAX_LAYERS)))
    return kept[:MAX_LAYERS]


def _keep_grouped_heads(settings: Mapping[str, Any], small: dict[str, Any]) -> None:
    """Key heads: as many as heads, one, or half as many, as before. The shared half of the layers likewise."""
    pairs = (
        ("num_attention_heads", "num_key_value_heads"),
        ("swa_num_attention_heads", "swa_num_key_value_heads"),
        ("linear_num_value_heads", "linear_num_key_heads"),
        ("n_head", "num_kv_heads"),
    )
    for heads, keys in pairs:
        before = settings.get(heads), settings.get(keys)
        if isinstance(before[0], int) and isinstance(before[1], int):
            small[keys] = small[heads] if before[0] == before[1] else min(before[1], 2)
    if settings.get("num_kv_shared_layers"):
        small["num_kv_shared_layers"] = small["num_hidden_layers"] // 2


def _fit_state_heads(small: dict[str, Any]) -> None:
    """Heads of state-space layers fill their inner width."""
    for heads, dim, expand in (
        ("mamba_n_heads", "mamba_d_head", "mamba_expand"),
        ("n_mamba_heads", "mamba_headdim", "mamba_expand"),
        ("num_heads", "head_dim", "expand"),
    ):
        if all(isinstance(small.get(name), int) for name in (heads, dim, expand)):
            small[heads] = small[expand] * small["hidden_size"] // small[dim]
    if isinstance(small.get("mamba_d_ssm"), int):
        small["mamba_d_ssm"] = small["mamba_n_heads"] * small["mamba_d_head"]


def _fit_rotary(small: dict[str, Any]) -> None:
    """Lists of rotary settings have one entry a frequency, or sum up to their number."""
    rope = small.get("rope_parameters") or small.get("rope_scaling")
    for each in [rope, *(rope or {}).values()]:
        if not isinstance(each, dict):
            continue
        dims = small.get("qk_rope_head_dim") or small.get("head_dim") or HEAD_DIM
        frequencies = int(dims * (each.get("partial_rotary_factor") or small.get("partial_rotary_factor") or 1)) // 2
        for name in ("short_factor", "long_factor"):
            if isinstance(each.get(name), list):
                each[name] = each[name][:frequencies]
        if isinstance(each.get("mrope_section"), list):
            each["mrope_section"] = _scale_sections(each["mrope_section"], frequencies)


def _scale_sections(sections: Sequence[int], total: int) -> list[int]:
    scaled = [max(1, each * total // sum(sections)) for each in sections]
    scaled[0] += total - sum(scaled)
    return scaled
