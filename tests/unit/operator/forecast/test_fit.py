"""The whole forecast: numbers that can be worked out by hand, verdicts on simulated runs, bad input, the reference."""

import dataclasses
import importlib.util
import json
import math

import numpy as np
import pytest

from scalerl_operator.forecast import FitError, Forecast, curve_band, fit_forecast, from_json, points, to_json

# A = .6, R0 = .2, C_mid = 10, B = 1: the share of the gain at C is C / (C + 10).
HAND_COMPUTE = [0.0, 10 / 9, 10 / 3, 10.0, 30.0, 90.0, 190.0, 390.0, 590.0]
HAND_SHARE = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 59 / 60]
HAND = points(HAND_COMPUTE, [0.2 + 0.4 * share for share in HAND_SHARE])


def _curve(ratio, n, *, a=0.645, b=1.7, c_mid=8000.0, r0=0.30, sd=0.005, seed=0, start=0.0):
    """n points of a sigmoid up to ratio * c_mid, with normal noise."""
    x = np.linspace(start, 1.0, n) * ratio * c_mid
    share = np.array([1 / (1 + (c_mid / c) ** b) if c else 0.0 for c in x])
    y = r0 + (a - r0) * share + np.random.default_rng(seed).normal(0.0, sd, n)
    return points(x, np.clip(y, 0.0, 1.0), np.full(n, sd))


@pytest.fixture(scope="module")
def bench():
    return importlib.import_module("bench_fit")


def test_noiseless_points_recover_their_parameters():
    found = fit_forecast(HAND, budget=990.0, target=0.5)
    assert found.verdict == "Identified"
    assert found.ceiling == pytest.approx(0.6, abs=0.003)
    assert (found.c_mid, found.b, found.r0) == pytest.approx((10.0, 1.0, 0.2), rel=0.02)
    assert found.predicted_at_budget == pytest.approx(0.2 + 0.4 * 0.99, abs=0.003)
    assert found.gain_left == pytest.approx(0.4 * (0.99 - 59 / 60), abs=0.001)
    assert found.target_compute == pytest.approx(30.0, rel=0.02)
    assert (found.points, found.burn_in, found.last_compute, found.budget) == (9, 0.0, 590.0, 990.0)
    assert found.rmse < 0.002


def test_a_steeper_curve_recovers_its_parameters():
    # B = 2: the share at C is C^2 / (C^2 + 100)
    x = [0.0, 2.5, 10 / 3, 5.0, 10.0, 20.0, 30.0, 70.0, 130.0]
    share = [0.0, 1 / 17, 0.1, 0.2, 0.5, 0.8, 0.9, 0.98, 169 / 170]
    found = fit_forecast(points(x, [0.2 + 0.4 * each for each in share]), budget=990.0, target=0.52)
    assert found.ceiling == pytest.approx(0.6, abs=0.003)
    assert (found.c_mid, found.b) == pytest.approx((10.0, 2.0), rel=0.03)
    assert found.target_compute == pytest.approx(20.0, rel=0.02)  # .52 is four fifths of the gain


def test_intervals_hold_their_value_and_are_ordered():
    found = fit_forecast(_curve(4, 25, sd=0.02), budget=64_000.0, target=0.6)
    for name, low, high in (
        ("ceiling", "ceiling_low", "ceiling_high"),
        ("c_mid", "c_mid_low", "c_mid_high"),
        ("b", "b_low", "b_high"),
        ("predicted_at_budget", "low", "high"),
        ("gain_left", "gain_left_low", "gain_left_high"),
        ("target_compute", "target_low", "target_high"),
    ):
        assert getattr(found, low) < getattr(found, name) < getattr(found, high)
    assert found.gain_left_low >= 0.0
    assert found.marginal_gain_low < found.marginal_gain < found.marginal_gain_high


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e12])
def test_the_unit_of_compute_changes_nothing_but_computes(scale):
    plain = _curve(4, 25, sd=0.01)
    scaled = points(plain.compute * scale, plain.pass_rate, plain.standard_error)
    one, two = (
        fit_forecast(plain, budget=50_000.0, target=0.6),
        fit_forecast(scaled, budget=50_000.0 * scale, target=0.6),
    )
    assert one.verdict == two.verdict
    for name in ("ceiling", "ceiling_low", "ceiling_high", "b", "r0", "sigma", "predicted_at_budget", "gain_left_high"):
        assert getattr(two, name) == pytest.approx(getattr(one, name), rel=1e-5)
    for name in ("c_mid", "c_mid_high", "target_compute"):
        assert getattr(two, name) == pytest.approx(getattr(one, name) * scale, rel=1e-5)


