from dataclasses import replace

import numpy as np
import pytest

from scalerl_runtime.algorithm.microbatch import OWN_CHOICE, TrainSequence, build_micro_batch


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
