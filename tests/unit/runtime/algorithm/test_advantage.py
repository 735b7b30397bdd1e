import math

import numpy as np
import pytest

from scalerl_runtime.algorithm.advantage import compute_advantages

NAN = math.nan
# Group 5: rewards 1, -1, -1, -1: mean -1/2, advantages 3/2, -1/2, -1/2, -1/2, sum of squares 3.
# Group 3: rewards 1, 1, -1, -1: mean 0, advantages 1, 1, -1, -1, sum of squares 4.
REWARDS = np.array([1.0, 1.0, -1.0, 1.0, -1.0, -1.0, -1.0, -1.0])
GROUP = np.array([5, 3, 5, 3, 5, 3, 5, 3])
CENTERED = np.array([1.5, 1.0, -0.5, 1.0, -0.5, -1.0, -0.5, -1.0])


@pytest.mark.parametrize(
    ("kind", "want"),
    [
        pytest.param("none", CENTERED, id="reward less the group's mean"),
        pytest.param("batchStd", CENTERED / math.sqrt(7 / 8), id="over the deviation of all eight advantages"),
        pytest.param(
            "groupStd",
            CENTERED / np.where(GROUP == 5, math.sqrt(3 / 4), 1.0),
            id="over each group's own deviation, sqrt(3/4) and 1",
        ),
    ],
)
def test_by_hand(kind, want):
    assert compute_advantages(kind, REWARDS, GROUP) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize(
    ("kind", "rewards", "group", "want"),
    [
        pytest.param("none", [1, NAN, -1, 1], [0, 0, 0, 0], [2 / 3, 0, -4 / 3, 2 / 3], id="NaN is in no mean"),
        pytest.param("none", [1, NAN, -1, 1], [0, 0, 1, 1], [0, 0, -1, 1], id="one valid reward has no rival: 0"),
        pytest.param("none", [NAN, NAN], [0, 0], [0, 0], id="no valid reward at all"),
        pytest.param("none", [1, -1], [0, 1], [0, 0], id="groups of one"),
        # advantages 1, -1 of the only group that counts: deviation 1; with the lone reward's 0 it would be sqrt(2/3)
        pytest.param("batchStd", [1, -1, 1, NAN], [0, 0, 1, 1], [1, -1, 0, 0], id="a lone reward is in no deviation"),
        # advantages 1, -1, 0, 0: deviation sqrt(1/2)
        pytest.param(
            "batchStd", [1, -1, 1, 1], [0, 0, 1, 1], [2**0.5, -(2**0.5), 0, 0], id="an all-equal group is in it"
        ),
        pytest.param("groupStd", [3, 1, NAN], [0, 0, 0], [1, -1, 0], id="NaN is not in the group's deviation"),
    ],
)
def test_completions_without_a_comparison_have_advantage_zero(kind, rewards, group, want):
    assert compute_advantages(kind, np.array(rewards, float), np.array(group)) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("kind", ["batchStd", "groupStd", "none"])
def test_equal_rewards_give_exact_zeros(kind):
    # The mean of three times 0.1 rounds to something else; divided by its own deviation that would become 1.
    rewards = np.array([0.1, 0.1, 0.1, -0.3, -0.3, -0.3])
    assert compute_advantages(kind, rewards, np.array([0, 0, 0, 1, 1, 1])).tolist() == [0.0] * 6


@pytest.mark.parametrize("kind", ["batchStd", "groupStd", "none"])
def test_empty_batch(kind):
    assert compute_advantages(kind, np.empty(0), np.empty(0, int)).tolist() == []


def test_arguments_are_not_changed():
    rewards = REWARDS.copy()
    compute_advantages("batchStd", rewards, GROUP)
    assert rewards.tolist() == REWARDS.tolist()


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"rewards has shape \(2,\), group \(3,\)"):
        compute_advantages("none", np.zeros(2), np.zeros(3, int))
