"""Recipes compared: ceilings, shared fits, efficiency, the linearised plot."""

from dataclasses import replace

import numpy as np
import pytest

from scalerl_operator.forecast import (
    FitError,
    Forecast,
    compare,
    estimate_margin,
    fit_forecast,
    linearised,
    margin_of,
    points,
)
from scalerl_operator.forecast.compare import fit_shared
from scalerl_operator.render.compare_table import comparison_json, comparison_lines, comparison_rows

X = np.linspace(0.0, 16.0, 33)
TURNS = 0.003 * np.where(np.arange(33) % 2, 1.0, -1.0)


def _run(ceiling, b, c_mid, r0=0.3):
    share = np.array([1 / (1 + (c_mid / x) ** b) if x else 0.0 for x in X])
    return points(X, r0 + (ceiling - r0) * share + TURNS, np.full(33, 0.004), unit="hours")


BASE, SLOW, LOW = _run(0.6, 2.0, 2.0), _run(0.6, 2.0, 4.0), _run(0.5, 2.0, 2.0)
SHORT = points(X[:4] / 8, [0.3, 0.31, 0.32, 0.33], unit="hours")


def _compare(*curves, **values):
    return compare([f"run{i}" for i in range(len(curves))], curves, [fit_forecast(c) for c in curves], **values)


def test_a_slower_run_of_the_same_ceiling_is_an_efficiency_shaper():
    found = _compare(BASE, SLOW)
    assert found.same_ceiling
    assert found.shared_ceiling == pytest.approx(0.6, abs=0.01)
    arm = next(each for each in found.arms if each.name == "run1")
    assert arm.kind == "efficiency shaper"
    # C_mid is twice as large and all else alike: twice the compute for any pass rate
    assert arm.compute_ratio == pytest.approx((2.0, 2.0, 2.0), rel=0.2)
    assert arm.compute_ratio[1] < 2.0 < arm.compute_ratio[2]
    assert next(each for each in found.arms if each.name == "run0").compute_ratio == (1.0, 1.0, 1.0)
    assert arm.shared.c_mid == pytest.approx(4.0, rel=0.1)
    assert arm.gain_of_ceiling[1] < 0.0 < arm.gain_of_ceiling[2]


def test_a_lower_ceiling_is_a_ceiling_mover_and_keeps_its_own_ceiling():
    found = _compare(BASE, LOW)
    assert not found.same_ceiling
    assert [arm.name for arm in found.arms] == ["run0", "run1"]
    arm = found.arms[1]
    assert arm.kind == "ceiling mover"
    assert arm.gain_of_ceiling == pytest.approx((-0.1, -0.1, -0.1), abs=0.02)
    assert (arm.shared.ceiling, arm.shared.b) == pytest.approx((0.5, 2.0), rel=0.06)
    assert found.level == pytest.approx(0.3 + 0.2 * 64 / 65, abs=0.005)  # (16 / 2)^2 = 64: the lower curve's last value


def test_a_run_like_the_baseline_shows_no_difference():
    assert _compare(BASE, BASE).arms[1].kind in ("baseline", "no difference shown")
    other = replace_noise(BASE)
    kinds = {arm.name: arm.kind for arm in _compare(BASE, other).arms}
    assert kinds == {"run0": "baseline", "run1": "no difference shown"}


def replace_noise(curve):
    return points(curve.compute, curve.pass_rate - 2 * TURNS, curve.standard_error, unit="hours")


def test_what_is_refused_comes_last_and_is_not_compared():
    found = _compare(BASE, SHORT, LOW)
    assert [arm.name for arm in found.arms] == ["run0", "run2", "run1"]
    assert found.arms[-1].kind == "not comparable"
    assert found.arms[-1].shared is None
    assert "run1 is not compared: " in comparison_lines(found, "given")
    assert comparison_rows(found)[-1][2:7] == ("-",) * 5
    assert comparison_json(found)["arms"][2]["kind"] == "not comparable"


def test_without_any_ceiling_there_is_nothing_to_compare():
    with pytest.raises(FitError, match="none of the 2 runs has a ceiling"):
        _compare(SHORT, SHORT)


