import math
from dataclasses import replace

import numpy as np
import pytest

from scalerl_api.recipe import Length, Recipe
from scalerl_runtime.algorithm.batch import build_batch, leave_out_unsound
from scalerl_runtime.types import Completion, Group, Prompt

VERSION = 9


def completion(size, reward, *, forced=(), versions=None, finish="stop", logps=None):
    """A completion of `size` tokens; token t is 100 + t with log-probability -(t + 1)."""
    flags = np.zeros(size, bool)
    flags[list(forced)] = True
    return Completion(
        tokens=np.arange(100, 100 + size, dtype=np.int32),
        logps=np.array(logps if logps is not None else [-(t + 1.0) for t in range(size)], dtype=np.float32),
        versions=np.array(versions if versions is not None else [VERSION] * size, dtype=np.int32),
        forced=flags,
        finish=finish,
        text="",
        reward=reward,
    )


def group(prompt, *completions, admitted_version=5):
    tokens = np.array([prompt, prompt + 1], dtype=np.int32)
    return Group(Prompt(prompt, "", tokens, ""), 0, admitted_version, completions)


def test_experts_reach_the_sequence_and_their_number_is_checked():
    experts = np.zeros((4, 2, 8), dtype=np.uint8)  # two tokens of the prompt, and the completion's but the last
    both = group(10, replace(completion(3, 1.0), experts=experts), completion(3, -1.0))
    batch = build_batch([both], Recipe(), version=VERSION)
    assert batch.sequences[0].experts is experts
    assert batch.sequences[1].experts is None
    wrong = group(10, replace(completion(3, 1.0), experts=experts[1:]), completion(3, -1.0))
    with pytest.raises(ValueError, match="a completion of prompt 10 has experts of 3 tokens; need those of 4"):
        build_batch([wrong], Recipe(), version=VERSION)


# Group 0: rewards 1, -1; 3 and 5 tokens, of which 4 and 5 are forced in the second -> 3 + 3 trained.
# Group 1: all correct. Group 2: rewards 1, -1, -1 and one failed verifier; 2, 1, 1 trained and 4 that are not.
GROUPS = [
    group(10, completion(3, 1.0, versions=[7, 8, 9]), completion(5, -1.0, forced=(3, 4), finish="length")),
    group(11, completion(2, 1.0), completion(2, 1.0)),
    group(12, completion(2, 1.0, versions=[6, 6]), completion(1, -1.0), completion(1, -1.0), completion(4, None)),
]


def group_of(sequence):
    """Position in GROUPS, from the prompt's first token."""
    return int(sequence.tokens[0]) - 10


def rows(batch):
    return [(group_of(s), len(s.tokens) - 2, s.advantage, s.weight) for s in batch.sequences]


def test_scalerl_by_hand():
    batch = build_batch(GROUPS, Recipe(prompts_per_step=3), version=VERSION)
    # Group 1 leaves. Advantages: 1, -1; and 1 + 1/3 = 4/3, -2/3, -2/3. Their squares: 2 + 16/9 + 8/9 = 14/3, over 5.
    std = math.sqrt(14 / 15)
    # promptMean over P = 2 prompts with 6 and 4 trained tokens.
    assert rows(batch) == [
        (0, 3, pytest.approx(1 / std), pytest.approx(1 / 12)),
        (0, 5, pytest.approx(-1 / std), pytest.approx(1 / 12)),
        (2, 2, pytest.approx(4 / 3 / std), pytest.approx(1 / 8)),
        (2, 1, pytest.approx(-2 / 3 / std), pytest.approx(1 / 8)),
        (2, 1, pytest.approx(-2 / 3 / std), pytest.approx(1 / 8)),
    ]
    assert batch.decision.dropped == (1,)
    assert batch.decision.optimizer_step


def test_sequence_is_the_prompt_and_its_completion():
    first, second = build_batch(GROUPS, Recipe(prompts_per_step=3), version=VERSION).sequences[:2]
    assert first.tokens.tolist() == [10, 11, 100, 101, 102]
    assert first.trained.tolist() == [False, False, True, True, True]
    assert first.logp_gen.tolist() == [0, 0, -1, -2, -3]
    assert first.lag.tolist() == [0, 0, 2, 1, 0]
    # Truncated, but only the forced tokens are out.
    assert second.trained.tolist() == [False, False, True, True, True, False, False]


