"""pass@k: the chance that one of k completions of a prompt passes. PURE."""

from math import comb

import numpy as np
from numpy.typing import NDArray


def list_ks(samples: int) -> list[int]:
    """Return 1, 2, 4, ... up to `samples` >= 1, and `samples`: the k that an evaluation reports."""
    return sorted({*(2**power for power in range(samples.bit_length())), samples})


def pass_at_k(rewards: NDArray[np.float64]) -> dict[str, float]:
    """Return pass@k of rewards [P, G] by k, for k = 1, 2, 4, ... and G; NaN where the verifier failed, a pass is > 0.

    The unbiased estimate 1 - C(n - c, k) / C(n, k) for a prompt with n graded completions, c of which pass; the mean
    over the prompts with at least k of them. A k without such a prompt is left out.
    Source: Chen et al. 2021, arXiv:2107.03374.
    """
    graded = (~np.isnan(rewards)).sum(axis=1).tolist()
    passes = np.where(np.isnan(rewards), False, rewards > 0).sum(axis=1).tolist()
    found = {}
    for k in list_ks(rewards.shape[1]):
        chances = [1.0 - comb(n - c, k) / comb(n, k) for n, c in zip(graded, passes, strict=True) if n >= k]
        if chances:
            found[str(k)] = float(np.mean(chances))
    return found
