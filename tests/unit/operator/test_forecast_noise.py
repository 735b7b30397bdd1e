"""The noise model."""

import math

import numpy as np
import pytest

from scalerl_operator.forecast import points
from scalerl_operator.forecast.noise import noise_of, scatter


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
    found = noise.factors(900.0)  # 104 points, 4 parameters: residuals of sqrt(900 / 100) = 3 errors
    assert found[0] < 3.0 < found[-1]
    assert found[-1] / found[0] < 2.0  # 100 degrees of freedom know the scatter well
    assert noise.factors(0.0)[0] == pytest.approx(0.5)
    assert len(set(noise.factors(0.0))) == 8  # a level that stands twice would count twice
    assert noise.log_prior(np.array([1.0, 2.0]))[1] == pytest.approx(-0.5 * (math.log(2.0) / 0.7) ** 2)


ROWS = [
    ([0.1, 0.2, 0.3, 0.4, 0.5], 0.0, "a straight line has no scatter"),
    ([0.0, 0.1, 0.0, 0.1, 0.0], 0.2 / (0.6745 * math.sqrt(6)), "every second difference is .2"),
    ([0.0, 0.1, 0.0, 0.1, 0.0, 0.1, 0.9, 1.8, 2.7, 3.6], 0.2 / (0.6745 * math.sqrt(6)), "one kink does not count"),
]


@pytest.mark.parametrize(("y", "expected"), [row[:-1] for row in ROWS], ids=[row[-1] for row in ROWS])
def test_scatter_by_hand(y, expected):
    assert scatter(np.array(y)) == pytest.approx(expected, abs=1e-12)
