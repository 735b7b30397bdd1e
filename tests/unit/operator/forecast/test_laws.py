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
    gains_on,
    gradient_of,
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
    (LOGISTIC, 0.0, (0.3, math.log(0.3)), 1.0 / (1.0 + math.e), "one width before the middle: not at its lower end"),
    (POWER_LAW, 0.1, (0.0, math.log(0.1)), 0.0, "the onset"),
    (POWER_LAW, 0.4, (0.0, math.log(0.1)), 0.75, "1 - 0.1/0.4 with exponent 1"),
    (POWER_LAW, 0.4, (math.log(0.5), math.log(0.1)), 0.5, "1 - sqrt(0.1/0.4)"),
    (POWER_LAW, 0.05, (0.0, math.log(0.1)), 0.0, "before its onset it stands at its start"),
    (POWER_LAW, 0.0, (0.0, math.log(0.1)), 0.0, "no value at 0: it stands at its start"),
]


@pytest.mark.parametrize(("law", "x", "shape", "gain"), [row[:-1] for row in ROWS], ids=[row[-1] for row in ROWS])
def test_gain_by_hand(law, x, shape, gain):
    found = law.gain(np.array([x]), np.array([shape[0]]), np.array([shape[1]]))
    assert found[0, 0] == pytest.approx(gain, abs=1e-12)


@pytest.mark.parametrize("law", [SIGMOID, *CURVED_RIVALS])
def test_every_curve_of_every_grid_rises_within_zero_and_one(law):
    x = np.array([0.0, 1e-9, 0.01, 0.3, 1.0])
    first, second = grid(law.axes(x))
    gain = gains_on(law, x, law.axes(x))
    assert gain.shape == (len(first), 5)
    assert gain == pytest.approx(law.gain(x, first, second), abs=1e-12)  # the nodes in the same order, one by one
    assert np.isfinite(gain).all()
    assert (gain >= 0.0).all()
    assert (gain <= 1.0).all()
    assert (np.diff(gain, axis=1) >= 0.0).all()


ONE = np.ones(1)
NATURAL = [
    (SIGMOID, (math.log(0.25), math.log(1.5)), (1.5, 100.0), "B, and C_mid at a quarter of 400"),
    (POWER_LAW, (math.log(0.5), math.log(0.02)), (0.5, 8.0), "the exponent, and the onset at a fiftieth of 400"),
    (EXPONENTIAL, (math.log(0.25), 0.0), (100.0, 0.0), "tau at a quarter of 400"),
    (LOGISTIC, (0.5, math.log(0.1)), (200.0, 40.0), "middle and width"),
]


@pytest.mark.parametrize(
    ("law", "shape", "expected"), [row[:-1] for row in NATURAL], ids=[row[0].name for row in NATURAL]
)
def test_shape_parameters_come_back_in_the_users_unit(law, shape, expected):
    first, second = law.natural(shape[0] * ONE, shape[1] * ONE, 400.0)
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
    (POWER_LAW, (0.5, 10.0), 5.0, 0.0, "before its onset a power law has no value, so no slope"),
    (EXPONENTIAL, (50.0, 0.0), 50.0, math.exp(-1.0) / 50.0, "e^-1 / tau after one tau"),
    (LOGISTIC, (30.0, 5.0), 30.0, 0.25 / 5.0, "1 / (4 width) in the middle"),
]


@pytest.mark.parametrize(("law", "shape", "at", "slope"), [row[:-1] for row in SLOPES], ids=[row[-1] for row in SLOPES])
def test_slope_by_hand(law, shape, at, slope):
    columns = [np.array([[value]]) for value in shape]
    assert law.slope(*columns, np.array([at]))[0, 0] == pytest.approx(slope)


GRADIENTS = [
    (SIGMOID, (1.7, 9.0), "b", "c_mid"),
    (POWER_LAW, (0.6, 3.0), "b", "onset"),
    (EXPONENTIAL, (12.0, 0.0), "tau", ""),
    (LOGISTIC, (8.0, 5.0), "middle", "width"),
]


@pytest.mark.parametrize(("law", "shape"), [row[:2] for row in GRADIENTS], ids=[row[0].name for row in GRADIENTS])
def test_the_slope_is_the_difference_quotient_of_the_share(law, shape):
    columns, at = [np.array([[value]]) for value in shape], np.array([0.7, 4.0, 9.0, 40.0])
    up, down = (law.share(*columns, at * (1.0 + step)) for step in (1e-5, -1e-5))
    assert law.slope(*columns, at) == pytest.approx((up - down) / (2e-5 * at), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("law", "shape"), [row[:2] for row in GRADIENTS], ids=[row[0].name for row in GRADIENTS])
