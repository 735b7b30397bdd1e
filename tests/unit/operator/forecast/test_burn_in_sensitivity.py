"""Sensitivity of a forecast to its burn-in."""

import numpy as np
import pytest

from scalerl_operator.forecast import fit_forecast, points, try_burn_ins

X = np.linspace(0.0, 100.0, 41)
CURVE = 0.3 + 0.4 * X**2 / (X**2 + 20.0**2) + np.random.default_rng(2).normal(0.0, 0.005, 41)
ERROR = np.full(41, 0.005)


def test_starts_are_shares_of_the_last_compute_and_each_set_of_points_is_tried_once():
    curve = points(X, CURVE, ERROR)
    tried = try_burn_ins(curve, fit_forecast(curve))
    # at 3 % of 100 two points, 0 and 2.5, are gone; at 10 % four, 0 to 7.5
    assert [(each.burn_in, each.points, each.used) for each in tried] == [
        (0, 41, True),
        (3, 39, False),
        (10, 37, False),
    ]


def test_each_start_is_the_forecast_with_that_burn_in():
    curve = points(X, CURVE, ERROR)
    own, other, _ = try_burn_ins(curve, found := fit_forecast(curve))
    assert (own.ceiling, own.low, own.high) == (found.ceiling, found.ceiling_low, found.ceiling_high)
    alone = fit_forecast(curve, burn_in=3.0)
    assert (other.verdict, other.ceiling, other.low, other.high) == (
        alone.verdict,
        alone.ceiling,
        alone.ceiling_low,
        alone.ceiling_high,
    )


def test_a_start_that_the_rule_found_is_one_of_them():
    y = CURVE.copy()
    y[:4] = [0.05, 0.55, 0.6, 0.5]
    curve = points(X, y, ERROR)
    found = fit_forecast(curve)
    tried = try_burn_ins(curve, found)
    assert found.burn_in == X[4]  # 10 %: the same points as the last of the shares
    assert [(each.burn_in, each.used) for each in tried] == [(0.0, False), (pytest.approx(3.0), False), (X[4], True)]


def test_without_a_fit_no_start_is_tried():
    short = points(X[:3], CURVE[:3])
    assert try_burn_ins(short, fit_forecast(short)) == ()
