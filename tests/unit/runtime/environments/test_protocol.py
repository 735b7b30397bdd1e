import math
from types import SimpleNamespace

import numpy as np
import pytest

from scalerl_runtime.environments.protocol import Step, parse_step


def reply(**changes):
    return SimpleNamespace(**{"observation": "o", "done": False, "reward": None, "error": False, **changes})


@pytest.mark.parametrize(
    ("returned", "step", "rule"),
    [
        (Step("o"), Step("o"), "as it is"),
        (reply(reward=np.float32(0.5)), Step("o", reward=0.5), "numbers of numpy"),
        (reply(done=np.bool_(True), reward=np.bool_(False)), Step("o", done=True, reward=-1.0), "flags of numpy"),
        (reply(done=True, reward=True), Step("o", done=True, reward=1.0), "a bool is right or wrong"),
        (reply(done=True, reward=-1), Step("o", done=True, reward=-1.0), "an integer"),
        (reply(observation="\ud83d"), Step("\ufffd"), "half a character"),
        (reply(observation="\ud83d\ude00"), Step("\U0001f600"), "two halves of one"),
    ],
)
def test_replies(returned, step, rule):
    assert parse_step(returned) == step, rule


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, "None without observation"),
        ("text", "'text' without"),
        (("o", True), "without observation"),
        ({"observation": "o"}, "without observation"),
        (reply(observation=None), "observation None; a string"),
        (reply(observation=b"o"), "observation b'o'; a string"),
        (reply(done="no"), "done='no'; True or False"),
        (reply(error=1), "error=1; True or False"),
        (reply(reward=1.5), "reward 1.5; a number from -1 to 1"),
        (reply(reward=math.nan), "reward nan"),
        (reply(reward="1"), "reward '1'"),
        (reply(done=True), "ended the episode without a reward"),
    ],
)
def test_what_is_no_step_is_refused_in_words(returned, words):
    with pytest.raises((TypeError, ValueError), match=words):
        parse_step(returned)
