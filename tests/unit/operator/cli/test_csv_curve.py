"""Learning curves from CSV text: parsing, errors, and the rows of a forecast."""

import pytest

from scalerl_operator.cli.csv_curve import parse_curve, parse_entropy
from scalerl_operator.cli.options import Columns
from scalerl_operator.forecast import FitError, Forecast, Rival
from scalerl_operator.render.fit_tables import assess_held_back, forecast_rows, intervals_80, rival_rows

COLUMNS = Columns("hours", "rate", "error")
KNOWN = {"draws": ((0.8, 1.0, 1.0, 0.2),), "ceiling": 0.8, "ceiling_low": 0.75, "ceiling_high": 0.85}


def forecast(**values: object) -> Forecast:
    given = {"verdict": "Weak", "reason": "it is wide", "law": "sigmoid", "points": 7, "burn_in": 0.0, "unit": "hours"}
    return Forecast(**{**given, **values})


def test_rows_are_sorted_and_rows_without_a_value_are_skipped() -> None:
    text = "# a comment\nrate,other,hours,error\n0.5,x,2,0.02\n\n,x,3,0.02\n0.3,,1,0.03\n0.6,x,,0.02\n0.1,x,0,0\n"
    found = parse_curve(text, COLUMNS, "curve.csv")
    assert found.compute.tolist() == [0.0, 1.0, 2.0]
    assert found.pass_rate.tolist() == [0.1, 0.3, 0.5]
    assert found.standard_error is not None
    assert found.standard_error.tolist() == [0.0, 0.03, 0.02]
    assert found.unit == "hours"


def test_errors_are_binomial_over_the_completions() -> None:
    found = parse_curve("hours,rate\n1,0.5\n2,1\n", Columns("hours", "rate", completions=98), "curve.csv")
    assert found.standard_error is not None
    # one success and one failure more: 50 of 100, and 99 of 100; sqrt(p (1 - p) / 98)
    assert found.standard_error.tolist() == pytest.approx([(0.25 / 98) ** 0.5, (0.0099 / 98) ** 0.5])


def test_without_an_error_column_there_is_no_standard_error() -> None:
    found = parse_curve("hours,rate\n1,0.5\n", Columns("hours", "rate"), "curve.csv")
    assert found.standard_error is None


BAD_ROWS = [
    ("", "curve.csv: no column 'hours'; the header has nothing", "empty file"),
    ("step,rate,error\n", "no column 'hours'; the header has step, rate, error", "the header names what there is"),
    ("hours,rate,error\n1,0.5,0\n2,abc,0\n", "line 3, column rate: 'abc' is not a number", "text"),
    ("hours,rate,error\n1,nan,0\n", "line 2, column rate: 'nan' is not finite", "not a number"),
    ("hours,rate,error\n1,0.5,\n", "line 2, column error: '' is not a number", "an error is missing"),
    ("hours,rate,error\n-1,0.5,0\n", "line 2, column hours: -1; compute is at least 0", "negative compute"),
    ("hours,rate,error\n1,55,0\n", "line 2, column rate: 55; a pass rate is in [0, 1], not in percent", "percent"),
    ("hours,rate,error\n1,0.5,-0.1\n", "line 2, column error: -0.1; a standard error is at least 0", "negative error"),
    ("hours,rate,error\n1,0.5,0\n1,0.6,0\n", "lines 2 and 3, column hours: 1 appears twice", "the same compute twice"),
    (
        "# a\n\nhours,rate,error\n# b\n1,0.5,0\n\n2,7,0\n",
        "line 7, column rate: 7;",
        "skipped lines count",
    ),
    ("hours,rate,error\n3,0.5,0\n1,,0\n\n2,0.4,0\n3,0.6,0\n", "lines 2 and 6, column hours: 3", "twice, far apart"),
    ('hours,rate,error,note\n1,0.5,0,"a\nb"\n2,7,0,c\n', "line 4, column rate: 7;", "a note over two lines"),
    ("hours,rate,error\r\n1,0.5,0\r\n2,7,0\r\n", "line 3, column rate: 7;", "lines end as on Windows"),
]


@pytest.mark.parametrize(("text", "message"), [r[:2] for r in BAD_ROWS], ids=[r[2] for r in BAD_ROWS])
def test_a_bad_file_is_refused_by_line_and_column(text: str, message: str) -> None:
    with pytest.raises(FitError) as caught:
        parse_curve(text, COLUMNS, "curve.csv")
    assert message in str(caught.value)


BAD_ENTROPY = [
    ("x,h\n1,2.5\n# left out\n2,-0.5\n", "run.csv: line 4, column h: -0.5; an entropy is at least 0"),
    ("x,h\n1,2.5\n2,inf\n", "run.csv: line 3, column h: 'inf' is not finite"),
    ("x,h\n-1,2.5\n", "run.csv: line 2, column x: -1; compute is at least 0"),
    ("x,h\n1,2.5\n1,2\n", "run.csv: lines 2 and 3, column x: 1 appears twice"),
]


