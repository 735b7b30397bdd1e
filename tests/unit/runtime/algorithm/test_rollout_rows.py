"""The rows of stored completions, by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerl_runtime.algorithm.rollout_rows import (
    EXAMPLE_CHARACTERS,
    RowSource,
    choose_example,
    choose_groups,
    eval_rows,
    find_forced_text,
    step_rows,
    storable,
)
from scalerl_runtime.types import Completion, Group, Prompt

SOURCE = RowSource(attempt=3, seed=17, phrase="Stop now.</think>", share=1.0)


def prompt(name, text="2 + 2 ="):
    return Prompt(name, text, np.array([1], np.int32), "4", source="sums")


def completion(text="4", reward=1.0, *, versions=(5, 6, 6), forced=(), finish="stop"):
    flags = np.zeros(len(versions), bool)
    flags[list(forced)] = True
    return Completion(
        tokens=np.arange(len(versions), dtype=np.int32),
        logps=np.linspace(-1.0, -2.0, len(versions), dtype=np.float32),
        versions=np.array(versions, np.int32),
        forced=flags,
        finish=finish,
        text=text,
        reward=reward,
        by_judge={} if reward is None else {"math": reward},
    )


def test_rows_of_a_step():
    forced = completion("<think>hmStop now.</think>4", -1.0, forced=(1, 2), finish="length")
    group = Group(prompt(12), 2, 5, (forced, completion("?", None, versions=(7,))))
    one, other = step_rows([group], [np.array([-0.5, math.nan])], SOURCE, step=9)
    assert (one.step, one.dataset, one.attempt, one.epoch, one.prompt_id, one.sample) == (9, None, 3, 2, 12, 0)
    assert (one.prompt, one.source, one.reference, one.finish, one.num_tokens) == ("2 + 2 =", "sums", "4", "length", 3)
    assert (one.reward, one.rewards, one.excluded, one.advantage) == (-1.0, {"math": -1.0}, False, -0.5)
    assert (one.admitted_version, one.version_min, one.version_max, one.lag) == (5, 5, 6, 3), "version 8 is trained"
    assert (one.forced_start, one.forced_end) == (1, 3)
    assert one.completion[one.forced_text_start : one.forced_text_end] == "Stop now.</think>"
    assert one.mean_logp == pytest.approx(-1.5)
    assert (other.sample, other.reward, other.rewards, other.excluded, other.advantage) == (1, None, {}, True, None)
    assert (other.lag, other.forced_start, other.forced_text_start) == (1, None, None)


def test_rows_of_an_evaluation():
    (row,) = eval_rows(prompt(4), [completion(versions=())], SOURCE, step=20, dataset="aime")
    assert (row.step, row.dataset, row.epoch, row.admitted_version, row.lag) == (20, "aime", 0, 20, 0)
    assert (row.num_tokens, row.mean_logp, row.version_min, row.version_max) == (0, None, 20, 20)


def test_share_keeps_whole_groups_and_the_same_ones_after_a_resume():
    groups = [Group(prompt(name), 1, 0, (completion(), completion())) for name in range(200)]
    source = RowSource(attempt=1, seed=17, phrase="", share=0.25)
    rows = step_rows(groups, [np.zeros(2)] * 200, source, step=7)
    ids = [row.prompt_id for row in rows]
    assert 25 <= len(set(ids)) <= 75
    assert all(ids.count(name) == 2 for name in set(ids))
    later = RowSource(attempt=2, seed=17, phrase="", share=0.25)
    assert choose_groups(groups[::-1], later) == sorted(199 - index for index in choose_groups(groups, source))


def test_a_small_step_keeps_one_group():
    groups = [Group(prompt(name), 0, 0, (completion(),)) for name in (1, 2)]
    assert len(choose_groups(groups, RowSource(attempt=1, seed=1, phrase="", share=1e-9))) == 1


@given(st.text(max_size=30))
def test_text_is_stored_as_it_is_without_lone_surrogates(text):
    stored = storable(text)
    stored.encode()  # valid
    if not any(0xD800 <= ord(letter) <= 0xDFFF for letter in text):
        assert stored == text


def test_lone_surrogates_are_replaced():
    assert storable("a\ud800b\udfffc\0") == "a\ufffdb\ufffdc\0"
    assert storable("\ud83d\ude00") == "😀", "a pair in two halves is one character"


@pytest.mark.parametrize(
    ("text", "place", "found"),
    [
        ("xSTOPy", 0.2, (1, 5)),
        ("STOP aaaaaaaaaaaa STOP", 0.9, (18, 22)),
        ("STOP aaaaaaaaaaaa STOP", 0.0, (0, 4)),
        ("STO", 0.0, None),
        ("", 0.0, None),
    ],
)
def test_forced_text_is_the_nearest_occurrence(text, place, found):
    assert find_forced_text(text, " STOP ", place) == found


def test_example_is_the_first_with_the_highest_reward():
    long = "z" * 1000
    groups = [
        Group(prompt(1), 0, 0, (completion("a", -1.0), completion("b", None))),
        Group(prompt(2, "p" * 1000), 0, 0, (completion(long, 1.0), completion("d", 1.0))),
    ]
    found = choose_example(groups, step=3)
    assert (found.step, found.reward, found.passed, found.graded, found.completions) == (3, 1.0, 2, 3, 4)
    assert (found.prompt, found.completion) == ("p" * EXAMPLE_CHARACTERS, "z" * EXAMPLE_CHARACTERS)
    ungraded = choose_example([Group(prompt(1), 0, 0, (completion("a\ud800", None),))], step=3)
    assert (ungraded.completion, ungraded.reward, ungraded.graded, ungraded.completions) == ("a\ufffd", None, 0, 1)