WINDOWS = [
    (6.25, "Identified", 0.004, 0.03, "the paper's 50k window, far past the bend"),
    (2.0, "Weak", 0.03, 0.12, "a window to 2 C_mid, where a logistic is as likely as one in ten"),
    (1.0, "NotIdentified", 0.15, 0.45, "a window that ends at the bend"),
    (0.5, "NotIdentified", 0.35, 0.70, "a window that ends before it"),
]


@pytest.mark.parametrize(
    ("ratio", "verdict", "narrowest", "widest"), [row[:4] for row in WINDOWS], ids=[row[4] for row in WINDOWS]
)
def test_windows_of_the_papers_curve(ratio, verdict, narrowest, widest):
    """Points that lie .005 above and below the curve in turn; the fact sheet's widths are .006, .051, .275 and .575."""
    exact = _curve(ratio, 40, sd=0.0, start=1 / 40)
    turns = 0.005 * np.where(np.arange(40) % 2, 1.0, -1.0)
    found = fit_forecast(points(exact.compute, exact.pass_rate + turns, np.full(40, 0.005)))
    assert found.verdict == verdict
    assert found.ceiling_low < 0.645 < found.ceiling_high
    assert narrowest < found.ceiling_high - found.ceiling_low < widest


REFUSALS = [
    (points([], []), "0 usable points; a fit needs at least 4", "no points"),
    (points([0, 1, 2], [0.1, 0.2, 0.3]), "3 usable points", "three points"),
    (points(range(20), [0.5] * 20), "no rise beyond the noise", "a constant run"),
    (points(range(20), [0.0] * 20, [0.0] * 20), "no rise beyond the noise", "all zero, with errors of zero"),
    (points(range(20), [1.0] * 20), "no rise beyond the noise", "all one: nothing is left to rise"),
    (points(range(20), np.linspace(0.2, 0.4, 20)), "not reached its bend", "a straight rise"),
    (
        points(range(20), [0.2 + 0.03 * i for i in range(10)] + [0.47 - 0.03 * i for i in range(10)]),
        "collapsed",
        "a collapse",
    ),
    (
        points(range(60), 0.5 + np.random.default_rng(1).normal(0.0, 0.02, 60)),
        "no rise beyond the noise",
        "noise alone",
    ),
    (points([0.0], [0.3]), "1 usable points", "the evaluation before the first step alone"),
]


@pytest.mark.parametrize(("curve", "reason"), [row[:2] for row in REFUSALS], ids=[row[2] for row in REFUSALS])
def test_a_refusal_states_its_reason(curve, reason):
    found = fit_forecast(curve)
    assert found.verdict == "NotIdentified"
    assert reason in found.reason


def test_a_refusal_without_a_curve_has_no_numbers():
    for curve in (points([0, 1, 2], [0.1, 0.2, 0.3]), REFUSALS[6][0]):
        found = fit_forecast(curve, budget=100.0, target=0.5)
        blank = {
            "verdict",
            "reason",
            "law",
            "points",
            "burn_in",
            "unit",
            "last_compute",
            "budget",
            "target",
            "outliers",
        }
        for field in dataclasses.fields(found):
            if field.name not in blank:
                assert getattr(found, field.name) in (None, ())
        with pytest.raises(FitError, match="has no curve: .*(usable|collapsed)"):
            curve_band(found, [1.0])


def test_four_points_have_a_curve_and_three_have_none():
    four = points(HAND.compute[::2][:4], HAND.pass_rate[::2][:4])
    assert fit_forecast(four).draws
    assert "needs at least 4" in fit_forecast(points(four.compute[:3], four.pass_rate[:3])).reason


def test_seven_points_are_at_most_weak():
    assert fit_forecast(points(HAND.compute[:7], HAND.pass_rate[:7])).verdict != "Identified"


def test_good_noisy_runs_are_identified_and_their_intervals_cover():
    """Runs as `make demo` makes them: 30 points of sd .016, a rise from .1 to .7, five times past the midpoint."""
    found = [fit_forecast(_curve(5, 30, a=0.75, r0=0.1, sd=0.016, seed=seed)) for seed in range(40)]
    assert sum(each.verdict == "Identified" for each in found) >= 24
    covered = sum(each.ceiling_low <= 0.75 <= each.ceiling_high for each in found)
    assert covered >= 31  # of 40 at 90 %: fewer has a chance of 1 in 100


