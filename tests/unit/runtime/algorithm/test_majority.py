import numpy as np
import pytest

from scalerl_runtime.algorithm.majority import NO_VOTE, RIGHT, maj_at_k

R, N = RIGHT, NO_VOTE


@pytest.mark.parametrize(
    ("votes", "samples", "expected", "rule"),
    [
        ([[R, 1, R, 2]], 4, {"1": 0.5, "2": 0.5, "4": 1.0}, "two of four are right; each pair is a tie"),
        ([[1, R, 1, 1]], 4, {"1": 0.25, "2": 0.25, "4": 0.0}, "the second pair agrees on a wrong answer"),
        ([[R, 1, 2]], 3, {"1": 1 / 3, "2": 0.5, "3": 1 / 3}, "a tie of three; the third is in no pair"),
        ([[R, N, N, N]], 4, {"1": 0.25, "2": 0.5, "4": 1.0}, "completions without an answer have no vote"),
        ([[N, N]], 2, {"1": 0.0, "2": 0.0}, "no vote at all is wrong"),
        ([[R, R], [1, 1]], 2, {"1": 0.5, "2": 0.5}, "the mean over prompts"),
        ([[R, R], [1]], 2, {"1": 0.5, "2": 1.0}, "a prompt with too few graded completions is left out of this k"),
        ([[1], []], 2, {"1": 0.0}, "a k that no prompt has is left out"),
    ],
)
def test_maj_at_k(votes, samples, expected, rule):
    assert maj_at_k(votes, samples) == pytest.approx(expected), rule


def test_blocks_are_an_unbiased_estimate():
    """Three answers with chances .4 (right), .3 and .3: of 3 votes the right one wins with .4 exactly enumerated."""
    chances = {R: 0.4, 1: 0.3, 2: 0.3}
    exact = sum(
        chances[a] * chances[b] * chances[c] * maj_at_k([[a, b, c]], 3)["3"]
        for a in chances
        for b in chances
        for c in chances
    )
    rng = np.random.default_rng(8)
    drawn = [rng.choice([R, 1, 2], size=12, p=[0.4, 0.3, 0.3]).tolist() for _ in range(4000)]
    blocks = np.mean([maj_at_k([row[start : start + 3]], 3)["3"] for row in drawn for start in range(0, 12, 3)])
    assert blocks == pytest.approx(exact, abs=0.01)
