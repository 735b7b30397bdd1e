import numpy as np
import pytest

from scalerl_runtime.algorithm.interruption import count_think_tokens, draw_budget, forced_mask, length_penalty

PHRASE, END, OPEN = [20, 21, 22, 30], [30], [10]  # three words and </think>; </think>; <think>
THINK, ANSWER = 7, 8


def forced(tokens, budget=5, before=0, phrase=PHRASE, end=END):
    """Positions that are masked, and the mismatches."""
    result = forced_mask(np.array(tokens, dtype=np.int32), phrase, end, budget, before)
    assert result.mask.dtype == np.bool_
    assert result.mask.shape == (len(tokens),)
    return np.flatnonzero(result.mask).tolist(), result.mismatches


def test_budget_is_uniform_with_both_ends():
    rng = np.random.default_rng(0)
    draws = [draw_budget(rng, 3, 6) for _ in range(4000)]
    counts = [draws.count(value) for value in (3, 4, 5, 6)]
    assert sum(counts) == 4000
    assert all(abs(count - 1000) < 120 for count in counts)  # four standard deviations of 27
    assert draw_budget(rng, 5, 5) == 5
    first, again = (draw_budget(np.random.default_rng(1), 0, 10**9) for _ in range(2))
    assert first == again


# The token lists are what vLLM 0.32's own budget state produced for these cases, with the phrase's positions that it
# forced (its class was driven by hand: budget 5, phrase 20 21 22 30).
@pytest.mark.parametrize(
    ("tokens", "budget", "before", "positions"),
    [
        pytest.param([7] * 5 + PHRASE + [8, 8], 5, 0, [5, 6, 7, 8], id="after five thinking tokens"),
        pytest.param([7] * 3 + PHRASE + [8, 8], 5, 2, [3, 4, 5, 6], id="two of them in the prompt"),
        pytest.param([*PHRASE, 8, 8], 0, 0, [0, 1, 2, 3], id="no budget at all"),
        pytest.param([*PHRASE, 8, 8], 2, 3, [0, 1, 2, 3], id="a prompt that is over the budget"),
        pytest.param([7, 7, 10] + [7] * 5 + PHRASE + [8], 5, -3, [8, 9, 10, 11], id="the model opens the thinking"),
        pytest.param([7] * 4 + [20, *PHRASE, 8], 5, 0, [5, 6, 7, 8], id="the thinking ends like the phrase begins"),
        pytest.param([7] * 5 + [20, 21], 5, 0, [5, 6], id="cut at the limit inside the phrase"),
        pytest.param([7] * 5, 5, 0, [], id="cut before it"),
        pytest.param([7, 7, 8], 5, 0, [], id="ended before it, without a word"),
        pytest.param([], 5, 0, [], id="nothing generated"),
        pytest.param([], 0, 0, [], id="nothing generated, no budget"),
        # vLLM's second model runner goes on with a phrase that the model began: only the rest is forced.
        pytest.param([7] * 3 + [20, 21, 22, 30, 8], 5, 0, [5, 6], id="the model wrote the first two words itself"),
        pytest.param([7] * 3 + [20, 21, 22], 5, 0, [5], id="the same, cut at the limit"),
        pytest.param([7] * 4 + [*PHRASE, 8], 5, 0, [5, 6, 7], id="the model wrote the first word itself"),
    ],
)
def test_forced_positions_by_hand(tokens, budget, before, positions):
    assert forced(tokens, budget, before) == (positions, 0)


@pytest.mark.parametrize(
    ("broken", "forced_tokens"),
    [
        pytest.param([20, 21], 6, id="one preemption after two tokens: the phrase is forced at 7 instead of 5"),
        pytest.param([20, 21, 20], 7, id="two preemptions"),
        pytest.param([20, 21, 22], 7, id="just before its end"),
        pytest.param([20, 20, 20], 7, id="three after one token each"),
    ],
)
def test_forced_tokens_masked_even_if_preempted(broken, forced_tokens):
    tokens = [7] * 5 + broken + PHRASE + [8, 8]
    assert forced(tokens) == (list(range(5, 5 + forced_tokens)), 0)
    # the same, cut at the limit inside the second attempt
    assert forced([7] * 5 + broken + PHRASE[:2]) == (list(range(5, 5 + len(broken) + 2)), 0)


def test_preemption_of_a_phrase_that_repeats_itself():
    # phrase a a b, broken after its first a: a a a b. The longest match at the start would end in a dead end.
    assert forced([7, 7, 1, 1, 1, 2, 8], 2, 0, phrase=[1, 1, 2], end=[2]) == ([2, 3, 4, 5], 0)


@pytest.mark.parametrize(
    ("tokens", "end"),
    [
        pytest.param([7, 7, 30, 8, 8, 8, 8, 8], END, id="closed at 2, the answer goes past the budget"),
        pytest.param([7, 7, 7, 7, 30, 8, 8], END, id="closed with the last free token"),
        pytest.param(
            [7, 7, 31, 32, 8, 20, 8], [31, 32], id="a marker of two tokens; a word of the phrase in the answer"
        ),
        pytest.param([*PHRASE, 8, 8, 8], END, id="the model wrote the phrase itself, before the budget"),
    ],
)
def test_a_natural_end_is_not_masked(tokens, end):
    assert forced(tokens, end=end) == ([], 0)


def test_no_thinking_no_phrase():
    assert forced([7] * 5 + PHRASE, before=None) == ([], 0)


@pytest.mark.parametrize(
    ("tokens", "want"),
    [
        pytest.param([7] * 10, ([], 1), id="the phrase is missing"),
        pytest.param([7] * 6 + PHRASE, ([], 1), id="one place late"),
        pytest.param([7] * 5 + [20, 21, 8, 8], ([5, 6], 1), id="broken off: what matches is masked, to be safe"),
        pytest.param(
            [7, 30, 8, 8, 8] + PHRASE + [8], ([5, 6, 7, 8], 1), id="forced into the answer of closed thinking"
        ),
        pytest.param([7, 7, 7, 7, 31, 32, 8], ([], 1), id="a marker that straddles the place came too late"),
    ],
)
def test_mismatches_are_counted(tokens, want):
    end = [31, 32] if 31 in tokens else END
    assert forced(tokens, end=end) == want


@pytest.mark.parametrize(
    ("prompt", "completion", "want"),
    [
        pytest.param([1, 2, 10], [7, 7], 0, id="the prompt ends in the marker"),
        pytest.param([1, 2, 10, 5, 5], [7], 2, id="two thinking tokens follow it"),
        pytest.param([10, 5, 10, 5], [7], 1, id="the last marker counts"),
        pytest.param([1, 2], [10, 7], -1, id="the model opens at once"),
        pytest.param([1, 2], [7, 7, 10, 7, 10], -3, id="the model opens later; its first marker counts"),
        pytest.param([1, 2], [7, 7], None, id="nobody does"),
        pytest.param([], [], None, id="nothing there"),
    ],
)
def test_count_think_tokens(prompt, completion, want):
    assert count_think_tokens(prompt, completion, OPEN) == want
    doubled = [10, 11]
    assert count_think_tokens([1, 10, 2], [3, 10, 11, 4], doubled) == -3  # a marker of two tokens


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
