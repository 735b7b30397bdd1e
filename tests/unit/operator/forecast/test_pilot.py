"""Plans from a pilot."""

import math

import numpy as np
import pytest

from scalerl_operator.forecast import FitError, Forecast, fit_forecast, points
from scalerl_operator.forecast.pilot import (
    expected_width,
    identified_at,
    sigmoid_gradient,
    split_budget,
    stop_point,
)

DRAW = (0.6, 2.0, 10.0, 0.2)


def _forecast(draw=DRAW, **values):
    known = {"burn_in": 0.0, "last_compute": 10.0, "sigma": 0.01, "correlation": 0.0, "draws": (draw,), **values}
    return Forecast("Weak", "why", "sigmoid", 8, unit="GPU-h", **known)


def test_gradient_by_hand():
    # at 2 C_mid with B = 2: share .8; bend .4 * .8 * .2 * 2 = .128; log B: .128 ln 2
    found = sigmoid_gradient(np.array([DRAW]), np.array([20.0]))[0, 0]
    assert found == pytest.approx([0.8, 0.2, -0.128, 0.128 * math.log(2.0)])


def test_gradient_is_the_slope_of_the_curve_in_each_parameter():
    def curve(a, r0, log_c_mid, log_b):
        return r0 + (a - r0) / (1 + (math.exp(log_c_mid) / 7.0) ** math.exp(log_b))

    at = [0.6, 0.2, math.log(10.0), math.log(2.0)]
    found = sigmoid_gradient(np.array([DRAW]), np.array([7.0]))[0, 0]
    for i in range(4):
        up, down = list(at), list(at)
        up[i] += 1e-5
        down[i] -= 1e-5
        assert found[i] == pytest.approx((curve(*up) - curve(*down)) / 2e-5, rel=1e-6)


def test_a_longer_run_and_less_noise_hold_more_information():
    pilot = points(np.arange(1.0, 11.0), np.linspace(0.2, 0.4, 10))
    widths = [expected_width(_forecast(), pilot, compute) for compute in (10.0, 20.0, 40.0, 80.0)]
    assert widths == sorted(widths, reverse=True)
    assert expected_width(_forecast(sigma=0.02), pilot, 40.0) > 1.5 * widths[2]
    assert expected_width(_forecast(correlation=0.6), pilot, 40.0) == pytest.approx(
        expected_width(_forecast(sigma=0.02), pilot, 40.0)  # (1 + .6) / (1 - .6) = 4 times the variance
    )


def test_identified_at_is_the_first_compute_that_is_enough():
    pilot = points(np.arange(1.0, 11.0), np.linspace(0.2, 0.4, 10))
    found = identified_at(_forecast(), pilot)
    assert found is not None
    assert expected_width(_forecast(), pilot, found) <= 0.10 < expected_width(_forecast(), pilot, found / 1.25)
    assert identified_at(_forecast(sigma=0.5), pilot) is None


def test_irregular_and_very_long_pilots_are_planned_too():
    """Future points are as dense as the measured ones, and merged where there are very many."""
    odd = points([*range(1, 10), 100_000.0], np.linspace(0.2, 0.4, 10))
    assert expected_width(_forecast(last_compute=100_000.0), odd, 3_000_000.0) < 1.0
    x = np.linspace(0.01, 10.0, 10_000)
    long = points(x, np.linspace(0.2, 0.4, 10_000))
    assert expected_width(_forecast(), long, 300.0) < expected_width(_forecast(), long, 20.0)


def test_merged_points_hold_as_much_information_as_single_ones():
    pilot = points(np.arange(1.0, 11.0), np.linspace(0.2, 0.4, 10))
    x = np.arange(1.0, 261.0)
    whole = points(x, np.full(260, 0.5))
    ahead, there = (expected_width(_forecast(), each, 260.0) for each in (pilot, whole.until(159.0)))
    assert ahead == pytest.approx(there, rel=0.02)  # 250 points to come, 200 that stand for them


def test_points_that_were_left_out_hold_no_information():
    pilot = points(np.arange(1.0, 11.0), np.linspace(0.2, 0.4, 10))
    assert expected_width(_forecast(burn_in=4.0), pilot, 10.0) > expected_width(_forecast(), pilot, 10.0)
    assert expected_width(_forecast(outliers=(8.0,)), pilot, 10.0) > expected_width(_forecast(), pilot, 10.0)


def test_a_planned_run_is_identified_as_predicted():
    """A pilot to C_mid plans the rest; the run that follows the curve has about the width that was planned."""
    x = np.arange(1.0, 61.0)
    y = 0.2 + 0.4 * x**2 / (x**2 + 100.0) + 0.01 * np.where(np.arange(60) % 2, 1.0, -1.0)
    whole = points(x, y, np.full(60, 0.01))
    pilot = fit_forecast(whole.until(12.0), law="sigmoid")
    planned = identified_at(pilot, whole.until(12.0))
    assert planned is not None
    assert 20.0 < planned < 60.0
    then = fit_forecast(whole.until(planned), law="sigmoid")
    assert then.ceiling_high - then.ceiling_low < 0.15


def test_where_to_stop_by_hand():
    # at a budget of 90 the share of .4 is 81/82; .05 less is reached at share s, with odds s / (1 - s) = (C / 10)^2
    found = _forecast(budget=90.0, predicted_at_budget=0.2 + 0.4 * 81 / 82)
    share = 81 / 82 - 0.05 / 0.4
    assert stop_point(found, loss=0.05) == pytest.approx(10.0 * math.sqrt(share / (1 - share)), rel=1e-6)
    assert stop_point(_forecast(), loss=0.05) is None


def test_compute_goes_where_it_gains_most():
    ended, young = _forecast((0.6, 2.0, 1.0, 0.2)), _forecast((0.6, 2.0, 30.0, 0.2))
    one, two = split_budget([ended, young], 60.0)
    assert one.compute + two.compute == pytest.approx(60.0)
    assert two.compute > 50.0
    assert two.pass_rate == pytest.approx(0.2 + 0.4 * (10 + two.compute) ** 2 / ((10 + two.compute) ** 2 + 900.0))


def test_equal_runs_past_their_bend_share_equally():
    one, two = split_budget([_forecast(), _forecast()], 60.0)
    assert one.compute == two.compute == pytest.approx(30.0)


def test_a_pilot_without_a_curve_plans_nothing():
    with pytest.raises(FitError, match="has no curve: why"):
        expected_width(_forecast(draws=()), points([1.0, 2.0], [0.1, 0.2]), 4.0)
