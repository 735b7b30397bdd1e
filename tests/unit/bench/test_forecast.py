"""The measurements behind docs/forecast.md: rival stop rules replayed by hand, and shares with their errors."""

import importlib
from dataclasses import replace

import numpy as np
import pytest

from scalerl_operator.forecast import Forecast, points

MODULES = ("stop_replay", "held_back", "simulated_curves")


@pytest.fixture(scope="module")
def bench():
    return {name: importlib.import_module(name) for name in MODULES}


@pytest.fixture(scope="module")
def stops(bench):
    return bench["stop_replay"]


def _run(stops, values):
    return stops.Run(points(np.arange(1.0, len(values) + 1), values), np.array(values))


def _flat(stops, *levels, size=9):
    return [_run(stops, [level] * size) for level in levels]


def test_the_median_rule_ends_runs_below_the_others_averages(stops):
    group = _flat(stops, 0.5, 0.4, 0.3)
    made = [[(4, None)]] * 3
    assert stops._median_rule(group, made) == [None, None, 4]  # .3 < (.5 + .4) / 2; .4 is not below (.5 + .3) / 2


def test_halving_keeps_a_third_at_each_rung(stops):
    group = _flat(stops, *(0.1 * i for i in range(1, 10)))
    found = stops._asha(group, [])
    assert found == [0] * 6 + [2, 2, None]  # rungs at a ninth and a third of nine evaluations: 9, 3, 1 runs


def test_patience_ends_a_run_five_evaluations_after_its_best(stops):
    group = [_run(stops, [0.1, 0.2, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.9]), *_flat(stops, 0.5)]
    made = [[(2, None)], [(6, None)]]
    assert stops._patience(group, made) == [7, 6]  # the other is flat from the start, but not asked before its 7th


def test_the_saving_and_the_error_of_a_stop(stops):
    group = [_run(stops, [0.1, 0.2, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.9]), *_flat(stops, 0.5)]
    patience = stops._outcome("patience", [group], [[7, 6]])
    assert (patience.runs, patience.stopped, patience.wrong) == (2, 2, 1)  # the first would have gained .6
    assert patience.saved == pytest.approx((1 / 9 + 2 / 9) / 2)
    selection = stops._outcome("ASHA", [group], [[None, 6]])
    assert (selection.stopped, selection.wrong) == (1, 0)  # .5 is not among the best, .9
    assert stops._outcome("ASHA", [group], [[0, None]]).wrong == 1


def test_no_wrong_stop_in_96_may_still_be_three_in_a_hundred(stops):
    assert stops.Outcome("ASHA", 96, 20, 0, 0.1).wrong_at_most == pytest.approx(1.0 - 0.05 ** (1 / 96))
    assert stops.Outcome("ASHA", 2, 2, 2, 0.1).wrong_at_most == 1.0


def test_a_share_comes_with_its_error(bench):
    held_back, curves = bench["held_back"], bench["simulated_curves"]
    truth = curves.Truth(points([1.0], [0.5]), 0.6, lambda x: x, 1.0)
    known = Forecast("Weak", "", "sigmoid", 8, 0.0, "h", ceiling=0.6, ceiling_high=0.7)
    found = [held_back.Assessment(truth, replace(known, ceiling_low=low)) for low in (0.5, 0.5, 0.5, 0.65)]
    assert held_back.share_inside(found) == "75% ± 22% of 4"  # sqrt(.75 * .25 / 4)


def test_stated_errors_may_be_wrong(bench):
    curves = bench["simulated_curves"]
    made = {
        stated: curves.simulate(curves.Scenario("sigmoid", stated=stated), np.random.default_rng(0))
        for stated in (1.0, 0.5, None)
    }
    assert made[0.5].points.standard_error == pytest.approx(0.5 * made[1.0].points.standard_error)
    assert made[None].points.standard_error is None
    assert made[None].points.pass_rate.tolist() == made[1.0].points.pass_rate.tolist()
    assert curves.Scenario("sigmoid", stated=0.5).name == "sigmoid, errors stated 0.5 times as large"
