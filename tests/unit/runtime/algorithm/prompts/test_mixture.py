import json
import random
from collections import Counter

import numpy as np
import pytest

from scalerl_runtime.algorithm.prompts.curriculum import AllPromptsExcludedError, PromptStream, StreamPosition
from scalerl_runtime.algorithm.prompts.mixture import Mixture, MixturePosition, WeightedStream, choose_source


def make_mixture(weights, sizes=None):
    sizes = sizes or dict.fromkeys(weights, 5)
    streams = {
        name: WeightedStream(PromptStream("uniform", np.zeros(sizes[name]), seed=index), weight)
        for index, (name, weight) in enumerate(weights.items())
    }
    return Mixture(streams)


def draw(mixture, count, position=None, excluded=None):
    position, found = position or MixturePosition(), []
    for _ in range(count):
        each, position = mixture.draw(position, excluded or {})
        found.append((each.source, each.drawn.epoch, each.drawn.prompt))
    return found, position


RANDOM = random.Random(7)
WEIGHTS = [
    (1.0,),
    (1.0, 1.0),
    (3.0, 1.0),
    (0.7, 0.2, 0.1),
    (1.0, 1.0, 1e-3),
    (5.0, 5.0, 1.0, 1.0, 1.0),
    (8.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    *(tuple(RANDOM.uniform(0.01, 1.0) for _ in range(size)) for size in (2, 3, 5, 8, 13, 20)),
    *(tuple(RANDOM.uniform(0.01, 1.0) ** 4 for _ in range(size)) for size in (3, 7, 20)),
]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_any_number_of_draws_is_within_one_of_each_share(weights):
    named = {f"s{index}": weight for index, weight in enumerate(weights)}
    whole, drawn = sum(weights), dict.fromkeys(named, 0)
    for total in range(1, 1500):
        drawn[choose_source(named, drawn)] += 1
        assert all(abs(drawn[name] - total * weight / whole) < 1.0 for name, weight in named.items()), total


def test_shares_worked_by_hand():
    drawn = draw(make_mixture({"math": 2.0, "code": 1.0}, {"math": 4, "code": 3}), 9)[0]
    assert Counter(source for source, _, _ in drawn) == {"math": 6, "code": 3}
    assert [source for source, _, _ in drawn[:3]].count("code") == 1


@pytest.mark.parametrize("weights", [{"a": 1.0, "b": 1.0}, {"a": 5.0, "b": 1.0, "c": 2.5}])
def test_no_prompt_twice_in_an_epoch_of_its_source(weights):
    drawn, _ = draw(make_mixture(weights), 80)
    assert len(set(drawn)) == len(drawn)
    for name in weights:
        epochs = Counter(epoch for source, epoch, _ in drawn if source == name)
        assert all(epochs[epoch] == 5 for epoch in range(max(epochs)))


@pytest.mark.parametrize("first", range(0, 40, 3))
def test_a_resumed_mixture_goes_on_as_it_would_have(first):
    weights = {"a": 5.0, "b": 1.0, "c": 2.5}
    gone = {"b": frozenset(range(5))}  # b leaves after the first draws
    begun, position = draw(make_mixture(weights), first)
    whole, _ = draw(make_mixture(weights), 30, position, gone)
    stored = MixturePosition.from_dict(json.loads(json.dumps(position.to_dict())))
    again, position = draw(make_mixture(weights), 11, stored, gone)
    position = MixturePosition.from_dict(json.loads(json.dumps(position.to_dict())))
    again += draw(make_mixture(weights), 19, position, gone)[0]
    assert again == whole
    assert not {"b"} & {source for source, _, _ in again}
    assert begun + whole == draw(make_mixture(weights), first)[0] + again


def test_the_others_share_what_a_source_leaves():
    weights = {"a": 2.0, "b": 1.0, "c": 7.0}
    mixture = make_mixture(weights, dict.fromkeys(weights, 50))
    _, position = draw(mixture, 20)
    drawn, position = draw(mixture, 30, position, {"c": frozenset(range(50))})
    assert Counter(source for source, _, _ in drawn) == {"a": 20, "b": 10}
    # A source that comes back, as one whose prompts only an engine refused, has its share again and no more.
    assert Counter(source for source, _, _ in draw(mixture, 20, position)[0]) == {"a": 4, "b": 2, "c": 14}


def test_only_a_mixture_without_a_prompt_is_exhausted():
    mixture = make_mixture({"a": 1.0, "b": 1.0}, {"a": 2, "b": 1})
    for place in range(2):
        left = {"a": frozenset({0, 1} - {place}), "b": frozenset({0})}
        assert {each[::2] for each in draw(mixture, 6, None, left)[0]} == {("a", place)}
    with pytest.raises(AllPromptsExcludedError, match="all 2 sources"):
        mixture.draw(MixturePosition(), {"a": frozenset({0, 1}), "b": frozenset({0})})


def test_a_checkpoint_of_one_source_goes_on_where_it_was():
    """Older checkpoints have the position of the one stream, whose source has no name."""
    stream, position = PromptStream("uniform", np.zeros(7), seed=0), StreamPosition()
    for _ in range(9):
        _, position = stream.draw(position)
    old = MixturePosition.from_dict(position.to_dict())
    mixture = make_mixture({"": 1.0}, {"": 7})
    expected = []
    for _ in range(10):
        drawn, position = stream.draw(position)
        expected.append(("", drawn.epoch, drawn.prompt))
    assert draw(mixture, 10, old)[0] == expected


@pytest.mark.parametrize("data", [{}, {"sources": {}}, {"sources": {"a": {"epoch": 1}}, "drawn": {}}, {"epoch": 1}])
def test_another_position_is_refused(data):
    with pytest.raises(ValueError, match="need epoch, place"):
        MixturePosition.from_dict(data)


def test_a_mixture_needs_a_source():
    with pytest.raises(ValueError, match="0 sources"):
        Mixture({})


def test_equal_weights_alternate():
    names = [source for source, _, _ in draw(make_mixture({"a": 1.0, "b": 1.0}), 10)[0]]
    assert all(set(pair) == {"a", "b"} for pair in zip(names[::2], names[1::2], strict=True))
