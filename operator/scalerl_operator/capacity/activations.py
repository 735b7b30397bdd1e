"""Bytes that a forward pass keeps for the backward, and those of the head, by the tensors that autograd saves.

N is the number of tokens, h the width, q and kv of all heads of queries and of keys, w of an MLP, i the bytes of
a number. Counted for real widths by `bench/runtime/activation_memory.py`.
"""

from scalerl_api import RLRun
from scalerl_operator.capacity.model_shape import LayerShape, ModelShape
from scalerl_operator.capacity.work import bytes_of

# `runtime/scalerl_runtime/algorithm/head.py` has these.
CHUNK_BYTES = 128 * 2**20
TILE_ROWS_CPU, TILE_ROWS_GPU, TILE_MIN_COLUMNS = 256, 2048, 256
CAST_NUMBERS = 2**22
STATS_LOGITS = 2**18
TILE_COPIES = 3  # a tile of logits, its gradient and one temporary


def input_bytes(shape: ModelShape, tokens: int, item: int) -> float:
    """Bytes of the inputs of all layers."""
    return float(item * shape.hidden * tokens * shape.layers)


def layer_bytes(shape: ModelShape, layer: LayerShape, tokens: int, item: int, *, is_gpu: bool) -> float:
    """Bytes that the backward of one layer needs."""
    norms, attention = _norm_bytes(shape, item), _attention_bytes(shape, item, is_gpu=is_gpu)
    return tokens * (norms + attention + _mlp_bytes(shape, layer, item))


def _norm_bytes(shape: ModelShape, item: int) -> float:
    """Norms of the model's width and what they feed: i h for each input of a product, and the norm's own.

    RMS: its input in float32, the normalized input, and its result; `rms-float` keeps the normalized one in float32.
    """
    kind = shape.traits.norm
    own = {"rms": 4 + item, "rms-float": 8, "layer": item, "layer-no-bias": 4 + item, "plain": 4}[kind]
    return shape.hidden * (shape.traits.layer_norms * own + 2 * item)


def _attention_bytes(shape: ModelShape, item: int, *, is_gpu: bool) -> float:
    """Queries, keys, values and the result; on a CPU keys and values for every head, and one copy of the result."""
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    value = shape.heads * shape.value_dim
    norm = (4 + item) * (q + kv) if shape.traits.qk_norm != "none" else 0
    keys = q + value if not is_gpu or shape.is_latent else 2 * kv
    return norm + item * (q + keys + value * (1 if is_gpu else 2)) + 4 * shape.heads


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
    rows, item = run.spec.trainer.rank_tokens, bytes_of(run.spec.model.dtype)
    is_gpu, vocabulary, hidden = bool(run.spec.trainer.gpus_per_replica), shape.vocabulary, shape.hidden
    chunk = max(1, CHUNK_BYTES // (4 * vocabulary))
    logits = 4.0 * min(rows, chunk) * vocabulary
    weight = vocabulary * hidden
    if is_gpu:
        forward = 2 * logits
    else:
        cast = 4 * min(weight, CAST_NUMBERS) if item == 2 else 0
        forward = logits + 4 * min(rows, chunk) * hidden + cast + 4 * 3 * min(STATS_LOGITS, rows * vocabulary)
    columns = min(vocabulary, max(TILE_MIN_COLUMNS, chunk * vocabulary // (4 * TILE_ROWS_GPU)))
    tile = TILE_COPIES * 4.0 * min(rows, TILE_ROWS_GPU if is_gpu else TILE_ROWS_CPU) * columns
    blocks = 4.0 * columns * hidden * (1 if is_gpu or item == 4 else 2)
    backward = 4.0 * rows * hidden + item * weight + blocks + tile
    return forward + item * rows * hidden, backward + item * rows * hidden