def test_the_gradient_is_the_difference_quotient_in_each_parameter(law, shape):
    """R by (ceiling, two shape parameters, low); a law without a second shape parameter has gradient 0 there."""
    draw, at = np.array([0.7, *shape, 0.1]), np.array([0.7, 4.0, 9.0, 40.0])
    found = gradient_of(law, draw[None, :], at)[0]
    for i in range(4):
        step = np.zeros(4)
        step[i] = 1e-6 * max(draw[i], 1e-3)
        up, down = (curves_of(law, (draw + each)[None, :], at)[0] for each in (step, -step))
        assert found[:, i] == pytest.approx((up - down) / (2.0 * step[i]), rel=1e-5, abs=1e-9)


def test_gradients_by_hand():
    # sigmoid at C_mid: half of the gain; dR/dB 0 there, dR/dC_mid = -.4 * B / (4 C_mid) = -.4 * 2 / 40
    assert gradient_of(SIGMOID, np.array([[0.6, 2.0, 10.0, 0.2]]), np.array([10.0]))[0, 0] == pytest.approx(
        [0.5, 0.0, -0.02, 0.5]
    )
    # power law, exponent 1 from 10 on, at 40: left a quarter; d/dB = .4 * 1/4 * ln 4; d/d onset = -.4 * 1/40
    assert gradient_of(POWER_LAW, np.array([[0.6, 1.0, 10.0, 0.2]]), np.array([40.0]))[0, 0] == pytest.approx(
        [0.75, 0.1 * math.log(4.0), -0.01, 0.25]
    )
    # exponential after one tau: left 1/e; d/d tau = -.4 * e^-1 / tau
    assert gradient_of(EXPONENTIAL, np.array([[0.6, 20.0, 0.0, 0.2]]), np.array([20.0]))[0, 0] == pytest.approx(
        [1 - math.exp(-1), -0.4 * math.exp(-1) / 20.0, 0.0, math.exp(-1)]
    )
    # logistic in the middle: d/d middle = -.4 / (4 width), none in the width
    assert gradient_of(LOGISTIC, np.array([[0.6, 30.0, 5.0, 0.2]]), np.array([30.0]))[0, 0] == pytest.approx(
        [0.5, -0.02, 0.0, 0.5]
    )


def test_curves_and_slopes_by_hand():
    draws = np.array([[0.6, 2.0, 10.0, 0.2], [0.8, 1.0, 10.0, 0.0]])
    assert curves_of(SIGMOID, draws, np.array([20.0])) == pytest.approx(np.array([[0.52], [0.8 * 2 / 3]]))
    assert slopes_of(SIGMOID, draws, np.array([10.0])) == pytest.approx(np.array([[0.4 * 0.05], [0.8 * 0.025]]))


RANGES = [  # as docs/forecast.md says; points at 0, .02, .1 and 1
    (SIGMOID, (math.log(0.02) - 1.0, math.log(10.0)), (math.log(0.3), math.log(8.0))),
    (POWER_LAW, (math.log(0.1), math.log(8.0)), (math.log(0.02) - 2.0, math.log(0.1))),
    (EXPONENTIAL, (math.log(0.02) - 1.0, math.log(10.0)), (0.0, 0.0)),
    (LOGISTIC, (-0.5, 1.5), (math.log(0.02), 0.0)),
]


@pytest.mark.parametrize(("law", "first", "second"), RANGES, ids=[row[0].name for row in RANGES])
def test_the_ranges_of_shape_parameters(law, first, second):
    axes = law.axes(np.array([0.0, 0.02, 0.1, 1.0]))
    assert [(axis[0], axis[-1]) for axis in axes] == [pytest.approx(first), pytest.approx(second)]


def test_a_late_first_point_leaves_the_power_law_room_for_its_onset():
    _, onset = POWER_LAW.axes(np.array([0.5, 1.0]))
    assert (onset[0], onset[-1]) == pytest.approx((math.log(0.5) - 2.0, math.log(0.5) + 1.0))


@pytest.mark.parametrize("law", [SIGMOID, *CURVED_RIVALS])
def test_a_prior_has_the_mass_of_the_uniform_one_it_stands_beside(law):
    """Else a law would weigh more by how its prior is written; what a normal has outside the range is 2 % and less."""
    axes = law.axes(np.array([0.0, 0.02, 0.1, 1.0]))
    fine = grid(tuple(np.linspace(axis[0], axis[-1], 200) for axis in axes))
    assert np.exp(-0.5 * law.penalty(*fine)).mean() == pytest.approx(1.0, abs=0.03)


def test_first_positive_skips_the_start_and_is_never_next_to_zero():
    assert first_positive(np.array([0.0, 0.02, 1.0])) == 0.02
    assert first_positive(np.array([0.0, 1e-12, 1.0])) == 1e-6
    assert first_positive(np.array([0.0])) == 1.0
