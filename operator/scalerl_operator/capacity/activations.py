"""Bytes that a forward pass keeps for the backward, and those of the head, by the tensors that autograd saves.

N is the number of tokens, h the width, q and kv of all heads of queries and of keys, w of an MLP, i the bytes of
a number. Counted for real widths by `bench/runtime/activation_memory.py`.
"""

from scalerl_api import RLRun
from scalerl_operator.capacity.adapters import list_adapted
from scalerl_operator.capacity.model_shape import LayerShape, ModelShape

# `runtime/scalerl_runtime/algorithm/head.py` has these.
CHUNK_BYTES = 128 * 2**20
TILE_ROWS_CPU, TILE_ROWS_GPU, TILE_MIN_COLUMNS = 256, 2048, 256
CAST_NUMBERS = 2**22
STATS_LOGITS = 2**18
TILE_COPIES = 2  # a tile of logits, whose place its gradient takes, and one temporary


def input_bytes(shape: ModelShape, tokens: int, item: int) -> float:
    """Bytes of the inputs of all layers."""
    return float(item * shape.hidden * tokens * shape.layers)


def layer_bytes(shape: ModelShape, layer: LayerShape, run: RLRun) -> float:
    """Bytes that the backward of one layer needs for a micro-batch."""
    trainer, item, lora = run.spec.trainer, run.spec.model.item_bytes, run.spec.model.lora
    is_gpu = bool(trainer.gpus_per_replica)
    norms, attention = _norm_bytes(shape, item), _attention_bytes(shape, item, is_gpu=is_gpu)
    token = norms + attention + _mlp_bytes(shape, layer, item)
    if lora is not None:
        token += item * lora.rank * len(list_adapted(layer, lora)) - _frozen_bytes(shape, layer, run)
    return trainer.rank_tokens * token


def _frozen_bytes(shape: ModelShape, layer: LayerShape, run: RLRun) -> float:
    """Bytes a token that a layer with frozen weights does not keep: normalized inputs, and inputs of its products.

    An adapter keeps its layer's input. Attention on a GPU keeps its result in any case.
    """
    item, lora = run.spec.model.item_bytes, run.spec.model.lora
    kinds = set() if lora is None else {each.kind for each in list_adapted(layer, lora)}
    normalized = {"rms": item, "rms-float": 4, "layer": 0, "layer-no-bias": item, "plain": 0}[shape.traits.norm]
    total = float(shape.hidden * shape.traits.layer_norms * normalized)
    if shape.traits.qk_norm != "none":
        total += item * (shape.heads + shape.kv_heads) * shape.head_dim
    total += item * shape.hidden * (kinds.isdisjoint(("heads", "latent")) + ("wide" not in kinds))
    if "attention output" not in kinds and not run.spec.trainer.gpus_per_replica:
        total += item * shape.heads * shape.value_dim
    if "mlp output" not in kinds:
        total += item * (layer.shared_width if layer.experts else layer.width)
    return total + item * layer.chosen * (layer.width + 2 * shape.hidden)


def _norm_bytes(shape: ModelShape, item: int) -> float:
    """Norms of the model's width and what they feed: i h for each input of a product, and the norm's own.

    RMS: its input in float32, the normalized input, and its result; `rms-float` keeps the normalized one in float32.
    """
    kind = shape.traits.norm
    own = {"rms": 4 + item, "rms-float": 8, "layer": item, "layer-no-bias": 4 + item, "plain": 4}[kind]
    return shape.hidden * (shape.traits.layer_norms * own + 2 * item)


def _attention_bytes(shape: ModelShape, item: int, *, is_gpu: bool) -> float:
    """Queries, keys, values and the result; on a CPU a copy of each, in blocks of equal length."""
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    value = shape.heads * shape.value_dim
    norm = (4 + item) * (q + kv) if shape.traits.qk_norm != "none" else 0
    keys, values = (q, value) if shape.is_latent else (kv, kv)
    given = (q + keys + values) * (1 if is_gpu else 2)
    return norm + item * (given + value * (1 if is_gpu else 2)) + 4 * shape.heads


def _mlp_bytes(shape: ModelShape, layer: LayerShape, item: int) -> float:
    """A gated MLP: gate, its activation, the other product, and both together. Without a gate: two.

    With experts each chosen one has a gated MLP's, its input, its output and the output with its weight.
    """
    times = 4 if shape.traits.gated else 2
    if not layer.experts:
        return float(item * times * layer.width)
    each = item * (4 * layer.width + 3 * shape.hidden)
    return float(layer.chosen * each + item * times * layer.shared_width + 8 * layer.experts)


def head_bytes(shape: ModelShape, run: RLRun) -> tuple[float, float]:
    """Return the largest memory of the head's forward and of its backward.

    All tokens of the rank's part of a micro-batch count as trained ones.
    """
    rows, item = run.spec.trainer.rank_tokens, run.spec.model.item_bytes
    is_gpu, vocabulary, hidden = bool(run.spec.trainer.gpus_per_replica), shape.vocabulary, shape.hidden
    chunk = max(1, CHUNK_BYTES // (4 * vocabulary))
    logits = 4.0 * min(rows, chunk) * vocabulary
    weight = vocabulary * hidden
    if is_gpu:
        forward = 2 * logits
    else:
        cast = 4 * (min(weight, CAST_NUMBERS) + min(rows, chunk) * hidden) if item == 2 else 0
        forward = logits + max(cast, 4 * min(STATS_LOGITS, rows * vocabulary))
    columns = min(vocabulary, max(TILE_MIN_COLUMNS, chunk * vocabulary // (4 * TILE_ROWS_GPU)))
    tile = TILE_COPIES * 4.0 * min(rows, TILE_ROWS_GPU if is_gpu else TILE_ROWS_CPU) * columns
    is_trained = run.spec.model.lora is None
    blocks = 4.0 * columns * hidden * (is_trained + (not is_gpu and item == 2))
    backward = 4.0 * rows * hidden + item * weight * is_trained + blocks + tile
    return forward + item * rows * hidden, backward + item * rows * hidden