def test_sequence_trains_the_completion_without_its_forced_tokens():
    one = completion(3, 1.0, forced=(1,), versions=[5, 5, 7])
    recipe = Recipe(prompts_per_step=1, advantage="none")
    found = build_batch([group(1, one, completion(1, -1.0))], recipe, version=VERSION).sequences[0]
    assert found.tokens.tolist() == [1, 2, 100, 101, 102]
    assert found.trained.tolist() == [False, False, True, False, True]
    assert found.logp_gen.tolist() == [0.0, 0.0, -1.0, -2.0, -3.0]
    assert found.lag.tolist() == [0, 0, 4, 4, 2]
    assert (found.advantage, found.weight) == (1.0, pytest.approx(1 / 3))  # 3 trained tokens, one prompt
    assert (found.tokens.dtype, found.trained.dtype) == (np.int32, np.bool_)
    assert (found.logp_gen.dtype, found.lag.dtype) == (np.float32, np.int32)


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        pytest.param(
            {"zero_variance": "keep", "advantage": "none"},
            [(0, 1, 1 / 18), (0, -1, 1 / 18), (1, 0, 1 / 12), (1, 0, 1 / 12)]
            + [(2, 4 / 3, 1 / 12), (2, -2 / 3, 1 / 12), (2, -2 / 3, 1 / 12)],
            id="keep: P is 3, and the equal group has advantage 0",
        ),
        pytest.param(
            {"aggregation": "sampleMean", "advantage": "groupStd"},
            [(0, 1, 1 / 15), (0, -1, 1 / 15)] + [(2, 2**0.5, 1 / 10), (2, -(0.5**0.5), 1 / 5), (2, -(0.5**0.5), 1 / 5)],
            id="sampleMean over the 5 graded completions that remain; group deviations 1 and sqrt(8/9)",
        ),
        pytest.param(
            {"aggregation": "tokenMean", "advantage": "none", "zero_variance": "refill"},
            [(0, 1, 0.1), (0, -1, 0.1), (2, 4 / 3, 0.1), (2, -2 / 3, 0.1), (2, -2 / 3, 0.1)],
            id="tokenMean over the 10 trained tokens that remain; refill leaves out what drop does",
        ),
    ],
)
def test_other_arms_by_hand(changes, want):
    batch = build_batch(GROUPS, Recipe(prompts_per_step=3, **changes), version=VERSION)
    got = [(group_of(s), s.advantage, s.weight) for s in batch.sequences]
    assert got == [(g, pytest.approx(a), pytest.approx(w)) for g, a, w in want]


def test_length_penalty_arm():
    # Limit 6, cache 4: free to 2 tokens. Two correct completions of 2 and 4 tokens: rewards 1 and 1/2.
    length = Length(control="penalty", think_tokens=4, answer_tokens=2, penalty_cache=4)
    equal = group(1, completion(2, 1.0), completion(4, 1.0))
    batch = build_batch([equal], Recipe(length=length, advantage="none"), version=VERSION)
    assert [s.advantage for s in batch.sequences] == [0.25, -0.25]
    assert batch.stats.reward_mean == 1.0  # as verified
    assert build_batch([equal], Recipe(advantage="none"), version=VERSION).sequences == ()


def test_weights_of_a_batch_add_up_to_one():
    batch = build_batch(GROUPS, Recipe(prompts_per_step=3), version=VERSION)
    assert sum(s.weight * s.trained.sum() for s in batch.sequences) == pytest.approx(1.0)


def test_stats_by_hand():
    stats = build_batch(GROUPS, Recipe(prompts_per_step=3), version=VERSION).stats
    assert stats.groups == 3
    assert stats.completions == 8
    assert stats.trained_tokens == 10
    assert stats.reward_mean == pytest.approx((1 - 1 + 1 + 1 + 1 - 1 - 1) / 7)
    assert stats.zero_variance_share == pytest.approx(1 / 3)
    assert stats.truncation_share == pytest.approx(1 / 8)
    assert stats.forced_tokens == 2
    assert stats.excluded == 1
    assert stats.completion_tokens_mean == pytest.approx(20 / 8)
    # 20 tokens: lags 2, 1, 0 in the first, 3 and 3 in one of group 2, 0 elsewhere
    assert stats.lag_tokens == (16, 1, 1, 2)
    assert stats.lag_mean == pytest.approx((2 + 1 + 3 + 3) / 20)
    assert stats.lag_max == 3


