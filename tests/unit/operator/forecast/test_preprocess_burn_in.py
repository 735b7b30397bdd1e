"""The rule that leaves out early points."""

import numpy as np

from scalerl_operator.forecast.preprocess import find_burn_in

X = np.linspace(0.0, 1.0, 41)
CURVE = 0.3 + 0.4 * X**2 / (X**2 + 0.2**2)
NOISE = np.random.default_rng(2).normal(0.0, 0.005, 41)
VARIANCE = np.full(41, 0.005**2)


def test_a_run_that_follows_the_law_keeps_every_point():
    assert find_burn_in(X, CURVE + NOISE, VARIANCE) == 0


def test_without_noise_the_grids_own_misfit_is_no_burn_in():
    assert find_burn_in(X, CURVE, VARIANCE) == 0


def test_a_start_that_the_rest_contradicts_is_left_out_and_no_more():
    y = CURVE + NOISE
    y[:4] = [0.05, 0.55, 0.6, 0.5]  # a format is learned, then unlearned
    assert find_burn_in(X, y, VARIANCE) == 4


def test_the_shortest_stretch_is_left_out_that_makes_the_rest_fit_not_the_best():
    y = CURVE + np.random.default_rng(3).normal(0.0, 0.005, 41)
    y[:4] = [0.05, 0.55, 0.6, 0.5]  # without 10 points the rest happens to fit even better than without 4
    assert find_burn_in(X, y, VARIANCE) == 4


def test_a_start_that_fits_badly_but_disturbs_little_is_kept():
    x = np.linspace(0.0, 1.0, 81)
    y = 0.3 + 0.4 * x**2 / (x**2 + 0.2**2) + np.random.default_rng(1).normal(0.0, 0.005, 81)
    y[:3] += [0.03, 0.03, -0.03]  # six errors each: the F-test alone would drop them
    assert find_burn_in(x, y, np.full(81, 0.005**2)) == 0


def test_the_scatter_of_the_rest_defines_a_small_disturbance():
    """Three points 4.5 errors off add 61 to a sum of squares of about 77: less than 1.5 times the scatter."""
    x = np.linspace(0.0, 1.0, 81)
    y = 0.3 + 0.4 * x**2 / (x**2 + 0.2**2) + np.random.default_rng(1).normal(0.0, 0.02, 81)
    y[:3] += [0.09, 0.09, -0.09]
    assert find_burn_in(x, y, np.full(81, 0.02**2)) == 0


def test_a_single_bad_point_in_the_middle_drops_nothing():
    y = CURVE + NOISE
    y[20] = 0.1
    assert find_burn_in(X, y, VARIANCE) == 0


def test_a_short_run_keeps_every_point():
    y = CURVE + NOISE
    y[:4] = [0.05, 0.55, 0.6, 0.5]
    assert find_burn_in(X[:15] / X[14], y[:15], VARIANCE[:15]) == 0


def test_the_scale_of_the_variances_does_not_matter():
    y = CURVE + NOISE
    y[:4] = [0.05, 0.55, 0.6, 0.5]
    assert find_burn_in(X, y, VARIANCE * 1e4) == find_burn_in(X, y, VARIANCE)
