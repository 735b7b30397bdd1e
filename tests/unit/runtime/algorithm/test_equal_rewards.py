from dataclasses import replace

import numpy as np
import pytest

from scalerl_runtime.algorithm.equal_rewards import FirstRewards, describe_equal_rewards
from scalerl_runtime.types import Completion, Group, Prompt

NONE = np.zeros(1, np.int32)
COMPLETION = Completion(NONE, np.zeros(1, np.float32), NONE, np.zeros(1, bool), "stop", "It is 4.")


def group(number, *rewards):
    completions = tuple(replace(COMPLETION, reward=each, text=f"{number}.{i}") for i, each in enumerate(rewards))
    return Group(Prompt(number, "2 + 2 =", NONE, "four"), 0, 0, completions)


@pytest.mark.parametrize(
    ("steps", "due", "rule"),
    [
        ([[-1.0, -1.0], [-1.0, -1.0]], True, "all wrong"),
        ([[1.0, 1.0], [1.0, 1.0]], True, "all right"),
        ([[None, None], [None, None]], True, "none graded"),
        ([[-1.0, -1.0]], False, "one step is too few"),
        ([[-1.0, -1.0], [-1.0, 1.0]], False, "one is right"),
        ([[-1.0, 1.0], [-1.0, -1.0]], False, "one was right before"),
        ([[-1.0, -1.0], [1.0, 1.0]], False, "the steps differ"),
        ([[-1.0, None], [-1.0, -1.0]], False, "a failure is not -1"),
        ([[-1.0, -1.0]] * 3, False, "it is said once"),
        ([[-1.0, 1.0], [-1.0, -1.0], [-1.0, -1.0]], False, "later steps do not count"),
    ],
)
def test_equal_rewards_are_due_after_the_second_step(steps, due, rule):
    first = FirstRewards()
    for rewards in steps:
        first = first.add([group(1, *rewards)])
    assert first.is_due == due, rule


def read_last_word(_prompt, text):
    return f"read as {text[-1]}"


def test_completions_of_different_prompts_are_shown_and_how_they_were_read():
    text = describe_equal_rewards([group(number, -1.0, -1.0) for number in (7, 8, 9, 10)], read_last_word)
    assert "same reward, -1" in text
    for number in (7, 8, 9):
        assert f"prompt {number}: completion '{number}.0', read as 0, reference 'four'" in text
    assert "prompt 10" not in text


def test_a_single_prompt_shows_its_completions_and_long_ones_their_end():
    long = replace(COMPLETION, text="x" * 999 + "the end", finish="length")
    one = Group(Prompt(5, "?", NONE, "r"), 0, 0, (long, COMPLETION))
    text = describe_equal_rewards([one], read_last_word)
    assert "without a reward" in text
    assert "(cut at the limit) '..." in text
    assert "the end'" in text
    assert "'It is 4.'" in text
    assert len(text) < 800