def test_noise_is_estimated_without_standard_errors():
    plain = _curve(5, 60, sd=0.02, seed=4)
    found = fit_forecast(points(plain.compute, plain.pass_rate))
    assert found.sigma == pytest.approx(0.02, rel=0.25)  # 60 points know it to 9 %


def test_errors_that_are_stated_too_small_are_overruled_by_the_residuals():
    plain = _curve(5, 60, sd=0.02, seed=4)
    boast = fit_forecast(points(plain.compute, plain.pass_rate, np.full(60, 0.002)))
    honest = fit_forecast(plain)
    assert boast.sigma == pytest.approx(0.02, rel=0.25)
    assert boast.ceiling_high - boast.ceiling_low > 0.8 * (honest.ceiling_high - honest.ceiling_low)


def test_the_start_anchors_r0():
    with_start = fit_forecast(
        points([0.0, 4, 8, 16, 32, 64, 128, 256], [0.2, 0.31, 0.38, 0.45, 0.50, 0.55, 0.57, 0.59])
    )
    without = fit_forecast(points([4, 8, 16, 32, 64, 128, 256], [0.31, 0.38, 0.45, 0.50, 0.55, 0.57, 0.59]))
    spread = [np.ptp(np.quantile([draw[3] for draw in each.draws], [0.05, 0.95])) for each in (with_start, without)]
    assert with_start.r0 == pytest.approx(0.2, abs=0.02)
    assert spread[0] < 0.5 * spread[1]


def test_every_law_begins_at_a_known_start():
    """Points past the midpoint alone say little of R0 and so of B; with R0 given, they recover the curve."""
    x = np.linspace(10.0, 60.0, 20)
    turns = 0.004 * np.where(np.arange(20) % 2, 1.0, -1.0)
    late = points(x, 0.2 + 0.4 * x / (x + 10.0) + turns, np.full(20, 0.004))
    free, anchored = fit_forecast(late), fit_forecast(late, r0=0.2)
    starts = [
        draw[3] for each in (anchored, *(rival for rival in anchored.rivals if rival.draws)) for draw in each.draws
    ]
    assert starts == pytest.approx([0.2] * len(starts), abs=0.002)
    assert (anchored.r0, anchored.b, anchored.c_mid) == pytest.approx((0.2, 1.0, 10.0), rel=0.15)
    assert anchored.b_high - anchored.b_low < free.b_high - free.b_low
    assert anchored.ceiling_low < 0.6 < anchored.ceiling_high
    wrong = fit_forecast(late, r0=0.45)
    assert wrong.r0 == pytest.approx(0.45, abs=0.002)  # the points contradict it, and it is kept all the same
    assert wrong.rmse > 1.3 * anchored.rmse


def test_a_known_start_does_not_hide_the_noise():
    plain = _curve(5, 60, sd=0.02, seed=4)
    assert fit_forecast(plain, r0=0.30).sigma == pytest.approx(fit_forecast(plain).sigma, rel=0.05)


def test_points_before_a_given_burn_in_are_left_out():
    odd = points(HAND.compute, [0.9, 0.9, *HAND.pass_rate[2:]])
    found = fit_forecast(odd, burn_in=2.0)
    assert (found.points, found.burn_in) == (7, 2.0)
    assert found.ceiling == pytest.approx(0.6, abs=0.02)


def test_the_rule_drops_a_start_that_contradicts_the_rest():
    plain = _curve(5, 40, sd=0.005)
    y = plain.pass_rate.copy()
    y[:3] = [0.05, 0.6, 0.55]
    found = fit_forecast(points(plain.compute, y, plain.standard_error))
    assert found.burn_in == plain.compute[3]
    assert found.points == 37
    assert fit_forecast(plain).burn_in == 0.0


def test_a_target_above_the_ceiling_is_never_reached():
    found = fit_forecast(HAND, target=0.7)
    assert (found.target, found.target_compute, found.target_low, found.target_high) == (0.7, None, None, None)
    assert fit_forecast(HAND, target=0.1).target_compute == 0.0  # the run began above it


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("budget", 0.0),
        ("budget", math.inf),
        ("target", 1.1),
        ("target", -0.1),
        ("burn_in", -1.0),
        ("burn_in", math.nan),
        ("r0", -0.1),
        ("r0", 1.1),
    ],
)
def test_an_impossible_question_is_an_error(name, value):
    with pytest.raises(FitError, match=f"{name} is {value:g}; need"):
        fit_forecast(HAND, **{name: value})


def _with_draws(*draws):
    return Forecast("Weak", "", "sigmoid", 8, 0.0, "GPU-h", draws=draws)


