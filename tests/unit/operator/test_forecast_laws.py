"""The laws at points that can be worked out by hand."""

import math

import numpy as np
import pytest

from scalerl_operator.forecast.laws import (
    CURVED_RIVALS,
    EXPONENTIAL,
    LOGISTIC,
    POWER_LAW,
    SIGMOID,
    curves_of,
    first_positive,
    grid,
    slopes_of,
)

LN3 = math.log(3.0)


ROWS = [
    (SIGMOID, 0.2, (math.log(0.2), math.log(1.7)), 0.5, "half of the gain at C_mid, whatever B"),
    (SIGMOID, 0.6, (math.log(0.2), 0.0), 0.75, "1 / (1 + 1/3) at 3 C_mid with B = 1"),
    (SIGMOID, 0.4, (math.log(0.2), math.log(2.0)), 0.8, "1 / (1 + 1/4) at 2 C_mid with B = 2"),
    (SIGMOID, 0.1, (math.log(0.2), math.log(2.0)), 0.2, "1 / (1 + 4) at C_mid / 2 with B = 2"),
    (SIGMOID, 0.0, (math.log(0.2), 0.0), 0.0, "the start"),
    (EXPONENTIAL, 0.3, (math.log(0.3), 0.0), 1.0 - math.exp(-1.0), "one time constant"),
    (EXPONENTIAL, 0.0, (math.log(0.3), 0.0), 0.0, "the start"),
    (LOGISTIC, 0.4, (0.4, math.log(0.1)), 0.5, "the middle"),
    (LOGISTIC, 0.4 + 0.1 * LN3, (0.4, math.log(0.1)), 0.75, "odds of 3 after ln 3 widths"),
    (POWER_LAW, 0.1, (0.0, 0.0), 0.0, "the first point above 0"),
    (POWER_LAW, 0.4, (0.0, 0.0), 0.75, "1 - 0.1/0.4 with exponent 1"),
    (POWER_LAW, 0.4, (math.log(0.5), 0.0), 0.5, "1 - sqrt(0.1/0.4)"),
    (POWER_LAW, 0.0, (0.0, 0.0), 0.0, "no value at 0: it stands at its start"),
]


@pytest.mark.parametrize(("law", "x", "shape", "gain"), [row[:-1] for row in ROWS], ids=[row[-1] for row in ROWS])
def test_gain_by_hand(law, x, shape, gain):
    if law is POWER_LAW:  # whose scale is the run's first point above 0
        columns = np.array([0.0, 0.1, x]) if x > 0.1 else np.array([0.0, 0.1])
        at = int(np.argmin(np.abs(columns - x)))
    else:
        columns, at = np.array([x]), 0
    assert law.gain(columns, np.array([shape[0]]), np.array([shape[1]]))[0, at] == pytest.approx(gain, abs=1e-12)


@pytest.mark.parametrize("law", [SIGMOID, *CURVED_RIVALS])
def test_every_curve_of_every_grid_rises_within_zero_and_one(law):
    x = np.array([0.0, 1e-9, 0.01, 0.3, 1.0])
    gain = law.gain(x, *grid(law.axes(x)))
    assert gain.shape == (len(grid(law.axes(x))[0]), 5)
    assert np.isfinite(gain).all()
    assert (gain >= 0.0).all()
    assert (gain <= 1.0).all()
    assert (np.diff(gain, axis=1) >= 0.0).all()


ONE = np.ones(1)
NATURAL = [
    (SIGMOID, (math.log(0.25), math.log(1.5)), (1.5, 100.0), "B, and C_mid at a quarter of 400"),
    (POWER_LAW, (math.log(0.5), 0.0), (0.5, 8.0), "the exponent, and the first compute, 8"),
    (EXPONENTIAL, (math.log(0.25), 0.0), (100.0, 0.0), "tau at a quarter of 400"),
    (LOGISTIC, (0.5, math.log(0.1)), (200.0, 40.0), "middle and width"),
]


@pytest.mark.parametrize(
    ("law", "shape", "expected"), [row[:-1] for row in NATURAL], ids=[row[0].name for row in NATURAL]
)
def test_shape_parameters_come_back_in_the_users_unit(law, shape, expected):
    first, second = law.natural(shape[0] * ONE, shape[1] * ONE, 400.0, 8.0)
    assert (first[0], second[0]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("law", "shape", "natural"), [row[:-1] for row in NATURAL], ids=[row[0].name for row in NATURAL]
)
def test_the_share_in_the_users_unit_is_the_gain_in_the_runs_own(law, shape, natural):
    compute = np.array([0.0, 8.0, 30.0, 100.0, 250.0, 400.0])
    share = law.share(np.array([[natural[0]]]), np.array([[natural[1]]]), compute)
    assert share == pytest.approx(law.gain(compute / 400.0, shape[0] * ONE, shape[1] * ONE))


SLOPES = [
    (SIGMOID, (2.0, 10.0), 10.0, 2.0 / 10.0 / 4.0, "B / (4 C_mid) at the midpoint"),
    (SIGMOID, (2.0, 10.0), 20.0, 2.0 / 20.0 * 0.8 * 0.2, "B / C times share times rest"),
    (POWER_LAW, (0.5, 10.0), 40.0, 0.5 / 40.0 * 0.5, "B / C times what is left, a half"),
    (POWER_LAW, (0.5, 10.0), 5.0, 0.0, "before its first point a power law has no value, so no slope"),
    (EXPONENTIAL, (50.0, 0.0), 50.0, math.exp(-1.0) / 50.0, "e^-1 / tau after one tau"),
    (LOGISTIC, (30.0, 5.0), 30.0, 0.25 / 5.0, "1 / (4 width) in the middle"),
]


@pytest.mark.parametrize(("law", "shape", "at", "slope"), [row[:-1] for row in SLOPES], ids=[row[-1] for row in SLOPES])
def test_slope_by_hand(law, shape, at, slope):
    columns = [np.array([[value]]) for value in shape]
    assert law.slope(*columns, np.array([at]))[0, 0] == pytest.approx(slope)


def test_curves_and_slopes_by_hand():
    draws = np.array([[0.6, 2.0, 10.0, 0.2], [0.8, 1.0, 10.0, 0.0]])
    assert curves_of(SIGMOID, draws, np.array([20.0])) == pytest.approx(np.array([[0.52], [0.8 * 2 / 3]]))
    assert slopes_of(SIGMOID, draws, np.array([10.0])) == pytest.approx(np.array([[0.4 * 0.05], [0.8 * 0.025]]))


def test_first_positive_skips_the_start_and_is_never_next_to_zero():
    assert first_positive(np.array([0.0, 0.02, 1.0])) == 0.02
    assert first_positive(np.array([0.0, 1e-12, 1.0])) == 1e-6
    assert first_positive(np.array([0.0])) == 1.0
