"""Single bad evaluations and runs of very many."""

import numpy as np
import pytest

from scalerl_operator.forecast import fit_forecast, points
from scalerl_operator.forecast.preprocess import MOST_FITTED, condense, find_outliers

RISE = [0.2, 0.3, 0.38, 0.44, 0.48, 0.51, 0.53, 0.545, 0.555, 0.56]


def _with(changes):
    y = list(RISE)
    for at, value in changes.items():
        y[at] = value
    return points(np.arange(10) * 100.0, y, np.full(10, 0.005))


ROWS = [
    ({}, [], "a curve that rises has none"),
    ({4: 0.0}, [4], "an evaluation that failed"),
    ({5: 0.9}, [5], "one far above"),
    ({4: 0.36}, [], ".02 below its neighbours: less than .03"),
    ({4: 0.2}, [4], ".18 below them"),
    ({4: 0.0, 5: 0.0}, [], "two in a row may be the run"),
    ({0: 0.0}, [], "the start has no neighbours before it"),
    ({8: 0.0}, [], "nor is the last but one tested: a run may have begun to fall"),
    ({2: 0.9, 6: 0.0}, [], "two of ten are not single: jumping is this run's noise"),
]


@pytest.mark.parametrize(("changes", "expected"), [row[:2] for row in ROWS], ids=[row[2] for row in ROWS])
def test_which_evaluations_are_set_aside(changes, expected):
    assert np.flatnonzero(find_outliers(_with(changes))).tolist() == expected


def test_a_wide_error_explains_a_jump():
    y = list(RISE)
    y[4] = 0.2
    assert not find_outliers(points(np.arange(10), y, np.full(10, 0.04))).any()  # .18 below: less than six errors


def test_a_short_run_keeps_every_point():
    assert not find_outliers(points(np.arange(7), [0.2, 0.3, 0.4, 0.0, 0.5, 0.5, 0.5])).any()


def test_an_outlier_is_reported_and_moves_nothing():
    x = np.linspace(0.0, 4.0, 25)
    y = 0.3 + 0.3 * x**2 / (x**2 + 1) + 0.004 * np.where(np.arange(25) % 2, 1, -1)
    broken = y.copy()
    broken[12] = 0.0
    good, found = (fit_forecast(points(x * 1000, each, np.full(25, 0.005))) for each in (y, broken))
    assert good.outliers == ()
    assert found.outliers == (2000.0,)
    assert "set aside, far from all of their neighbours: the evaluations at 2000 GPU-h" in found.reason
    assert found.points == 24
    assert found.ceiling == pytest.approx(good.ceiling, abs=0.005)
    assert found.verdict == good.verdict == "Identified"


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_one_bad_evaluation_at_the_end_is_no_decline(value):
    x = np.linspace(0.0, 4.0, 16)
    y = 0.3 + 0.3 * x**2 / (x**2 + 1) + 0.004 * np.where(np.arange(16) % 2, 1, -1)
    y[-1] = value
    assert "collapsed" not in fit_forecast(points(x, y, np.full(16, 0.005))).reason
    y[-2] = value
    assert "collapsed" in fit_forecast(points(x, y, np.full(16, 0.005))).reason


def test_a_long_flat_run_is_no_decline():
    """Among ten thousand evaluations some neighbours are high by chance: means are compared as they are fitted."""
    x = np.arange(1.0, 10_001.0)
    for seed in range(5):
        y = 0.3 + 0.3 * x**1.7 / (x**1.7 + 100.0**1.7) + np.random.default_rng(seed).normal(0.0, 0.02, 10_000)
        assert "declined" not in fit_forecast(points(x, y, np.full(10_000, 0.02))).reason


def test_few_points_are_fitted_as_they_are():
    few = points(np.arange(float(MOST_FITTED)), np.full(MOST_FITTED, 0.5))
    assert condense(few) is few


def test_many_points_are_averaged_and_keep_the_sums():
    x, y = np.arange(1.0, 10_001.0), np.linspace(0.1, 0.9, 10_000)
    found = condense(points(x, y, np.full(10_000, 0.02)))
    assert len(found) <= MOST_FITTED
    count = (0.02 / found.standard_error) ** 2  # the error of a mean of n is an n-th of the variance
    assert count.sum() == pytest.approx(10_000)
    assert (count * found.compute).sum() == pytest.approx(x.sum())
    assert (count * found.pass_rate).sum() == pytest.approx(y.sum())
    assert count[0] == pytest.approx(1.0)  # the start stays as fine as it was measured
    assert (np.diff(found.compute) > 0.0).all()


def test_without_errors_the_scatter_is_the_error_of_an_average():
    x = np.arange(1.0, 4001.0)
    y = 0.5 + np.random.default_rng(0).normal(0.0, 0.03, 4000)
    found = condense(points(x, y))
    assert found.standard_error[0] == pytest.approx(0.03, rel=0.1)


def test_ten_thousand_points_give_the_forecast_of_their_curve():
    x = np.arange(1.0, 10_001.0)
    y = 0.3 + 0.3 * x**1.7 / (x**1.7 + 1500.0**1.7) + np.random.default_rng(2).normal(0.0, 0.02, 10_000)
    found = fit_forecast(points(x, y, np.full(10_000, 0.02)))
    assert found.verdict == "Identified"
    assert found.points == 10_000
    assert found.ceiling == pytest.approx(0.6, abs=0.006)
    assert (found.b, found.c_mid) == (pytest.approx(1.7, rel=0.05), pytest.approx(1500.0, rel=0.05))