def test_curve_band_by_hand():
    steep, _, _ = curve_band(_with_draws((0.6, 2.0, 10.0, 0.2)), [20.0])
    assert steep == pytest.approx([0.52])
    one = _with_draws((0.6, 1.0, 10.0, 0.2))
    mean, low, high = curve_band(one, [0.0, 10.0, 30.0, 1e15])
    assert mean == pytest.approx([0.2, 0.4, 0.5, 0.6])
    assert low.tolist() == high.tolist() == mean.tolist()
    many = _with_draws(*((0.5 + 0.01 * i, 1.0, 10.0, 0.2) for i in range(21)))  # A from .5 to .7
    mean, low, high = curve_band(many, [1e15])
    assert (mean[0], low[0], high[0]) == pytest.approx((0.6, 0.51, 0.69))  # 5 % and 95 % of 21 values: 2nd and 20th


def test_the_band_equals_the_fields():
    found = fit_forecast(_curve(4, 25, sd=0.02), budget=64_000.0)
    mean, low, high = curve_band(found, [64_000, 10**12])
    assert (mean[0], low[0], high[0]) == pytest.approx((found.predicted_at_budget, found.low, found.high), abs=1e-9)
    # Far out the curve is at its ceiling, and the run may have left it by two doublings' drift.
    for end, edge in ((found.ceiling_low, low[1]), (found.ceiling_high, high[1])):
        law = abs(end - found.ceiling)
        assert abs(edge - found.ceiling) == pytest.approx(math.hypot(law, 1.6449 * 2 * found.drift), abs=1e-3)
    assert found.drift == pytest.approx(0.04 * (0.645 - 0.30) * 4**1.7 / (1 + 4**1.7), rel=0.1)


def test_json_round_trips_a_forecast():
    for curve in (_curve(4, 25, sd=0.02), points([0, 1], [0.1, 0.2]), REFUSALS[6][0]):
        found = fit_forecast(curve, budget=64_000.0, target=0.6)
        assert from_json(json.loads(json.dumps(to_json(found)))) == found


def test_json_of_something_else_is_an_error():
    with pytest.raises(
        FitError, match=r"missing \['verdict', 'reason', 'rivals', 'draws', 'outliers'\], unknown \['a'\]"
    ):
        from_json({"a": 1})


def test_the_rival_that_made_the_points_gets_its_weight_unless_the_user_chose_the_law():
    x = np.linspace(0, 1, 40)
    rise = points(x, 0.1 + 0.5 / (1 + np.exp(-(x - 0.5) / 0.1)), np.full(40, 0.003))
    auto, alone = fit_forecast(rise), fit_forecast(rise, law="sigmoid")
    assert (auto.law, alone.law) == ("logistic", "sigmoid")
    assert auto.ceiling == pytest.approx(0.6, abs=0.004)  # .1 + .5
    assert auto.ceiling_low < 0.6 < auto.ceiling_high < alone.ceiling_low
    assert "the logistic describes it best" in auto.reason
    assert [rival.ceiling for rival in auto.rivals] == [rival.ceiling for rival in alone.rivals]
    assert [rival.name for rival in auto.rivals] == ["power law", "exponential", "logistic", "plateau"]
    assert auto.rivals[2].ceiling == pytest.approx(0.6, abs=0.003)


def test_the_papers_grid_agrees_on_the_papers_curve(bench):
    curve = bench.paper_points(seed=3)
    grid = bench.paper_grid_fit(
        curve.compute,
        curve.pass_rate,
        0.40,
        a_grid=np.linspace(0.620, 0.670, 11),
        c_mid_grid=np.linspace(8000.0, 14_000.0, 16),
    )
    found = fit_forecast(curve)
    assert grid.calls == 11 * 16
    assert found.ceiling == pytest.approx(grid.a, abs=0.006)  # the paper's own step is .005
    assert found.c_mid == pytest.approx(grid.c_mid, rel=0.06)
    assert found.b == pytest.approx(grid.b, rel=0.08)


def test_the_reference_finds_a_curve_that_stands_on_its_grid(bench):
    compute = np.array([1000.0, 5000.0, 10_000.0, 20_000.0, 40_000.0, 80_000.0])
    share = compute**2 / (compute**2 + 10_000.0**2)
    grid = bench.paper_grid_fit(
        compute, 0.4 + 0.2 * share, 0.4, a_grid=np.array([0.55, 0.60, 0.65]), c_mid_grid=np.array([5e3, 1e4, 2e4])
    )
    assert (grid.a, grid.c_mid, grid.b) == pytest.approx((0.60, 10_000.0, 2.0), rel=1e-4)
