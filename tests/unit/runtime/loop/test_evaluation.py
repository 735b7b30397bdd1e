import math

import numpy as np
import pytest

from scalerl_runtime.loop.evaluation import EvalPlan, EvalSample, mean_surprise, measure_completion, measure_set, score
from scalerl_runtime.types import Completion

NAN = math.nan


@pytest.mark.parametrize(
    ("rewards", "pass_rate", "error", "excluded", "prompts", "rule"),
    [
        # Means 1, 1/2, 0: mean 1/2, variance (1/4 + 0 + 1/4) / 2 = 1/4, error 1/2 / sqrt(3).
        ([[1, 1], [1, -1], [-1, -1]], 0.5, 0.5 / math.sqrt(3), 0, 3, "the prompts are the units, not the samples"),
        ([[1, NAN], [-1, -1]], 0.5, math.sqrt(0.5) / math.sqrt(2), 1, 2, "an ungraded completion is not counted"),
        ([[NAN, NAN], [1, 1], [1, 1]], 1.0, 0.0, 2, 2, "a prompt without a graded completion is not counted"),
        ([[0.5, 0.0, -0.5, 0.1]], 0.5, 0.5, 0, 1, "a pass is above 0; one prompt tells nothing of the spread"),
    ],
)
def test_score(rewards, pass_rate, error, excluded, prompts, rule):
    found = score(np.array(rewards, dtype=np.float64))
    assert found.pass_rate == pytest.approx(pass_rate), rule
    assert found.standard_error == pytest.approx(error), rule
    assert (found.excluded, found.prompts) == (excluded, prompts), rule


def test_score_without_a_graded_completion_is_an_error():
    with pytest.raises(ValueError, match="none of 4 completions"):
        score(np.full((2, 2), NAN))


def completion(logps, forced):
    numbers = np.zeros(len(logps), dtype=np.int32)
    values = np.array(logps, dtype=np.float32)
    return Completion(numbers, values, numbers, np.array(forced, dtype=np.bool_), "stop", "", reward=1.0)


def test_forced_tokens_are_no_part_of_the_entropy():
    """They have log-probabilities of about -9: 16 of 56 such tokens turned .2 nats into 2.7."""
    long = completion([-0.25] * 40 + [-9.0] * 16, [False] * 40 + [True] * 16)
    short = completion([-2.25] * 10, [False] * 10)
    assert mean_surprise([measure_completion(long)]) == pytest.approx(0.25)
    # (40 * 0.25 + 10 * 2.25) / 50: tokens are averaged, not completions
    assert mean_surprise([measure_completion(long), measure_completion(short)]) == pytest.approx(0.65)
    assert mean_surprise([measure_completion(completion([], []))]) == 0.0
    assert measure_completion(long).tokens == 56


def samples(*votes):
    """Completions with these votes; `x`: the verifier failed."""
    rewards = {"x": NAN, 0: 1.0}
    return [
        EvalSample(rewards.get(vote, -1.0), 1, 1.0, 1, cut=False, vote=0 if vote == "x" else vote) for vote in votes
    ]


@pytest.mark.parametrize(
    ("results", "expected", "rule"),
    [
        ([samples(0, 1), samples(2, 2)], {"1": 0.25, "2": 0.25}, "a tie, and a wrong answer"),
        ([samples(0, "x"), samples(0, 0)], {"1": 1.0, "2": 1.0}, "a completion without a reward is left out"),
        ([samples(0, 0), samples(None, None)], None, "one prompt is of a verifier without votes"),
    ],
)
def test_a_point_has_maj_at_k_if_each_prompt_has_votes(results, expected, rule):
    point = measure_set("held_out", results, EvalPlan(0, 0.0, 1, 1, samples=2))
    assert point.maj_at_k == (expected if expected is None else pytest.approx(expected)), rule
