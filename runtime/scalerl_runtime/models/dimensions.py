"""Sizes of an architecture that configurations name differently, or leave to be computed. PURE."""

from typing import Any


def head_dim(config: Any) -> int:
    """Return the dimension of a head's query.

    `head_dim` where the configuration has one, the two parts of a latent attention's, else width over heads.
    `config` is a whole model's, or its text part's.
    """
    text = config.get_text_config()
    if _number(text, "qk_nope_head_dim") and _number(text, "qk_rope_head_dim"):
        return int(text.qk_nope_head_dim + text.qk_rope_head_dim)
    return _number(text, "head_dim") or text.hidden_size // text.num_attention_heads


def attention_heads(config: Any) -> tuple[int, ...]:
    """Return the numbers of query heads of the layers' attention, each once, rising: some models have several."""
    text = config.get_text_config()
    by_layer = [getattr(text, name, None) for name in ("num_attention_heads_per_layer", "num_attention_heads")]
    found = {n for value in by_layer for n in (value if isinstance(value, list | tuple) else [value])}
    return tuple(sorted(n for n in found if isinstance(n, int)))


def attention_width(config: Any) -> int:
    """Return layers times heads times head dimension: a token's work against one other token, in multiply-adds."""
    text = config.get_text_config()
    return int(text.num_hidden_layers * text.num_attention_heads * head_dim(config))


def context_limit(config: Any) -> int | None:
    """Return the most tokens that the model's positions reach, rotary scaling included; None where nothing limits."""
    text = config.get_text_config()
    positions = _number(text, "max_position_embeddings")
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    if not positions or not isinstance(rope, dict):
        return positions or None
    factor, kind = rope.get("factor"), rope.get("rope_type", rope.get("type"))
    if isinstance(factor, int | float) and kind in ("yarn", "linear", "dynamic"):
        trained = rope.get("original_max_position_embeddings") or (positions if kind != "yarn" else 0)
        return max(positions, int(factor * trained))
    return positions


def rotary_switch(config: Any) -> tuple[str, int] | None:
    """Return the rotary scaling whose frequencies depend on a sequence's length, and the length from which they do.

    `dynamic` and `longrope` choose by the longest sequence of a forward pass, so a packed row with sequences on both
    sides of that length computes some of them with the frequencies of others. None for every other scaling.
    """
    text = config.get_text_config()
    ropes = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    nested = [each for each in ropes.values() if isinstance(each, dict)]  # by kind of layer
    for rope in (ropes, *nested):
        kind = rope.get("rope_type", rope.get("type"))
        if kind in ("dynamic", "longrope"):
            trained = rope.get("original_max_position_embeddings")
            own = _number(text, "original_max_position_embeddings") or _number(text, "max_position_embeddings")
            return kind, int(trained or own)
    return None


def _number(config: Any, name: str) -> int:
    value = getattr(config, name, None)
    return value if isinstance(value, int) else 0
