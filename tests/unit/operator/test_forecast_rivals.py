"""The rivals and the rolling back-test."""

import numpy as np
import pytest

from scalerl_operator.forecast.rivals import backtest_origins, fit_rivals, sigmoid_backtest

X = np.linspace(0.05, 1.0, 20)
SMALL = np.full(20, 1e-6)


def _named(y, last=200.0):
    return {rival.name: rival for rival in fit_rivals(X, y, SMALL, last)}


def test_each_law_finds_its_own_curve():
    power = dict(_named(0.7 - 0.02 / X)["power law"].parameters)  # exponent 1; at the first point .7 - .02/.05 = .3
    assert power == pytest.approx({"ceiling": 0.7, "at_first": 0.3, "b": 1.0}, abs=0.02)
    exponential = dict(_named(0.2 + 0.5 * (1 - np.exp(-X / 0.25)))["exponential"].parameters)
    assert exponential == pytest.approx({"ceiling": 0.7, "r0": 0.2, "tau": 50.0}, rel=0.03)
    logistic = dict(_named(0.1 + 0.5 / (1 + np.exp(-(X - 0.5) / 0.1)))["logistic"].parameters)
    assert logistic == pytest.approx({"ceiling": 0.6, "lower": 0.1, "middle": 100.0, "width": 20.0}, rel=0.05)


def test_plateau_is_the_mean_of_the_last_three():
    y = np.full(20, 0.2)
    y[-4:] = [0.9, 0.5, 0.6, 0.7]
    plateau = _named(y)["plateau"]
    assert plateau.ceiling == pytest.approx(0.6)
    assert plateau.rmse == pytest.approx(np.sqrt(0.02 / 3))  # residuals -.1, 0, .1


def test_origins_start_at_half_of_the_run_and_leave_points_ahead():
    assert backtest_origins(20) == [10, 12, 14, 16, 18]
    assert backtest_origins(7) == [5]
    assert backtest_origins(6) == []


def test_plateau_backtest_by_hand():
    # 7 points: one origin, after 5 of them; horizon 2 * .5 = 1.0, so both later points are asked about
    x = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.9, 1.0])
    y = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7])
    plateau = fit_rivals(x, y, np.full(7, 1e-4), 1.0)[-1]
    assert plateau.backtest_error == pytest.approx((0.2 + 0.4) / 2)  # from (.2 + .3 + .4) / 3 = .3
    # the last point beyond twice the origin is not asked about
    x[-1], x[-2] = 1.0, 0.6
    x[:5] = x[:5] / 2 + 0.1
    assert fit_rivals(x, y, np.full(7, 1e-4), 1.0)[-1].backtest_error == pytest.approx(0.2)


def test_the_law_that_made_the_points_forecasts_them_best():
    curve = 0.2 + 0.5 * X**2 / (X**2 + 0.3**2)
    error = sigmoid_backtest(X, curve, SMALL)
    rivals = _named(curve)
    assert error is not None
    assert error < 0.01
    assert all(rival.backtest_error > 2 * error for rival in rivals.values())
    rise = 0.1 + 0.5 / (1 + np.exp(-(X - 0.5) / 0.1))
    logistic, sigmoid = _named(rise)["logistic"].backtest_error, sigmoid_backtest(X, rise, SMALL)
    assert logistic is not None
    assert sigmoid is not None
    assert logistic < 0.5 * sigmoid


def test_a_backtest_never_sees_what_it_predicts():
    """The two later points at 0, then at 1: a forecast p that stays the same is wrong by p, then by 1 - p."""
    x = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.9, 1.0])  # one origin, after 5 points; both later ones are within twice .5
    seen, variance = [0.2, 0.3, 0.38, 0.42, 0.45], np.full(7, 1e-4)
    zeros, ones = np.array([*seen, 0.0, 0.0]), np.array([*seen, 1.0, 1.0])
    for low, high in zip(fit_rivals(x, zeros, variance, 1.0), fit_rivals(x, ones, variance, 1.0), strict=True):
        assert low.backtest_error + high.backtest_error == pytest.approx(1.0)
    assert sigmoid_backtest(x, zeros, variance) + sigmoid_backtest(x, ones, variance) == pytest.approx(1.0)


def test_a_short_run_has_no_backtest():
    for rival in fit_rivals(X[:5], X[:5], SMALL[:5], 1.0):
        assert rival.backtest_error is None
    assert sigmoid_backtest(X[:5], X[:5], SMALL[:5]) is None
