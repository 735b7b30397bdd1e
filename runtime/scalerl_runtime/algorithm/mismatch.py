"""Mismatch of log-probabilities between trainer and generator on the same tokens, by the tokens' lag. PURE.

Lag 0 is pure numerics: the same weights computed twice. Higher lags add the effect of the updates in between.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scalerl_runtime.algorithm.microbatch import MicroBatch

# Bucket name -> lags in it, first and last.
LAG_BUCKETS: dict[str, tuple[int, int]] = {"0": (0, 0), "1": (1, 1), "2-4": (2, 4), "5+": (5, 2**31 - 1)}
ALL = "all"
_NEAR_LOW, _NEAR_HIGH = 0.9, 1.1
_MAX_DIFFERENCE = 80.0  # nats; keeps exp and its square finite in float64


@dataclass(frozen=True)
class Mismatch:
    """Trainer against generator over some tokens; d = logp - logp_gen, r = exp(d), the importance ratio."""

    tokens: int
    kl_k3: float  # mean of r - 1 - d: KL(generator || policy), nats
    abs_mean: float  # of |d|, nats
    abs_p95: float
    abs_max: float
    tmpe: float  # token multiplicative probability error: mean of exp(|d|); 1 is perfect, above 1.05 a spike
    outside: float  # share of tokens with r outside [0.9, 1.1]
    ess: float  # effective share of the tokens under the weights r: (sum r)^2 / (n * sum r^2), in (0, 1]


def measure_mismatch(
    logp: NDArray[np.floating], logp_gen: NDArray[np.floating], lag: NDArray[np.integer], keep: NDArray[np.bool_]
) -> dict[str, Mismatch]:
    """Return the mismatch of all kept tokens ("all") and of each lag bucket that has any.

    Args:
        logp, logp_gen: [N] log-probability (nats) under trainer and generator; finite where `keep`.
        lag: [N] training version less the token's version, >= 0.
        keep: [N] False at forced tokens: the generator did not choose them.
    """
    difference = logp[keep].astype(np.float64) - logp_gen[keep].astype(np.float64)
    return dict(_by_bucket(np.clip(difference, -_MAX_DIFFERENCE, _MAX_DIFFERENCE), lag[keep]))


def sampled_tokens(rows: Sequence[MicroBatch]) -> NDArray[np.bool_]:
    """[N] over the targets of all rows: False at those of a stand-in row, which no generator sampled."""
    return np.concatenate([row.weight != 0.0 for row in rows])


def fresh_tokens(rows: Sequence[MicroBatch]) -> NDArray[np.bool_]:
    """[N] over the targets of all rows: True at tokens of completions whose every token has lag 0.

    In a completion that met an update, tokens of lag 0 follow a cache that older weights computed: their difference is
    no pure numerics.
    """
    fresh = []
    for row in rows:
        largest = np.zeros(int(row.completion.max(initial=0)) + 1, dtype=np.int64)
        np.maximum.at(largest, row.completion, row.lag)
        fresh.append((largest[row.completion] == 0) & (row.weight != 0.0))
    return np.concatenate(fresh)


def _by_bucket(difference: NDArray[np.float64], lag: NDArray[np.integer]) -> Iterator[tuple[str, Mismatch]]:
    if difference.size:
        yield ALL, _measure(difference)
    for name, (first, last) in LAG_BUCKETS.items():
        of_bucket = difference[(lag >= first) & (lag <= last)]
        if of_bucket.size:
            yield name, _measure(of_bucket)


def _measure(difference: NDArray[np.float64]) -> Mismatch:
    ratio, size = np.exp(difference), np.abs(difference)
    return Mismatch(
        tokens=difference.size,
        kl_k3=float(np.mean(np.expm1(difference) - difference)),
        abs_mean=float(size.mean()),
        abs_p95=float(np.percentile(size, 95)),
        abs_max=float(size.max()),
        tmpe=float(np.exp(size).mean()),
        outside=float(((ratio < _NEAR_LOW) | (ratio > _NEAR_HIGH)).mean()),
        ess=float(ratio.sum() ** 2 / (ratio.size * np.square(ratio).sum())),
    )
