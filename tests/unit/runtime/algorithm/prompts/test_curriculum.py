import json

import numpy as np
import pytest

from scalerl_runtime.algorithm.prompts.curriculum import (
    AllPromptsExcludedError,
    PromptStream,
    StreamPosition,
    epoch_order,
)

KINDS = ["uniform", "linear", "exponential", "staged"]
# Prompt i has the i-th entry of a fixed shuffle as its difficulty, so position and difficulty differ.
N = 400
DIFFICULTY = np.random.default_rng(99).permutation(N).astype(float)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, N])
def test_an_epoch_holds_every_prompt_once(kind, size):
    order = epoch_order(kind, DIFFICULTY[:size], seed=3, epoch=1)
    assert sorted(order.tolist()) == list(range(size))


@pytest.mark.parametrize("kind", KINDS)
def test_order_depends_on_seed_and_epoch_alone(kind):
    order = epoch_order(kind, DIFFICULTY, seed=3, epoch=1).tolist()
    assert epoch_order(kind, DIFFICULTY, seed=3, epoch=1).tolist() == order
    assert epoch_order(kind, DIFFICULTY, seed=3, epoch=2).tolist() != order
    assert epoch_order(kind, DIFFICULTY, seed=4, epoch=1).tolist() != order
    assert epoch_order(kind, DIFFICULTY, seed=1, epoch=3).tolist() != order


def means(kind, parts):
    """Mean difficulty of consecutive parts of the epoch, as a share of the hardest; averaged over 40 epochs."""
    orders = [epoch_order(kind, DIFFICULTY, seed=0, epoch=epoch) for epoch in range(40)]
    return np.mean([[part.mean() for part in np.array_split(DIFFICULTY[o], parts)] for o in orders], axis=0) / N


def test_uniform_order_ignores_difficulty():
    assert means("uniform", 4) == pytest.approx([0.5] * 4, abs=0.02)


@pytest.mark.parametrize("kind", ["linear", "exponential"])
def test_pacing_goes_from_easy_to_hard(kind):
    parts = means(kind, 4)
    assert parts[0] < parts[1] < 0.5 < parts[2]
    # what is left in the second half is drawn without regard to difficulty
    assert parts[2] == pytest.approx(parts[3], abs=0.02)


@pytest.mark.parametrize(
    ("kind", "first", "quarter"),
    [
        # Share of the prompts in play at the start and at a quarter of the epoch (half of the pace's time), by hand:
        # linear 1/4 and 1/4 + 3/4 * 1/2; exponential 1/4 and (1/4)^(1/2).
        pytest.param("linear", 1 / 4, 5 / 8, id="linear opens evenly"),
        pytest.param("exponential", 1 / 4, 1 / 2, id="exponential opens late"),
    ],
)
def test_no_prompt_is_harder_than_the_pool(kind, first, quarter):
    orders = [DIFFICULTY[epoch_order(kind, DIFFICULTY, seed=0, epoch=epoch)] for epoch in range(200)]
    at_start = max(order[0] for order in orders) / N
    at_quarter = max(order[N // 4] for order in orders) / N
    assert first - 0.03 < at_start <= first
    assert quarter - 0.03 < at_quarter <= quarter
    assert max(order[N // 2] for order in orders) / N > 0.95


def test_stages_are_thirds_shuffled_inside():
    order = DIFFICULTY[epoch_order("staged", DIFFICULTY[:9], seed=5, epoch=0)]
    by_difficulty = sorted(DIFFICULTY[:9])
    for stage in range(3):
        part = order[3 * stage : 3 * stage + 3].tolist()
        assert sorted(part) == by_difficulty[3 * stage : 3 * stage + 3]
    epochs = {tuple(epoch_order("staged", DIFFICULTY[:9], seed=5, epoch=e)[:3].tolist()) for e in range(30)}
    assert len(epochs) == 6


def test_equal_difficulty_is_shuffled():
    firsts = {int(epoch_order("staged", np.zeros(9), seed=0, epoch=epoch)[0]) for epoch in range(200)}
    assert firsts == set(range(9))


def test_difficulty_must_be_a_number():
    with pytest.raises(ValueError, match="not finite"):
        epoch_order("linear", np.array([1.0, np.nan]), seed=0, epoch=0)


def draw(stream, count, position=None, excluded=frozenset()):
    position = position or StreamPosition()
    issues = []
    for _ in range(count):
        issue, position = stream.draw(position, excluded)
        issues.append(issue)
    return issues, position


@pytest.mark.parametrize("kind", KINDS)
def test_stream_follows_the_epochs(kind):
    stream = PromptStream(kind, DIFFICULTY[:5], seed=2)
    issues, position = draw(stream, 12)
    want = [(int(p), e) for e in range(3) for p in epoch_order(kind, DIFFICULTY[:5], seed=2, epoch=e)]
    assert [(i.prompt, i.epoch) for i in issues] == want[:12]
    assert (position.epoch, position.place) == (2, 2)


def test_stream_resumes_from_a_stored_position():
    issues, _ = draw(PromptStream("linear", DIFFICULTY[:7], seed=2), 20)
    _, position = draw(PromptStream("linear", DIFFICULTY[:7], seed=2), 9)
    restored = StreamPosition.from_dict(json.loads(json.dumps(position.to_dict())))
    assert restored == position
    assert draw(PromptStream("linear", DIFFICULTY[:7], seed=2), 11, restored)[0] == issues[9:]


def test_excluded_prompts_are_skipped_and_the_others_keep_their_order():
    stream = PromptStream("uniform", DIFFICULTY[:6], seed=2)
    everything, _ = draw(stream, 18)
    issues, _ = draw(stream, 12, excluded={1, 4})
    assert issues == [issue for issue in everything if issue.prompt not in {1, 4}]


def test_exclusion_in_the_middle_of_an_epoch_repeats_nothing():
    stream = PromptStream("uniform", DIFFICULTY[:6], seed=2)
    first, position = draw(stream, 3)
    second, _ = draw(stream, 2, position, excluded={first[0].prompt})
    assert len({issue.prompt for issue in first + second}) == 5


def test_a_stored_position_continues_the_stream():
    stream = PromptStream("uniform", DIFFICULTY[:6], seed=2)
    everything, _ = draw(stream, 12)
    _, position = draw(stream, 8)
    restored = StreamPosition.from_dict(json.loads(json.dumps(position.to_dict())))
    assert restored == position == StreamPosition(epoch=1, place=2)
    assert draw(PromptStream("uniform", DIFFICULTY[:6], seed=2), 4, restored)[0] == everything[8:]


def test_everything_excluded_is_a_clear_error():
    stream = PromptStream("uniform", DIFFICULTY[:4], seed=2)
    with pytest.raises(AllPromptsExcludedError, match="all 4 prompts have left the run"):
        stream.draw(StreamPosition(), {0, 1, 2, 3})


@pytest.mark.parametrize("place", range(5))
def test_one_prompt_left_is_always_found(place):
    stream = PromptStream("uniform", DIFFICULTY[:4], seed=2)
    issues, _ = draw(stream, 3, StreamPosition(0, place), excluded={0, 1, 3})
    assert [issue.prompt for issue in issues] == [2, 2, 2]
    assert len({issue.epoch for issue in issues}) == 3


def test_a_stream_without_prompts_is_an_error():
    with pytest.raises(ValueError, match="0 prompts"):
        PromptStream("uniform", np.empty(0), seed=0)
    with pytest.raises(ValueError, match="need epoch, place"):
        StreamPosition.from_dict({"epoch": 1})
