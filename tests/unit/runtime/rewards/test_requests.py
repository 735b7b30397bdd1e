import pytest

from scalerl_runtime.rewards.requests import GradeRequest, combine
from scalerl_runtime.types import Reward


def test_the_reward_is_the_weighted_mean_and_each_judge_is_named():
    found = combine({"math": Reward(1.0), "style": Reward(-0.5)}, {"math": 3.0, "style": 1.0})
    assert found == Reward(0.625, "", {"math": 1.0, "style": -0.5}), "(3 * 1 - 0.5) / 4"


def test_a_judge_that_fails_leaves_no_reward_but_the_others_are_kept():
    found = combine({"math": Reward(1.0), "rm": Reward(None, "timed out")}, {"math": 1.0, "rm": 1.0})
    assert found == Reward(None, "rm: timed out", {"math": 1.0})


def test_a_judge_without_an_opinion_is_left_out_of_the_mean():
    found = combine({"math": Reward(0.5), "style": Reward(None)}, {"math": 1.0, "style": 9.0})
    assert found == Reward(0.5, "", {"math": 0.5})


def test_without_any_opinion_there_is_no_reward():
    found = combine({"style": Reward(None)}, {"style": 1.0})
    assert (found.reward, "no opinion" in found.error) == (None, True)


def test_an_error_of_the_only_judge_needs_no_name():
    assert combine({"math": Reward(None, "timed out")}, {"math": 1.0}).error == "timed out"


@pytest.mark.parametrize("weights", [(0.1, 0.2, 0.7), (1e-6, 1e6, 3.0)])
def test_equal_rewards_stay_in_range_whatever_the_rounding(weights):
    names = ("a", "b", "c")
    found = combine(dict.fromkeys(names, Reward(1.0)), dict(zip(names, weights, strict=True)))
    assert found.reward is not None
    assert -1.0 <= found.reward <= 1.0
    assert found.reward == pytest.approx(1.0)


def test_a_request_crosses_processes_whole():
    request = GradeRequest("q", "a", "r", "s")
    assert GradeRequest.parse(request.to_list()) == request