@pytest.mark.parametrize(("text", "message"), BAD_ENTROPY)
def test_a_bad_entropy_is_refused_by_line_and_column(text: str, message: str) -> None:
    with pytest.raises(FitError) as caught:
        parse_entropy(text, Columns("x", "h"), "run.csv")
    assert message in str(caught.value)


def test_entropy_may_be_above_one_and_is_sorted() -> None:
    x, entropy = parse_entropy("x,h\n4,0.5\n3,\n2,2.5\n", Columns("x", "h"), "run.csv")
    assert (list(x), list(entropy)) == ([2.0, 4.0], [2.5, 0.5])


def test_the_error_on_held_back_points_is_by_distance_and_band() -> None:
    curve = parse_curve("hours,rate\n1,0.5\n2,0.65\n4,0.66\n", Columns("hours", "rate"), "curve.csv")
    # One draw: 0.2 + 0.6 x / (1 + x) is 0.6 at 2 and 0.68 at 4, so the distances are 0.05 and 0.02; 1.645 * .02 = .033.
    found = assess_held_back(forecast(**KNOWN, sigma=0.02), curve, 1.0)
    assert found is not None
    assert (found.points, found.inside) == (2, 1)
    assert found.mean_error == pytest.approx(0.035)
    assert assess_held_back(forecast(**KNOWN), curve, 4.0) is None, "nothing was held back"
    assert assess_held_back(forecast(), curve, 1.0) is None, "there is no curve"


def test_an_unknown_value_has_no_row() -> None:
    assert [label for label, _ in forecast_rows(forecast())] == ["verdict", "reason", "points"]


def test_numbers_have_their_interval_and_unit() -> None:
    found = forecast(**KNOWN, c_mid=12.34567, budget=40.0, predicted_at_budget=0.7, low=0.6, target=0.7, burn_in=1.5)
    rows = dict(forecast_rows(found))
    assert rows["ceiling A"] == "0.8 [0.75, 0.85]; 80 %: [0.8, 0.8]"
    assert rows["midpoint C_mid"] == "12.35 hours; 80 %: [1, 1]"
    assert rows["at 40 hours"] == "0.7 [0.6, ?]; 80 %: [0.7854, 0.7854]"  # .2 + .6 * 40/41
    assert rows["reaches 0.7 at"] == "not in most of the curves that fit"
    assert rows["left out before"] == "1.5 hours"


def test_the_sigmoid_is_the_first_law() -> None:
    rival = Rival(name="power", parameters=(), ceiling=0.9, rmse=0.0213, backtest_error=0.05, weight=0.25)
    plateau = Rival(name="plateau", parameters=(), ceiling=0.7, rmse=0.01, backtest_error=None)
    found = forecast(**KNOWN, rmse=0.01, weight=0.75, rivals=(rival, plateau))
    assert rival_rows(found) == [
        ("sigmoid", "0.750", "0.8000", "0.0100", "-"),
        ("power", "0.250", "0.9000", "0.0213", "0.0500"),
        ("plateau", "-", "0.7000", "0.0100", "-"),
    ]


def test_intervals_of_80_percent_by_hand() -> None:
    """Ten draws of A, B and C_mid, equally likely: a tenth lies below the interval and a tenth above it.

    B and C_mid are nodes of a grid: the tenth ends half-way, in logs, between the first node and the second.
    """
    draws = tuple((0.5 + 0.01 * i, 1.0 + 0.1 * i, 10.0 + i, 0.2) for i in range(10))
    found = intervals_80(forecast(draws=draws, budget=1e12))
    assert found["ceiling"] == pytest.approx((0.5, 0.58))
    assert found["predicted_at_budget"] == pytest.approx((0.5, 0.58))
    assert found["b"] == pytest.approx((1.1**0.5, (1.8 * 1.9) ** 0.5))
    assert found["c_mid"] == pytest.approx((110.0**0.5, (18.0 * 19.0) ** 0.5))
    assert intervals_80(forecast()) == {}, "there is no curve"
    assert "predicted_at_budget" not in intervals_80(forecast(draws=draws))


def test_known_gains_have_rows() -> None:
    gains = {"gain_left": 0.02, "gain_left_low": 0.01, "gain_left_high": 0.03, "marginal_gain": 0.001}
    rows = dict(forecast_rows(forecast(**KNOWN, budget=40.0, **gains)))
    assert rows["gain left to 40 hours"] == "0.02 [0.01, 0.03]"
    assert rows["gain per unit now"] == "0.001 per hours"
    rows = dict(forecast_rows(forecast(**KNOWN, marginal_gain=0.001)))
    assert rows["gain per unit now"] == "0.001 per hours", "also without a budget"
