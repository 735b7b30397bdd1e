import numpy as np
import pytest

from scalerl_runtime.algorithm.microbatch import TrainSequence, build_micro_batch


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