def test_an_evaluation_that_was_set_aside_moves_no_shared_fit():
    broken = BASE.pass_rate.copy()
    broken[16] = 0.0
    failed = points(X, broken, BASE.standard_error, unit="hours")
    found = _compare(failed, LOW)
    assert found.arms[0].forecast.outliers == (8.0,)
    good = _compare(BASE, LOW).arms[0].shared
    assert (found.arms[0].shared.b, found.arms[0].shared.c_mid) == pytest.approx((good.b, good.c_mid), rel=0.03)


def test_ten_thousand_points_are_compared_as_few():
    x = np.linspace(0.0, 16.0, 10_000)
    share = x**2 / (x**2 + 4.0)
    y = 0.3 + 0.3 * share + np.random.default_rng(0).normal(0.0, 0.02, 10_000)
    found = _compare(points(x, y, np.full(10_000, 0.02), unit="hours"), BASE)
    assert (found.arms[0].shared.b, found.arms[0].shared.c_mid) == pytest.approx((2.0, 2.0), rel=0.05)


def test_runs_that_equal_each_other_and_not_the_first_share_their_own_ceiling():
    high, higher = _run(0.7, 2.0, 2.0), _run(0.71, 1.5, 2.0)
    found = _compare(BASE, higher, high, LOW, margin=0.02)
    shared = {arm.name: arm.shared.ceiling for arm in found.arms}
    assert shared["run1"] == shared["run2"] == pytest.approx(0.705, abs=0.01)
    assert shared["run0"] == pytest.approx(0.6, abs=0.01)
    assert [arm.name for arm in found.arms] == ["run2", "run1", "run0", "run3"]  # of the equal two the steeper first
    assert not found.same_ceiling


def test_a_shared_fit_by_hand():
    # A = .6 given, R0 = .2, C_mid = 10, B = 1: shares of 1/4, 1/2, 3/4 and .9 at 10/3, 10, 30 and 90
    curve = points([10 / 3, 10.0, 30.0, 90.0], [0.3, 0.4, 0.5, 0.56])
    found = fit_shared(curve, 0.6)
    assert (found.b, found.c_mid, found.r0) == pytest.approx((1.0, 10.0, 0.2), rel=0.03)


def test_linearised_points_lie_on_the_line_by_hand():
    curve = points([0.0, 10 / 3, 10.0, 30.0, 90.0], [0.2, 0.3, 0.4, 0.5, 0.7])
    compute, odds = linearised(curve, 0.6, 0.2)
    assert compute.tolist() == pytest.approx([10 / 3, 10.0, 30.0])  # the start and what is above A have no odds
    assert odds.tolist() == pytest.approx([1 / 3, 1.0, 3.0])  # C / C_mid to the power of B = 1


def test_the_margin_is_four_thirds_of_the_largest_deviation():
    made = [_with_ceiling(each) for each in (0.600, 0.615, 0.585)]
    assert margin_of(made) == pytest.approx(0.02)  # the paper's three runs differ by up to .015
    with pytest.raises(FitError, match="1 of 2 replicates"):
        margin_of([made[0], replace(made[1], verdict="NotIdentified")])


def test_without_replicates_the_margin_is_what_the_intervals_allow():
    wide = [replace(_with_ceiling(0.6), ceiling_low=0.6 - half, ceiling_high=0.6 + half) for half in (0.02, 0.03, 0.05)]
    assert estimate_margin(wide) == pytest.approx(2**0.5 * 0.03)  # two equal runs, each off by up to .03
    assert estimate_margin(wide[:1]) == pytest.approx(2**0.5 * 0.02)
    narrow = [replace(each, ceiling_low=0.599, ceiling_high=0.601) for each in wide]
    assert estimate_margin(narrow) == 0.02  # seeds differ by more
    assert estimate_margin([replace(wide[2], verdict="NotIdentified")]) == 0.02


def _with_ceiling(ceiling):
    return Forecast("Identified", "", "sigmoid", 20, 0.0, "hours", ceiling=ceiling)
