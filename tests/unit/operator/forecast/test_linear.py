"""The closed-form solve against sums done by hand."""

import numpy as np
import pytest

from scalerl_operator.forecast.linear import Target, normal_equations, solve, solve_each

ROWS = [
    ([0.0, 0.5, 1.0], [0.2, 0.4, 0.6], [1, 1, 1], (0.2, 0.6, 0.0), "points on the curve"),
    ([0.0, 0.5, 1.0], [0.2, 0.7, 0.6], [1, 0, 1], (0.2, 0.6, 0.0), "weight 0 leaves a point out"),
    # normal equations 2 low + ceiling... of three points at g = 0, 0, 1: low is the weighted mean (.1 + 3*.3)/4
    ([0.0, 0.0, 1.0], [0.1, 0.3, 0.6], [1, 3, 1], (0.25, 0.6, 0.03), "weights move the mean; chi2 .0225 + 3*.0025"),
    # the free ceiling is 1.2; with 1: minimise (.2-l)^2 + (.2-l/2)^2, so 1.25 l = .3
    ([0.0, 0.5], [0.2, 0.7], [1, 1], (0.24, 1.0, 0.008), "no ceiling above 1"),
    # the free low is -.6; with 0: ceiling = (.5*.1 + .8) / 1.25
    ([0.5, 1.0], [0.1, 0.8], [1, 1], (0.0, 0.68, 0.072), "no start below 0"),
    ([0.0, 1.0], [0.6, 0.2], [1, 1], (0.4, 0.4, 0.08), "a fall is fitted by its mean"),
    ([0.0, 1.0], [0.6, 0.2], [1, 3], (0.3, 0.3, 0.12), "by its weighted mean: .09 + 3*.01"),
    ([0.5, 0.5], [0.3, 0.5], [1, 1], (None, None, 0.02), "two equal columns: one of many best curves"),
    ([0.0, 0.0], [0.3, 0.5], [1, 1], (0.4, None, 0.02), "a ceiling that no point has reached"),
]


def _plain(y, weights):
    """The points as they are."""
    return Target(np.ones(len(y)), np.array(y, dtype=float), np.array(weights, dtype=float).reshape(len(y), -1))


@pytest.mark.parametrize(
    ("gain", "y", "weights", "expected"), [row[:-1] for row in ROWS], ids=[row[-1] for row in ROWS]
)
def test_solve_by_hand(gain, y, weights, expected):
    found = solve(np.array([gain]), _plain(y, weights))
    for value, wanted in zip((found.low, found.ceiling, found.chi2), expected, strict=True):
        if wanted is not None:
            assert value[0, 0] == pytest.approx(wanted, abs=1e-9)
    assert 0.0 <= found.low[0, 0] <= found.ceiling[0, 0] + 1e-12 <= 1.0 + 1e-9


def test_a_known_start_is_kept():
    # low = .3: y less low (1 - g) is .35 and .6, so that the ceiling minimises (.35 - .5 c)^2 + (.6 - c)^2
    target = Target(np.ones(2), np.array([0.5, 0.6]), np.ones((2, 1)), low=0.3)
    found = solve(np.array([[0.5, 1.0]]), target)
    assert found.low[0, 0] == pytest.approx(0.3, abs=1e-6)
    assert found.ceiling[0, 0] == pytest.approx((0.35 * 0.5 + 0.6) / 1.25, abs=1e-6)


def test_blocks_of_curves_keep_their_order():
    blocks = [np.array([[0.0, 0.5, 1.0]]), np.array([[0.0, 0.2, 1.0], [0.1, 0.4, 1.0]]), np.array([[0.5, 0.5, 1.0]])]
    target = _plain([0.2, 0.4, 0.6], [1, 2, 1])
    found = solve_each(blocks, target)
    assert [len(each.chi2) for each in found] == [1, 2, 1]
    for block, each in zip(blocks, found, strict=True):
        alone = solve(block, target)
        assert each.chi2 == pytest.approx(alone.chi2)
        assert (each.low, each.ceiling) == (pytest.approx(alone.low), pytest.approx(alone.ceiling))


def test_curves_and_weightings_do_not_mix():
    gain = np.array([[0.0, 0.5, 1.0], [0.0, 0.0, 1.0]])
    weights = np.array([[1.0, 1.0], [1.0, 3.0], [1.0, 1.0]])
    y = np.array([0.1, 0.3, 0.6])
    both = solve(gain, _plain(y, weights))
    for row in range(2):
        for column in range(2):
            alone = solve(gain[row : row + 1], _plain(y, weights[:, column]))
            for name in ("low", "ceiling", "chi2"):
                assert getattr(both, name)[row, column] == pytest.approx(getattr(alone, name)[0, 0], abs=1e-12)


def test_no_allowed_pair_on_a_fine_grid_is_better():
    rng = np.random.default_rng(5)
    low, ceiling = np.meshgrid(np.linspace(0, 1, 201), np.linspace(0, 1, 201), indexing="ij")
    allowed = low <= ceiling
    for _ in range(40):
        gain, y, weight = rng.random(5), rng.random(5), rng.random(5) + 0.1
        curve = low[..., None] * (1 - gain) + ceiling[..., None] * gain
        least = ((curve - y) ** 2 * weight).sum(axis=-1)[allowed].min()
        assert solve(gain[None, :], _plain(y, weight)).chi2[0, 0] <= least + 1e-12


def test_sums_in_turned_coordinates_are_those_of_the_full_matrix():
    """Against plain matrix products with the inverse covariance of errors that are independent after a rotation."""
    gain, y = np.array([[0.0, 0.5, 1.0], [0.1, 0.2, 0.9]]), np.array([0.1, 0.3, 0.6])
    turn = np.linalg.qr(np.array([[1.0, 2.0, 0.5], [0.3, 1.0, 4.0], [2.0, 0.1, 1.0]]))[0]
    weights = np.array([2.0, 3.0, 0.5])
    full = turn.T @ np.diag(weights) @ turn
    eq = normal_equations(gain @ turn.T, Target(turn @ np.ones(3), turn @ y, weights[:, None]))
    for row, g in enumerate(gain):
        sums = ((1 - g) @ full @ (1 - g), g @ full @ g, g @ full @ (1 - g), (1 - g) @ full @ y, g @ full @ y)
        assert [each[row, 0] for each in (eq.a, eq.b, eq.c, eq.p, eq.q)] == pytest.approx(sums)
    assert eq.yy == pytest.approx([y @ full @ y])


def test_correlated_neighbours_move_an_average_less():
    """Two alike points and one alone: with correlation 1/2 the mean of (0, 0, .6) weighs them 2/3 each against 1."""
    # K = [[1, .5, 0], [.5, 1, 0], [0, 0, 1]]; K^-1 1 = (2/3, 2/3, 1): .6 / (2/3 + 2/3 + 1) = .2571
    # Its eigenvectors are the sum and the difference of the two alike points, of variance 3/2 and 1/2.
    turn = np.array([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, np.sqrt(2.0)]]) / np.sqrt(2.0)
    target = Target(turn @ np.ones(3), turn @ np.array([0.0, 0.0, 0.6]), np.array([[2 / 3], [2.0], [1.0]]))
    assert solve(np.zeros((1, 3)), target).low[0, 0] == pytest.approx(0.6 / (7 / 3))
