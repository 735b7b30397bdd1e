import math

import numpy as np
import pytest

from scalerl_runtime.algorithm.pass_at_k import pass_at_k

NAN = math.nan


@pytest.mark.parametrize(
    ("rewards", "expected", "rule"),
    [
        # One of four passes. Of the 6 pairs 3 have it; every set of four has it.
        ([[1, -1, -1, -1]], {"1": 0.25, "2": 0.5, "4": 1.0}, "1 - C(3, k) / C(4, k)"),
        ([[1, 1, -1, -1], [-1, -1, -1, -1]], {"1": 0.25, "2": 5 / 12, "4": 0.5}, "the mean over prompts"),
        ([[1, -1, -1]], {"1": 1 / 3, "2": 2 / 3, "3": 1.0}, "the number of completions, though no power of two"),
        ([[1, NAN, -1, -1], [-1, -1, -1, -1]], {"1": 1 / 6, "2": 1 / 3, "4": 0.0}, "a prompt with k graded ones"),
        ([[1, NAN], [NAN, NAN]], {"1": 1.0}, "no prompt has two"),
        ([[0.5, 0.0]], {"1": 0.5, "2": 1.0}, "a pass is above 0"),
    ],
)
def test_pass_at_k(rewards, expected, rule):
    assert pass_at_k(np.array(rewards, dtype=np.float64)) == pytest.approx(expected), rule


def test_many_completions_are_exact():
    """Products of factorials of 1024 overflow a float."""
    rewards = np.full((1, 1024), -1.0)
    rewards[0, 0] = 1.0
    found = pass_at_k(rewards)
    assert found["512"] == pytest.approx(0.5)
    assert found["1024"] == 1.0
