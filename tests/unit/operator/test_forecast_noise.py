"""The noise model."""

import math

import numpy as np
import pytest

from scalerl_operator.forecast import points
from scalerl_operator.forecast.noise import INDEPENDENCE, Levels, noise_of, scatter


def test_below_one_all_shrink_and_above_one_the_same_is_added():
    noise = noise_of(points([0, 1, 2], [0.1, 0.2, 0.3], [0.01, 0.02, 0.03]))
    found = noise.variances(np.array([0.5, 1.0, 2.0]))
    assert found[:, 0] == pytest.approx([0.25e-4, 1e-4, 2.25e-4])
    assert found[:, 1] == pytest.approx([1e-4, 4e-4, 9e-4])
    mean = 14e-4 / 3
    assert found[:, 2] == pytest.approx([1e-4 + 3 * mean, 4e-4 + 3 * mean, 9e-4 + 3 * mean])


def test_an_error_of_zero_is_no_perfect_measurement():
    noise = noise_of(points([0, 1, 2], [0.0, 0.2, 0.3], [0.0, 0.04, 0.04]))
    assert noise.variance == pytest.approx([0.01**2, 0.04**2, 0.04**2])  # a quarter of the median


def test_errors_that_are_all_zero_are_unknown():
    unknown, zero = noise_of(points([0, 1], [0.1, 0.2])), noise_of(points([0, 1], [0.1, 0.2], [0.0, 0.0]))
    assert zero.variance.tolist() == unknown.variance.tolist() == [1e-4, 1e-4]
    assert zero.log_sd > noise_of(points([0, 1], [0.1, 0.2], [0.01, 0.01])).log_sd


def test_factors_follow_the_residuals_and_stop_at_the_smallest():
    noise = noise_of(points(np.arange(104.0), np.full(104, 0.5), np.full(104, 0.01)))
    found = noise.levels(np.full(4, 900.0), fine=True)  # 104 points, 4 parameters: residuals of sqrt(900 / 100) = 3
    assert found.factors.min() < 3.0 < found.factors.max()
    assert found.factors.max() / found.factors.min() < 2.0  # 100 degrees of freedom know the scatter well
    assert len(set(zip(found.factors, found.correlations, strict=True))) == len(found.factors) == 24
    least = noise.levels(np.zeros(4), fine=False).factors
    assert (least >= 0.5).all()
    assert least.min() < 0.55


def test_precision_is_the_inverse_of_the_covariance_written_out():
    noise = noise_of(points([0, 1, 2], [0.1, 0.2, 0.3], [0.01, 0.02, 0.03]))
    levels = Levels(np.array([1.0, 0.5]), np.array([0.6, 0.0]), np.zeros(2))
    found = noise.precision(levels)
    sd = np.array([0.01, 0.02, 0.03])
    covariance = np.outer(sd, sd) * np.array([[1.0, 0.6, 0.36], [0.6, 1.0, 0.6], [0.36, 0.6, 1.0]])
    rows = np.eye(3)
    inverse = np.linalg.inv(covariance)
    assert found.square(rows)[:, 0] == pytest.approx(np.diag(inverse))
    assert found.beside[:, 0] == pytest.approx([inverse[0, 1], inverse[1, 2]])
    assert found.square(rows)[:, 1] == pytest.approx((0.5 * sd) ** -2.0)
    # The likelihood's other part: log det of that matrix; log density is -1/2 of it where the factor is 1.
    log_det = math.log(np.linalg.det(covariance))
    assert noise.log_density(levels)[0] == pytest.approx(-0.5 * log_det - INDEPENDENCE * 0.6)
    prior = -0.5 * (math.log(0.5) / 0.7) ** 2
    assert noise.log_density(levels)[1] == pytest.approx(prior - np.log(0.5 * sd).sum())


def test_what_scatters_beyond_its_error_may_wander():
    noise = noise_of(points([0, 1, 2], [0.1, 0.2, 0.3], [0.01, 0.01, 0.01]))
    unstated = noise_of(points([0, 1, 2], [0.1, 0.2, 0.3]))

    def cost(of, factor):
        """How much less likely a correlation of .6 is a priori than none; the determinant's share taken out."""
        levels = Levels(np.array([factor, factor]), np.array([0.0, 0.6]), np.zeros(2))
        none, some = of.log_density(levels)
        return none - some - 0.5 * 2 * math.log(1 - 0.36)

    assert cost(noise, 1.0) == pytest.approx(0.6 * INDEPENDENCE)
    assert cost(noise, 2.0) == pytest.approx(0.6 * INDEPENDENCE / 4)  # a quarter of the variance is the error's own
    assert cost(unstated, 1.0) == pytest.approx(0.0)


ROWS = [
    ([0.1, 0.2, 0.3, 0.4, 0.5], 0.0, "a straight line has no scatter"),
    ([0.0, 0.1, 0.0, 0.1, 0.0], 0.2 / (0.6745 * math.sqrt(6)), "every second difference is .2"),
    ([0.0, 0.1, 0.0, 0.1, 0.0, 0.1, 0.9, 1.8, 2.7, 3.6], 0.2 / (0.6745 * math.sqrt(6)), "one kink does not count"),
]


@pytest.mark.parametrize(("y", "expected"), [row[:-1] for row in ROWS], ids=[row[-1] for row in ROWS])
def test_scatter_by_hand(y, expected):
    assert scatter(np.array(y)) == pytest.approx(expected, abs=1e-12)
