"""Checks of the measured columns."""

import math

import numpy as np
import pytest

from scalerl_operator.forecast import FitError, binomial_standard_error, points

ROWS = [
    (([0.0, 1.0], [0.2, 1.2]), r"pass_rate\[1\] is 1\.2; need a share in \[0, 1\]; divide", "above 1: percent?"),
    (([0.0, 1.0], [-0.1, 0.2]), r"pass_rate\[0\] is -0\.1; need a share", "below 0"),
    (([0.0, 1.0, 2.0], [0.2, math.nan, 0.3]), r"pass_rate\[1\] is nan; need a finite number", "NaN is unknown"),
    (([0.0, math.inf], [0.2, 0.3]), r"compute\[1\] is inf; need a finite", "compute ends somewhere"),
    (
        ([-1.0, 1.0], [0.2, 0.3]),
        r"compute\[0\] is -1; need a number of at least 0",
        "spent compute is not negative",
    ),
    (([0.0, 2.0, 1.0], [0.2, 0.3, 0.4]), r"compute\[2\] is 1; need more than the one before", "unsorted"),
    (([0.0, 2.0, 2.0], [0.2, 0.3, 0.4]), r"compute\[2\] is 2; need more than the one before", "repeated"),
    (([0.0, 1.0], [0.2]), r"pass_rate has 1 values and compute has 2", "one column is short"),
    (([0.0, 1.0], [0.2, 0.3], [0.01]), r"standard_error has 1 values and compute has 2", "the third is short"),
    (([0.0, 1.0], [0.2, 0.3], [0.01, -0.01]), r"standard_error\[1\] is -0\.01; need", "an error is not negative"),
    (([[0.0, 1.0]], [0.2, 0.3]), r"compute has 2 dimensions", "a matrix is not a column"),
]


@pytest.mark.parametrize(("columns", "message"), [row[:-1] for row in ROWS], ids=[row[-1] for row in ROWS])
def test_a_bad_column_is_named_with_index_value_and_what_is_allowed(columns, message):
    with pytest.raises(FitError, match=message):
        points(*columns)


def test_compute_zero_is_a_point():
    assert points([0.0, 1.0], [0.2, 0.3]).compute.tolist() == [0.0, 1.0]


def test_the_callers_array_is_copied():
    mine = np.array([0.0, 1.0])
    curve = points(mine, [0.2, 0.3])
    mine[0] = 0.5
    assert curve.compute[0] == 0.0


def test_parts_of_a_curve_keep_their_errors_and_unit():
    curve = points([0.0, 1.0, 2.0], [0.2, 0.3, 0.4], [0.01, 0.02, 0.03], unit="steps")
    late, early = curve.starting_at(1.0), curve.until(1.0)
    assert (late.compute.tolist(), late.pass_rate.tolist(), late.unit) == ([1.0, 2.0], [0.3, 0.4], "steps")
    assert late.standard_error is not None
    assert late.standard_error.tolist() == [0.02, 0.03]
    assert early.standard_error is not None
    assert (early.compute.tolist(), early.standard_error.tolist()) == ([0.0, 1.0], [0.01, 0.02])
    assert len(points([0.0], [0.5]).starting_at(3.0)) == 0


def test_binomial_error_by_hand():
    # (0.25 * 100 + 1) / 102 = 26/102; sqrt(26/102 * 76/102 / 100) = sqrt(1976) / 1020
    assert binomial_standard_error(0.25, 100) == pytest.approx(math.sqrt(1976) / 1020)
    # no success in 98: p = 1/100, so the error is sqrt(.01 * .99 / 98), not 0
    assert binomial_standard_error(0.0, 98) == pytest.approx(math.sqrt(0.0099 / 98))
    with pytest.raises(FitError, match="completions is 0; need at least 1"):
        binomial_standard_error(0.5, 0)
