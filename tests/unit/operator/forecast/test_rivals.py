"""Every law fitted to the same points, its weight, and the rolling back-test."""

from dataclasses import replace

import numpy as np
import pytest

from scalerl_operator.forecast.backtest import backtest_laws, backtest_plateau, mean_error, origins
from scalerl_operator.forecast.laws import CURVED_RIVALS, EXPONENTIAL, LOGISTIC, SIGMOID
from scalerl_operator.forecast.noise import Noise
from scalerl_operator.forecast.posterior import fit_posteriors
from scalerl_operator.forecast.rivals import fit_laws, weigh

X = np.linspace(0.05, 1.0, 20)
SMALL = np.full(20, 1e-6)
NOISE = Noise(SMALL, log_sd=0.7, smallest=0.5)
CURVE = 0.2 + 0.5 * X**2 / (X**2 + 0.3**2)


def _named(y, last=200.0):
    return {rival.name: rival for rival in fit_laws(X, y, NOISE, last, contested=True).rivals}


def test_each_law_finds_its_own_curve():
    flat = 0.7 - 0.04 / np.maximum(X, 0.1)  # exponent 1, from .3 at an onset of .1 * 200
    power = dict(_named(flat)["power law"].parameters)
    assert power == pytest.approx({"ceiling": 0.7, "r0": 0.3, "b": 1.0, "onset": 20.0}, rel=0.06)
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
    assert (plateau.weight, plateau.draws) == (0.0, ())


TRUTHS = [
    ("sigmoid", CURVE),
    ("exponential", 0.2 + 0.5 * (1 - np.exp(-X / 0.25))),
    ("logistic", 0.1 + 0.5 / (1 + np.exp(-(X - 0.5) / 0.1))),
    ("power law", 0.7 - 0.1 * X**-0.5),
]


@pytest.mark.parametrize(("name", "y"), TRUTHS, ids=[row[0] for row in TRUTHS])
def test_the_law_that_made_the_points_gets_nearly_all_of_the_weight(name, y):
    found = fit_laws(X, y, NOISE, 200.0, contested=True)
    weights = {"sigmoid": found.weight, **{rival.name: rival.weight for rival in found.rivals}}
    assert sum(weights.values()) == pytest.approx(1.0)
    assert weights[name] > 0.9
    for rival in found.rivals:
        assert (len(rival.draws) == 100) == (rival.weight >= 0.005)


def test_rivals_have_no_weight_where_the_user_chose_the_law():
    found = fit_laws(X, TRUTHS[2][1], NOISE, 200.0, contested=False)
    assert found.weight == 1.0
    assert [rival.weight for rival in found.rivals] == [0.0] * 4


def test_weights_by_hand():
    posterior = fit_posteriors([SIGMOID], X, CURVE, NOISE, num_draws=[4])[0]
    two = [replace(posterior, log_evidence=3.0), replace(posterior, law=EXPONENTIAL, log_evidence=3.0)]
    assert weigh(two, [None, None], 0.1) == pytest.approx([3 / 4, 1 / 4])  # the priors 1/2 and 1/6
    # errors of .1 and .2 beside half a noise of .1: .25 / .15 = 5/3 for the better one
    assert weigh(two, [0.2, 0.1], 0.1) == pytest.approx([3 / (3 + 5 / 3), (5 / 3) / (3 + 5 / 3)])
    two[1] = replace(two[1], log_evidence=3.0 + np.log(3.0))  # points three times as dense outweigh the prior
    assert weigh(two, [None, None], 0.1) == pytest.approx([0.5, 0.5])


def test_origins_start_at_half_of_the_run_and_leave_points_ahead():
    assert origins(20) == [10, 12, 14, 16, 18]
    assert origins(7) == [5]
    assert origins(6) == []


def _backtest(law, x, y, variance):
    return backtest_laws([law], x, y, variance)[0]


def test_plateau_backtest_by_hand():
    # 7 points: one origin, after 5 of them; horizon 2 * .5 = 1.0, so both later points are asked about
    x = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.9, 1.0])
    y = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7])
    assert backtest_plateau(x, y) == pytest.approx((0.2 + 0.4) / 2)  # from (.2 + .3 + .4) / 3 = .3
    # the last point beyond twice the origin is not asked about
    x[-1], x[-2] = 1.0, 0.6
    x[:5] = x[:5] / 2 + 0.1
    assert backtest_plateau(x, y) == pytest.approx(0.2)


def test_the_mean_error_is_over_origins_not_over_points():
    x, y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.1, 0.2, 0.4, 0.8])
    rows = np.array([np.zeros(4), np.full(4, 0.7)])
    assert mean_error(rows, x, y, [2, 3]) == pytest.approx(((0.4 + 0.8) / 2 + 0.1) / 2)
    assert mean_error(rows[:0], x, y, []) is None


def test_the_law_that_made_the_points_forecasts_them_best():
    error = _backtest(SIGMOID, X, CURVE, SMALL)
    assert error is not None
    assert error < 0.01
    assert all(_backtest(law, X, CURVE, SMALL) > 1.5 * error for law in CURVED_RIVALS)
    rise = TRUTHS[2][1]
    assert _backtest(LOGISTIC, X, rise, SMALL) < 0.6 * _backtest(SIGMOID, X, rise, SMALL)


def test_a_backtest_reads_only_points_before_its_origin():
    """The two later points at 0, then at 1: a forecast p that stays the same is wrong by p, then by 1 - p."""
    x = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.9, 1.0])  # one origin, after 5 points; both later ones are within twice .5
    known, variance = [0.2, 0.3, 0.38, 0.42, 0.45], np.full(7, 1e-4)
    zeros, ones = np.array([*known, 0.0, 0.0]), np.array([*known, 1.0, 1.0])
    for law in (SIGMOID, *CURVED_RIVALS):
        assert _backtest(law, x, zeros, variance) + _backtest(law, x, ones, variance) == pytest.approx(1.0)
    assert backtest_plateau(x, zeros) + backtest_plateau(x, ones) == pytest.approx(1.0)


def test_laws_score_the_same_together_and_alone():
    laws = (SIGMOID, *CURVED_RIVALS)
    together = backtest_laws(laws, X, CURVE, SMALL)
    assert together == pytest.approx([_backtest(law, X, CURVE, SMALL) for law in laws])


def test_a_short_run_has_no_backtest():
    assert backtest_plateau(X[:5], X[:5]) is None
    for law in (SIGMOID, *CURVED_RIVALS):
        assert _backtest(law, X[:5], X[:5], SMALL[:5]) is None
