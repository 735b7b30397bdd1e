import dataclasses
import pickle
from dataclasses import replace

import numpy as np
import pytest

from scalerl_runtime.algorithm.microbatch import OWN_CHOICE, PACKED_TOKEN_BYTES, TrainSequence, build_micro_batch


def sequence(tokens, trained, advantage, weight, lag):
    return TrainSequence(
        tokens=np.array(tokens, np.int32),
        trained=np.array(trained, np.bool_),
        logp_gen=-np.array(tokens, np.float32) / 8,
        advantage=advantage,
        weight=weight,
        lag=np.array(lag, np.int32),
    )


def test_row_by_hand():
    """Two sequences end to end; the second has a token in its middle that is not trained."""
    first = sequence([10, 11, 12], [0, 0, 1], 0.5, 0.25, [0, 0, 3])
    second = sequence([20, 21, 22, 23], [0, 1, 0, 1], -1.0, 0.125, [0, 2, 9, 1])
    row = build_micro_batch([first, second])
    assert row.tokens.tolist() == [10, 11, 12, 20, 21, 22, 23]
    assert row.positions.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert row.cu_seqlens.tolist() == [0, 3, 7]
    assert row.select.tolist() == [1, 3, 5], "the place before each target predicts it"
    assert row.targets.tolist() == [12, 21, 23]
    assert row.logp_gen.tolist() == [-1.5, -2.625, -2.875]
    assert row.advantage.tolist() == [0.5, -1.0, -1.0]
    assert row.weight.tolist() == [0.25, 0.125, 0.125]
    assert row.completion.tolist() == [0, 1, 1]
    assert row.lag.tolist() == [3, 2, 1]


def test_experts_are_those_of_each_sequence_and_none_at_its_end():
    """No token is predicted from a sequence's last one; the middle sequence has none recorded."""
    parts = [sequence([10, 11, 12], [0, 0, 1], 0.5, 0.25, [0, 0, 3]) for _ in range(3)]
    recorded = np.array([[[250, 1]], [[3, 4]]], dtype=np.uint8)
    row = build_micro_batch([replace(parts[0], experts=recorded), parts[1], replace(parts[2], experts=recorded + 1)])
    none = [OWN_CHOICE, OWN_CHOICE]
    assert row.experts[:, 0].tolist() == [[250, 1], [3, 4], none, none, none, none, [251, 2], [4, 5], none]
    assert build_micro_batch(parts).experts is None
    assert build_micro_batch([]).experts is None


def test_empty_row_is_two_tokens_of_no_weight():
    row = build_micro_batch([])
    assert row.cu_seqlens.tolist() == [0, 2]
    assert (row.select.tolist(), row.weight.tolist(), row.advantage.tolist()) == ([0], [0.0], [0.0])


@pytest.mark.parametrize(
    ("tokens", "trained", "rule"),
    [([1, 2], [1, 1], "nothing predicts the first token"), ([], [], "no token at all")],
)
def test_impossible_sequence_is_refused(tokens, trained, rule):
    lag = [0] * len(tokens)
    with pytest.raises(ValueError, match=f"a sequence of {len(tokens)} tokens cannot train its first token"):
        assert sequence(tokens, trained, 1.0, 1.0, lag) is None, rule


def drawn(rng, *, trained, experts=False):
    """A sequence of random numbers; `trained`: the share of its tokens that are targets."""
    length = int(rng.integers(2, 60))
    flags = rng.random(length) < trained
    flags[0] = False
    return TrainSequence(
        tokens=rng.integers(0, 200_000, length).astype(np.int32),
        trained=flags,
        logp_gen=-rng.random(length).astype(np.float32),
        advantage=float(rng.standard_normal()),
        weight=float(rng.random()) + 1e-9,
        lag=rng.integers(0, 65, length).astype(np.int32),
        experts=rng.integers(0, 128, (length - 1, 3, 2)).astype(np.uint8) if experts else None,
    )


ROWS = [
    pytest.param([1.0], False, id="one sequence"),
    pytest.param([0.5] * 7, False, id="tokens that were forced"),
    pytest.param([0.9, 0.0, 0.9, 0.0], False, id="sequences without a target, also the last"),
    pytest.param([0.8] * 3, True, id="experts"),
    pytest.param([], False, id="a stand-in"),
]


@pytest.mark.parametrize(("shares", "experts"), ROWS)
@pytest.mark.parametrize("seed", range(5))
def test_a_row_arrives_as_it_was_sent(shares, experts, seed):
    rng = np.random.default_rng(seed)
    row = build_micro_batch([drawn(rng, trained=share, experts=experts) for share in shares])
    arrived = pickle.loads(pickle.dumps(row, protocol=5))
    for field in dataclasses.fields(row):
        sent, found = getattr(row, field.name), getattr(arrived, field.name)
        if sent is None:
            assert found is None
        else:
            assert found.dtype == sent.dtype, field.name
            assert found.tobytes() == sent.tobytes(), field.name


def test_a_row_travels_in_as_many_bytes_as_the_object_store_counts_on():
    rng = np.random.default_rng(0)
    row = build_micro_batch([replace(drawn(rng, trained=1.0)) for _ in range(2000)])
    sent = len(pickle.dumps(row, protocol=5)) - 20 * 2000  # of each sequence: its end, advantage and weight, 16 bytes
    assert 0.9 * PACKED_TOKEN_BYTES < sent / len(row.tokens) <= PACKED_TOKEN_BYTES


def test_only_a_stand_in_is_one():
    assert build_micro_batch([]).is_stand_in
    assert not build_micro_batch([sequence([1, 2], [0, 1], 0.0, 0.25, [0, 0])]).is_stand_in, "an advantage of 0"
