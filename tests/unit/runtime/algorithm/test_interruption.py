from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerl_runtime.algorithm.interruption import (
    Interruption,
    ThinkingBudget,
    draw_budget,
    forced_mask,
    length_penalty,
)

PHRASE = [20, 21, 22, 30]  # three words and </think>


class Pieces:
    """A tokenizer of a few tokens, with several spellings of both tags."""

    PIECES: ClassVar[dict[int, str]] = {
        **{7: "t", 8: "a", 9: ">", 10: "<think>", 20: "time ", 21: "is ", 22: "up", 30: "</think>"},
        **{11: "<", 12: "think", 13: ">\n", 14: " <", 31: "</", 32: "think>", 33: "</th", 34: "ink", 35: "</think>5"},
    }

    def decode(self, token_ids, *, skip_special_tokens, clean_up_tokenization_spaces):
        assert (skip_special_tokens, clean_up_tokenization_spaces) == (False, False)
        return "".join(self.PIECES[token] for token in token_ids)

    def encode(self, text, *, add_special_tokens):
        assert (text, add_special_tokens) == ("time is up</think>", False)
        return PHRASE


INTERRUPTION = Interruption.build("<think>", "</think>", "time is up</think>", Pieces())


def forced(tokens, budget=5, before=0):
    """Positions that are masked, and the mismatches."""
    result = forced_mask(np.array(tokens, dtype=np.int32), INTERRUPTION, budget, before)
    assert result.mask.dtype == np.bool_
    assert result.mask.shape == (len(tokens),)
    return np.flatnonzero(result.mask).tolist(), result.mismatches


def generate(chosen, budget, think_tokens, limit):
    """Return the completion of an engine whose model chooses these tokens."""
    follow = ThinkingBudget(INTERRUPTION, budget, think_tokens)
    tokens, choices = [], iter(chosen)
    while len(tokens) < limit:
        token = follow.find_forced(tokens)
        tokens.append(next(choices) if token is None else token)
    return tokens


def test_budget_is_uniform_with_both_ends():
    rng = np.random.default_rng(0)
    draws = [draw_budget(rng, 3, 6) for _ in range(4000)]
    counts = [draws.count(value) for value in (3, 4, 5, 6)]
    assert sum(counts) == 4000
    assert all(abs(count - 1000) < 120 for count in counts)  # four standard deviations of 27
    assert draw_budget(rng, 5, 5) == 5
    first, again = (draw_budget(np.random.default_rng(1), 0, 10**9) for _ in range(2))
    assert first == again


@pytest.mark.parametrize(
    ("tokens", "budget", "before", "positions"),
    [
        pytest.param([7] * 5 + PHRASE + [8, 8], 5, 0, [5, 6, 7, 8], id="after five thinking tokens"),
        pytest.param([7] * 3 + PHRASE + [8, 8], 5, 2, [3, 4, 5, 6], id="two of them in the prompt"),
        pytest.param([*PHRASE, 8, 8], 0, 0, [0, 1, 2, 3], id="no budget at all"),
        pytest.param([*PHRASE, 8, 8], 2, 3, [0, 1, 2, 3], id="a prompt that is over the budget"),
        pytest.param([7, 7, 10] + [7] * 5 + PHRASE + [8], 5, None, [8, 9, 10, 11], id="the model opens the thinking"),
        pytest.param([7, 11, 12, 9, 7, *PHRASE, 8], 1, None, [5, 6, 7, 8], id="in three tokens"),
        pytest.param([14, 12, 13, 7, *PHRASE, 8], 1, None, [4, 5, 6, 7], id="merged with what is around the tag"),
        pytest.param([10, 7, 10, *PHRASE, 8], 2, None, [3, 4, 5, 6], id="a second opening tag is thinking"),
        pytest.param([7, 10, *PHRASE, 8], 2, 0, [2, 3, 4, 5], id="and so is one after the prompt's"),
        pytest.param([7, 7, 31, *PHRASE, 8], 3, 0, [3, 4, 5, 6], id="a tag that the model had begun"),
        pytest.param([7] * 4 + [20, *PHRASE, 8], 5, 0, [5, 6, 7, 8], id="the thinking ends like the phrase begins"),
        pytest.param([7] * 5 + [20, 21], 5, 0, [5, 6], id="cut at the limit inside the phrase"),
        pytest.param([7] * 5, 5, 0, [], id="cut before it"),
        pytest.param([7, 7, 8], 5, 0, [], id="ended before it, without a word"),
        pytest.param([], 5, 0, [], id="nothing generated"),
        pytest.param([], 0, 0, [], id="nothing generated, no budget"),
    ],
)
def test_forced_positions_by_hand(tokens, budget, before, positions):
    assert forced(tokens, budget, before) == (positions, 0)