def test_infra_failure_not_negative_reward():
    """A completion whose verifier failed is treated as if it had not been sampled."""
    graded = [completion(2, 1.0), completion(3, -1.0), completion(4, -1.0)]
    recipe = Recipe(prompts_per_step=1)
    with_failure = build_batch([group(1, *graded, completion(7, None))], recipe, version=VERSION)
    without = build_batch([group(1, *graded)], recipe, version=VERSION)
    assert rows(with_failure) == rows(without)
    assert with_failure.stats.excluded == 1
    assert with_failure.stats.reward_mean == without.stats.reward_mean


@pytest.mark.parametrize(
    "groups",
    [
        pytest.param([], id="no group"),
        pytest.param([GROUPS[1]], id="only equal rewards"),
        pytest.param([group(1, completion(2, None), completion(2, None))], id="no verifier answered"),
        pytest.param([group(1, completion(0, 1.0), completion(0, -1.0))], id="no token"),
        pytest.param([group(1, completion(1, 1.0, forced=[0]), completion(0, -1.0))], id="only forced tokens"),
    ],
)
def test_nothing_to_train_on(groups):
    batch = build_batch(groups, Recipe(prompts_per_step=1), version=VERSION)
    assert batch.sequences == ()
    assert batch.stats.trained_tokens == 0
    assert batch.stats.groups == len(groups)


def test_without_a_graded_completion_the_mean_reward_is_none():
    batch = build_batch([group(1, completion(2, None), completion(2, None))], Recipe(), version=VERSION)
    assert batch.stats.reward_mean is None


def test_forced_tokens_may_hold_anything():
    bad = completion(3, 1.0, forced=[1], logps=[-1.0, -math.inf, -1.0])
    batch = build_batch([group(1, bad, completion(2, -1.0))], Recipe(), version=VERSION)
    assert batch.sequences[0].trained.tolist() == [False, False, True, False, True]


def test_a_completion_that_is_not_sound_costs_itself_only():
    bad, good = completion(2, 1.0, logps=[-1.0, math.nan]), [completion(2, 1.0), completion(3, -1.0)]
    kept = leave_out_unsound([bad, *good])
    batch = build_batch([group(4, *kept)], Recipe(), version=VERSION)
    assert [len(each.tokens) for each in batch.sequences] == [len(s.tokens) for s in _sequences_of(good)]
    assert batch.stats.excluded == 1
    assert all(np.isfinite(each.logp_gen).all() for each in batch.sequences)
    forced = completion(3, 1.0, forced=[1], logps=[-1.0, -math.inf, -1.0])
    assert leave_out_unsound([forced])[0] is forced


def test_a_prompt_without_a_sound_completion_ends_the_run():
    """The engine or its weights are broken; to train on nothing for ever would hide it."""
    bad = [completion(2, reward, logps=[math.nan, -1.0]) for reward in (1.0, -1.0)]
    with pytest.raises(ValueError, match="not finite"):
        build_batch([group(4, *leave_out_unsound(bad))], Recipe(), version=VERSION)


def _sequences_of(completions):
    return build_batch([group(4, *completions)], Recipe(), version=VERSION).sequences


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (completion(2, 1.0, logps=[-1.0]), "prompt 4 has 1 logps for 2 tokens"),
        (completion(2, 1.0, versions=[9]), "prompt 4 has 1 versions for 2 tokens"),
        (completion(2, 1.0, logps=[-1.0, math.nan]), "not finite"),
        (completion(2, 1.0, versions=[9, 10]), r"versions 9\.\.10; need 5\.\.9"),
        (completion(2, 1.0, versions=[4, 9]), r"versions 4\.\.9; need 5\.\.9"),
    ],
)
def test_impossible_completions_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        build_batch([group(4, completion(1, -1.0), bad)], Recipe(), version=VERSION)


def test_advantage_of_each_completion_is_kept_for_the_records():
    std = math.sqrt(14 / 15)  # as in test_scalerl_by_hand
    one, filtered, with_failure = build_batch(GROUPS, Recipe(prompts_per_step=3), version=VERSION).advantages
    assert one == pytest.approx([1 / std, -1 / std])
    assert np.isnan(filtered).tolist() == [True, True]
    assert with_failure == pytest.approx([4 / 3 / std, -2 / 3 / std, -2 / 3 / std, math.nan], nan_ok=True)
