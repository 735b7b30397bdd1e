"""maj@k: how often the most frequent of k answers to a prompt is right. PURE."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from scalerl_runtime.algorithm.pass_at_k import list_ks

RIGHT = 0  # the vote of every right answer; other answers have numbers from 1, equal ones the same
NO_VOTE = -1  # of a completion that names no answer


def maj_at_k(votes: Sequence[Sequence[int]], samples: int) -> dict[str, float]:
    """Return maj@k by k, for k = 1, 2, 4, ... and `samples`.

    Args:
        votes: of every prompt's graded completions, in the order in which they were sampled.
        samples: completions per prompt.

    Each full block of k successive completions has one vote, and a prompt's value is the mean over its blocks: an
    unbiased estimate, because completions are independent. Of several most frequent answers each wins with the same
    chance, so that a tie of two, one of them right, counts 1/2. Completions without an answer have no vote; a block
    without any vote is wrong. The mean is over the prompts with at least one block; a k without such a prompt is left
    out. Source: Wang et al. 2022, arXiv:2203.11171; maj1@k of Lewkowycz et al. 2022, arXiv:2206.14858.
    """
    found = {}
    for k in list_ks(samples):
        values = [
            float(np.mean([_count_vote(row[start : start + k]) for start in range(0, len(row) - k + 1, k)]))
            for row in votes
            if len(row) >= k
        ]
        if values:
            found[str(k)] = float(np.mean(values))
    return found


def _count_vote(votes: Sequence[int]) -> float:
    """Return the chance that the right answer wins."""
    counts = Counter(vote for vote in votes if vote != NO_VOTE)
    most = max(counts.values(), default=0)
    winners = [vote for vote, count in counts.items() if count == most]
    return winners.count(RIGHT) / len(winners) if winners else 0.0
