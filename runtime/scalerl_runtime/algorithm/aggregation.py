"""How token losses are averaged into one number: a weight for every trained token. PURE."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Aggregation = Literal["promptMean", "sampleMean", "tokenMean"]


def token_weights(
    kind: Aggregation, trained_tokens: NDArray[np.int64], group: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the weight of each trained token of a completion, [B]; sum of weight * token loss is the batch's loss.

    Args:
        kind: `promptMean`: 1 / (P * tokens of the group). `sampleMean`: 1 / (B * tokens of the completion).
            `tokenMean`: 1 / tokens of the batch.
        trained_tokens: [B] tokens that enter the loss, >= 0; forced tokens are not among them.
        group: [B] which group a completion belongs to, any integers.

    A completion without a trained token has weight 0 and enters no mean: B counts the completions with one, P the
    groups with one. So the weights, each times its tokens, add up to 1, unless nothing at all is trained (all 0).
    Pass the whole optimizer step at once: weights of parts do not add up.
    """
    tokens = np.asarray(trained_tokens, dtype=np.float64)
    if tokens.shape != np.shape(group) or tokens.ndim != 1:
        raise ValueError(f"trained_tokens has shape {tokens.shape}, group {np.shape(group)}; need one entry each")
    if (tokens < 0).any():
        raise ValueError(f"trained_tokens has {tokens.min():g}; need >= 0")
    trained = tokens > 0
    share: NDArray[np.float64]
    if kind == "promptMean":
        _, index = np.unique(group, return_inverse=True)
        of_group = np.bincount(index, weights=tokens).astype(np.float64)
        share = of_group[index] * np.count_nonzero(of_group)
    elif kind == "sampleMean":
        share = tokens * np.count_nonzero(trained)
    else:
        share = np.full_like(tokens, tokens.sum())
    weights = np.zeros_like(tokens)
    weights[trained] = 1.0 / share[trained]
    return weights
