"""Verdicts on forecasts that the test sets, and declines."""

import re
from dataclasses import replace

import numpy as np
import pytest

from scalerl_operator.forecast import Forecast, Rival, points
from scalerl_operator.forecast.verdict import find_decline, judge

GOOD = Forecast(
    "NotIdentified",
    "",
    "sigmoid",
    points=25,
    burn_in=0.0,
    unit="GPU-h",
    last_compute=2400.0,
    sigma=0.01,
    ceiling=0.65,
    ceiling_low=0.62,
    ceiling_high=0.68,
    c_mid=800.0,
    c_mid_low=700.0,
    c_mid_high=900.0,
    r0=0.30,
    backtest_error=0.040,
)


def _rival(ceiling, error, weight=0.2):
    return (Rival("power law", (), ceiling, 0.01, error, weight),)


ROWS = [
    ({}, 100.0, "Identified", r"3\.0 times .* in \[0\.620, 0\.680\]", "far past the bend and narrow"),
    ({}, 15.0, "NotIdentified", r"no rise beyond the noise \(sd 0\.010\) in 25 points", "nothing has risen yet"),
    (
        {"c_mid": 2401.0},
        100.0,
        "NotIdentified",
        "not reached its bend.*needs evals up to about 4,802 GPU-h",
        "short of it",
    ),
    ({"ceiling_high": 0.821}, 100.0, "NotIdentified", r"anywhere in \[0\.620, 0\.821\]", "interval above .20"),
    (
        {"ceiling_high": 0.821, "c_mid": 1900.0},
        100.0,
        "NotIdentified",
        "needs evals up to about 3,800 GPU-h$",
        "a longer run would settle it: twice the midpoint",
    ),
    ({"ceiling_high": 0.819}, 100.0, "Weak", r"only known to be in.*3,600 GPU-h, or with less", "below .20, above .10"),
    ({"ceiling_high": 0.721}, 100.0, "Weak", "only known", "just above .10"),
    ({"ceiling_high": 0.719}, 100.0, "Identified", "times as far", "just below .10"),
    ({"r0": 0.54}, 100.0, "Weak", "wide against the gain of 0.110", "an interval of .06 on a gain of .11"),
    ({"c_mid_high": 2401.0}, 100.0, "Weak", "midpoint may lie past the last point", "the bend may be ahead"),
    ({"points": 7}, 100.0, "Weak", "7 points cannot check the law; needs at least 8", "too few to check"),
    (
        {"rivals": _rival(0.9, 0.029)},
        100.0,
        "Weak",
        "power law forecast.*0.029.*0.900, outside",
        "a better rival elsewhere",
    ),
    ({"rivals": _rival(0.9, 0.16), "backtest_error": 0.2}, 100.0, "Identified", "", "better, but not by a quarter"),
    ({"rivals": _rival(0.9, 0.029, 0.009)}, 100.0, "Identified", "", "better, but the points themselves rule it out"),
    ({"rivals": _rival(0.66, 0.001)}, 100.0, "Identified", "", "better, but it agrees on the ceiling"),
    ({"rivals": _rival(0.9, 0.004), "backtest_error": 0.013}, 100.0, "Identified", "", "better by less than the noise"),
    ({"rivals": _rival(0.9, None)}, 100.0, "Identified", "", "no back-test, no vote"),
    ({"rivals": _rival(0.9, 0.01), "backtest_error": None}, 100.0, "Identified", "", "nothing to compare with"),
]


@pytest.mark.parametrize(("change", "rise", "verdict", "reason"), [r[:-1] for r in ROWS], ids=[r[-1] for r in ROWS])
def test_verdict(change, rise, verdict, reason):
    found, sentence = judge(replace(GOOD, **change), rise=rise, contested=True)
    assert found == verdict
    assert re.search(reason, sentence)


def test_rivals_do_not_count_where_the_user_chose_the_law():
    assert judge(replace(GOOD, rivals=_rival(0.9, 0.001)), rise=100.0, contested=False)[0] == "Identified"


def test_small_computes_are_written_as_they_are():
    change = {"last_compute": 0.0024, "c_mid": 0.003, "unit": "device-h"}
    assert "needs evals up to about 0.006 device-h" in judge(replace(GOOD, **change), rise=100.0, contested=True)[1]


DECLINES = [
    (
        [0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5, 0.4, 0.35, 0.3, 0.25, 0.2],
        None,
        "collapsed from 0.500 .* to 0.225",
        "collapse",
    ),
    (
        [0.1, 0.3, 0.5, 0.6, 0.7, 0.7, 0.7, 0.65, 0.6, 0.6],
        None,
        "declined from 0.700 .* to 0.600",
        "by a sixth of the gain",
    ),
    ([0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5, 0.49, 0.49, 0.49], None, None, "less than .02 is no decline"),
    ([0.1, 0.3, 0.5, 0.6, 0.7, 0.7, 0.7, 0.65, 0.6, 0.6], 0.06, None, "evaluations of sd .06 may fall by .1"),
    ([0.2, 0.5, 0.3, 0.6, 0.4, 0.6, 0.3, 0.5, 0.3, 0.4], None, None, "points that jump about like this say nothing"),
    ([0.2, 0.4, 0.5, 0.55, 0.6, 0.6, 0.6, 0.2, 0.6, 0.6], None, None, "one bad evaluation is not a decline"),
    ([0.9, 0.1, 0.1], None, None, "too short to say"),
]


@pytest.mark.parametrize(("y", "error", "sentence"), [r[:-1] for r in DECLINES], ids=[r[-1] for r in DECLINES])
def test_decline(y, error, sentence):
    errors = None if error is None else np.full(len(y), 2 * error)  # half of a stated error is certain
    found = find_decline(points(np.arange(len(y)) * 10.0, y, errors))
    assert (found is None) == (sentence is None)
    if sentence is not None:
        assert re.search(sentence, found)


def test_a_decline_names_the_best_point():
    y = [0.1, 0.3, 0.5, 0.6, 0.7, 0.7, 0.65, 0.6, 0.6, 0.6]
    assert "near 50 GPU-h" in find_decline(points(np.arange(10) * 10.0, y))
