"""The noise model."""

import math

import numpy as np
import pytest

from scalerl_operator.forecast import points
from scalerl_operator.forecast.noise import KINDS, STEADY, Kinds, Noise, noise_of, scatter


def test_an_error_of_zero_is_not_taken_as_exact():
    noise = noise_of(points([0, 1, 2], [0.0, 0.2, 0.3], [0.0, 0.04, 0.04]))
    assert noise.variance == pytest.approx([0.01**2, 0.04**2, 0.04**2])  # a quarter of the median


def test_errors_that_are_all_zero_are_unknown():
    unknown, zero = noise_of(points([0, 1], [0.1, 0.2])), noise_of(points([0, 1], [0.1, 0.2], [0.0, 0.0]))
    assert zero.variance.tolist() == unknown.variance.tolist() == [1e-4, 1e-4]
    assert zero.log_sd > noise_of(points([0, 1], [0.1, 0.2], [0.01, 0.01])).log_sd


def test_the_least_error_that_is_believed():
    """A pass rate is not known better than to .001; where errors are stated, not better than half of them."""
    unknown, stated = noise_of(points([0, 1], [0.1, 0.2])), noise_of(points([0, 1], [0.1, 0.2], [1e-9, 1e-9]))
    assert np.sqrt(unknown.variance) * unknown.smallest == pytest.approx(0.001)
    assert np.sqrt(stated.variance) == pytest.approx(0.001)
    assert stated.smallest == 0.5


def _noise(sd, kinds=KINDS, **given):
    return Noise(np.array(sd) ** 2, **{"log_sd": 0.5, "smallest": 0.5, **given}, kinds=kinds)


def test_factors_follow_the_residuals():
    found, log_range = _noise(np.full(104, 0.01)).factors(np.full(len(KINDS.share), 900.0))
    # 104 points, 4 parameters: residuals of sqrt(900 / 100) = 3, whatever the kind
    assert (found.min(axis=0) < 3.0).all()
    assert (found.max(axis=0) > 3.0).all()
    assert (found.max(axis=0) / found.min(axis=0) < 2.0).all()  # 100 degrees of freedom know the scatter well
    assert found[1] / found[0] == pytest.approx(np.exp(np.exp(log_range)))  # evenly in the logarithm


def test_sampling_is_never_below_its_smallest_factor():
    """Where 3/4 of the variance wanders, a factor f on the whole is one of f / 2 on the sampling."""
    noise = _noise(np.full(20, 0.01), Kinds(np.array([0.0, 0.75]), np.array([0.0, 0.5]), np.zeros(2)))
    found, _ = noise.factors(np.zeros(2))
    assert (found.min(axis=0) > [0.5, 1.0]).all()
    assert found.min(axis=0) == pytest.approx([0.5, 1.0], rel=0.2)
    density = noise.log_density(np.array([[0.49, 0.99], [0.51, 1.01]]))
    assert np.isneginf(density[0]).all()
    assert np.isfinite(density[1]).all()


def test_a_spectrum_is_that_of_a_reflected_ar_1_beside_white_noise():
    """Against the covariance written out: ar(i - j) + ar(i + j + 1) of the mirrored series, and the unit matrix."""
    rho, share, n = 0.6, 0.25, 5
    noise = _noise(np.array([0.01, 0.02, 0.03, 0.02, 0.01]), Kinds(np.array([share]), np.array([rho]), np.zeros(1)))
    i = np.arange(n)
    mirrored = sum(
        rho ** np.abs(i[:, None] - i[None, :] + 2 * n * turn)
        + rho ** np.abs(i[:, None] + i[None, :] + 1 + 2 * n * turn)
        for turn in range(-40, 41)
    )
    sd = np.sqrt(noise.variance)
    covariance = np.outer(sd, sd) * ((1 - share) * np.eye(n) + share * mirrored)
    turn = noise.turned(np.eye(n)).T  # its columns: what each point becomes over frequency
    assert turn @ covariance @ turn.T == pytest.approx(np.diag(noise.spectra[:, 0]), abs=1e-9)
    # hence chi2 and the determinant are those of the full matrix
    y = np.array([0.1, -0.2, 0.3, 0.1, 0.0])
    assert noise.turned(y) ** 2 @ (1 / noise.spectra[:, 0]) == pytest.approx(y @ np.linalg.inv(covariance) @ y)
    log_det = math.log(np.linalg.det(covariance)) - np.log(noise.variance).sum()
    prior = -0.5 * (0.5 * math.log(0.75) / 0.5) ** 2  # sampling's factor is sqrt(3/4)
    assert noise.log_density(np.ones((1, 1)))[0, 0] == pytest.approx(prior - 0.5 * log_det)


def test_priors_of_the_kinds_sum_to_one_and_steadiness_comes_first():
    assert np.exp(KINDS.log_prior).sum() == pytest.approx(1.0)
    assert (KINDS.share[0], KINDS.correlation[0]) == (0.0, 0.0)
    assert np.exp(KINDS.log_prior[0]) == pytest.approx(STEADY)
    assert len(set(zip(KINDS.share, KINDS.correlation, strict=True))) == len(KINDS.share) == 10


def test_a_target_is_the_turned_points_with_inverse_spectra():
    noise, y = _noise([0.01, 0.02, 0.02]), np.array([0.1, 0.2, 0.4])
    found = noise.target(y)
    assert (found.one**2).sum() == pytest.approx(1e4 + 2 * 2.5e3)  # a rotation keeps the sum of (1 / sd)^2
    assert found.y @ found.one == pytest.approx(0.1 * 1e4 + 0.6 * 2.5e3)
    assert found.weights == pytest.approx(1.0 / noise.spectra)


ROWS = [
    ([0.1, 0.2, 0.3, 0.4, 0.5], 0.0, "a straight line has no scatter"),
    ([0.0, 0.1, 0.0, 0.1, 0.0], 0.2 / (0.6745 * math.sqrt(6)), "every second difference is .2"),
    ([0.0, 0.1, 0.0, 0.1, 0.0, 0.1, 0.9, 1.8, 2.7, 3.6], 0.2 / (0.6745 * math.sqrt(6)), "one kink does not count"),
]


@pytest.mark.parametrize(("y", "expected"), [row[:-1] for row in ROWS], ids=[row[-1] for row in ROWS])
def test_scatter_by_hand(y, expected):
    assert scatter(np.array(y)) == pytest.approx(expected, abs=1e-12)
