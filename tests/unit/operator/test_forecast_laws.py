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
    first_positive,
    grid,
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


def test_parameters_come_back_in_the_users_unit():
    shape = (math.log(0.25), math.log(1.5))
    assert dict(SIGMOID.parameters((0.2, 0.6), shape, 400.0)) == pytest.approx(
        {"ceiling": 0.6, "r0": 0.2, "c_mid": 100.0, "b": 1.5}
    )
    assert dict(EXPONENTIAL.parameters((0.2, 0.6), shape, 400.0))["tau"] == pytest.approx(100.0)
    assert dict(LOGISTIC.parameters((0.2, 0.6), (0.5, math.log(0.1)), 400.0)) == pytest.approx(
        {"ceiling": 0.6, "lower": 0.2, "middle": 200.0, "width": 40.0}
    )
    assert dict(POWER_LAW.parameters((0.2, 0.6), shape, 400.0)) == pytest.approx(
        {"ceiling": 0.6, "at_first": 0.2, "b": 0.25}
    )


def test_first_positive_skips_the_start_and_is_never_next_to_zero():
    assert first_positive(np.array([0.0, 0.02, 1.0])) == 0.02
    assert first_positive(np.array([0.0, 1e-12, 1.0])) == 1e-6
    assert first_positive(np.array([0.0])) == 1.0
