import numpy as np
import pytest

from scalerl_runtime.algorithm.aggregation import token_weights

# Prompt 7 has completions of 1 and 3 trained tokens, prompt 2 one of 4 and one of 2.
TOKENS, GROUP = np.array([1, 4, 3, 2]), np.array([7, 2, 7, 2])


@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        pytest.param("promptMean", [1 / 8, 1 / 12, 1 / 8, 1 / 12], id="1 / (2 prompts * 4 or 6 tokens of the group)"),
        pytest.param("sampleMean", [1 / 4, 1 / 16, 1 / 12, 1 / 8], id="1 / (4 completions * its own tokens)"),
        pytest.param("tokenMean", [1 / 10] * 4, id="1 / 10 tokens"),
    ],
)
def test_weights_by_hand(kind, weights):
    assert token_weights(kind, TOKENS, GROUP) == pytest.approx(weights, abs=1e-15)
    assert token_weights(kind, TOKENS, GROUP).dtype == np.float64


def mean_by_loops(kind, losses, group):
    """The definition, on lists of token losses."""
    flat = [x for tokens in losses for x in tokens]
    if kind == "tokenMean":
        return sum(flat) / len(flat)
    if kind == "sampleMean":
        means = [sum(tokens) / len(tokens) for tokens in losses if tokens]
        return sum(means) / len(means)
    means = []
    for g in sorted(set(group)):
        of_group = [x for tokens, of in zip(losses, group, strict=True) if of == g for x in tokens]
        if of_group:
            means.append(sum(of_group) / len(of_group))
    return sum(means) / len(means)


@pytest.mark.parametrize("kind", ["promptMean", "sampleMean", "tokenMean"])
def test_weighted_sum_is_the_mean_as_defined(kind):
    rng = np.random.default_rng(3)
    losses = [rng.normal(size=n).tolist() for n in (5, 0, 2, 9, 1, 0, 3)]  # group 4 has no trained token at all
    group = [0, 0, 1, 1, 3, 4, 3]
    weights = token_weights(kind, np.array([len(x) for x in losses]), np.array(group))
    total = sum(w * x for w, tokens in zip(weights, losses, strict=True) for x in tokens)
    assert total == pytest.approx(mean_by_loops(kind, losses, group), rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "weights"),
    [
        pytest.param("promptMean", [1 / 2, 0, 0, 0], id="the prompt without a trained token is not counted in P"),
        pytest.param("sampleMean", [1 / 2, 0, 0, 0], id="completions without one are not counted in B"),
        pytest.param("tokenMean", [1 / 2, 0, 0, 0], id="they add no tokens"),
    ],
)
def test_completions_without_trained_tokens_enter_no_mean(kind, weights):
    assert token_weights(kind, np.array([2, 0, 0, 0]), np.array([0, 0, 1, 1])).tolist() == weights


@pytest.mark.parametrize("kind", ["promptMean", "sampleMean", "tokenMean"])
@pytest.mark.parametrize("size", [0, 3])
def test_nothing_trained_gives_zero_weights(kind, size):
    assert token_weights(kind, np.zeros(size, int), np.arange(size)).tolist() == [0.0] * size


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"shape \(2,\), group \(1,\)"):
        token_weights("tokenMean", np.array([1, 2]), np.array([0]))
    with pytest.raises(ValueError, match="trained_tokens has -1; need >= 0"):
        token_weights("tokenMean", np.array([1, -1]), np.array([0, 0]))