@pytest.mark.parametrize(
    "tokens",
    [
        pytest.param([7, 7, 30, 8, 8, 8, 8, 8], id="closed at 2, the answer goes past the budget"),
        pytest.param([7, 7, 7, 7, 30, 8, 8], id="closed with the last free token"),
        pytest.param([7, 7, 7, 7, 35, 8, 8], id="closed by a token that holds a part of the answer"),
        pytest.param([7, 31, 12, 13, 8, 20, 8], id="a tag of three tokens; a word of the phrase in the answer"),
        pytest.param([7, 33, 34, 9, 8, 8, 8], id="the same text in other tokens"),
        pytest.param([*PHRASE, 8, 8, 8], id="the model wrote the phrase itself, before the budget"),
        pytest.param([7, 30, 10, 7, 7, 7, 7], id="thinking that is opened again has no budget"),
    ],
)
def test_a_natural_end_is_not_masked(tokens):
    assert forced(tokens) == ([], 0)


def test_no_thinking_no_phrase():
    assert forced([7] * 5 + PHRASE, before=None) == ([], 0)
    assert generate([7] * 20, 5, None, 20) == [7] * 20


@pytest.mark.parametrize(
    ("tokens", "positions"),
    [
        pytest.param([7] * 10, [5, 6, 7, 8, 9], id="the phrase is missing"),
        pytest.param([7] * 6 + PHRASE, [5, 6, 7, 8, 9], id="one place late"),
        pytest.param([7] * 5 + [20, 21, 8, 8], [5, 6, 7, 8], id="broken off"),
        pytest.param([7, 7, 7, 7, 31, 32, 8], [5, 6], id="a tag that straddles the place came too late"),
    ],
)
def test_after_a_mismatch_nothing_is_trained(tokens, positions):
    assert forced(tokens) == (positions, 1)


def test_the_phrase_goes_on_after_a_preemption():
    tokens = generate([7] * 5 + [8] * 9, 5, 0, 12)
    assert tokens == [7] * 5 + PHRASE + [8] * 3
    for cut in range(len(tokens)):
        fresh = ThinkingBudget(INTERRUPTION, 5, 0)  # an engine forgets a preempted request
        wanted = tokens[cut] if 5 <= cut < 9 else None
        assert fresh.find_forced(tokens[:cut]) == wanted


@given(
    chosen=st.lists(st.sampled_from([7, 8, 9, 10, 11, 12, 13, 20, 31, 32, 33, 34]), min_size=60, max_size=60),
    budget=st.integers(0, 12),
    think_tokens=st.none() | st.integers(0, 4),
    limit=st.integers(0, 40),
)
def test_the_mask_finds_what_the_engine_forced(chosen, budget, think_tokens, limit):
    tokens = generate(chosen, budget, think_tokens, limit)
    follow, real = ThinkingBudget(INTERRUPTION, budget, think_tokens), []
    for place, token in enumerate(tokens):
        wanted = follow.find_forced(tokens[:place])
        real += [place] * (wanted is not None)
        assert wanted in (None, token)
    assert forced(tokens, budget, think_tokens) == (real, 0)
    for place in range(len(tokens)):  # a preemption anywhere
        fresh = ThinkingBudget(INTERRUPTION, budget, think_tokens).find_forced(tokens[:place])
        assert (fresh is not None) == (place in real)


@pytest.mark.parametrize(
    ("reward", "length", "want"),
    [
        # limit 14, cache 2: no penalty to 12, all of it at 14
        pytest.param(1.0, 5, 1.0, id="short"),
        pytest.param(1.0, 12, 1.0, id="the last free length"),
        pytest.param(1.0, 13, 0.5, id="half way through the cache"),
        pytest.param(1.0, 14, 0.0, id="at the limit"),
        pytest.param(1.0, 20, 0.0, id="never more than 1"),
        pytest.param(-1.0, 14, -1.0, id="a wrong one does not pay"),
        pytest.param(0.0, 14, 0.0, id="nor one that does not pass"),
    ],
)
def test_length_penalty(reward, length, want):
    assert length_penalty(reward, length, limit=14, cache=2) == want


def test_length_penalty_keeps_a_failed_verifier():
    assert np.isnan(length_penalty(float("nan"), 14, limit=14, cache=2))
