"""CSV in, rows for a person out."""

import pytest

from scalerl_operator.forecast import Columns, FitError, fit_forecast, forecast_rows, parse_csv, points


def test_columns_are_found_by_their_usual_names():
    curve = parse_csv("step,gpu_hours,pass_rate,note\n0,0,0.25,a\n10,1.5,0.5,b\n")
    assert (curve.compute.tolist(), curve.pass_rate.tolist()) == ([0.0, 1.5], [0.25, 0.5])
    assert (curve.standard_error, curve.unit) == (None, "GPU-h")


def test_columns_can_be_named():
    text = "step,score,err\n0,0.25,0.01\n10,0.5,0.02\n"
    curve = parse_csv(text, Columns(x="step", y="score", standard_error="err"))
    assert (curve.compute.tolist(), curve.unit) == ([0.0, 10.0], "steps")
    assert curve.standard_error is not None
    assert curve.standard_error.tolist() == [0.01, 0.02]


def test_rows_without_an_evaluation_are_skipped():
    curve = parse_csv("step,eval_acc,loss\n1,0.25,3\n2,,2\n3, ,2\n4,0.5,1\n")
    assert curve.compute.tolist() == [1.0, 4.0]


FAULTS = [
    ("gpu_hours,pass_rate\n1,0.2\n2,x\n", r"line 3, column pass_rate: 'x'; need a finite number", "not a number"),
    ("gpu_hours,pass_rate\n1,0.2\n2,nan\n", r"line 3, column pass_rate: 'nan'; need a finite", "NaN"),
    ("gpu_hours,pass_rate\n1,0.2\n,0.3\n", r"line 3, column gpu_hours: ''; need", "no compute"),
    ("gpu_hours,pass_rate\n1,20\n", r"line 2, column pass_rate: 20; need a share in \[0, 1\]; divide", "percent"),
    (
        "gpu_hours,pass_rate\n2,0.2\n\n1,0.3\n",
        r"line 4, column gpu_hours: 1, after 2; need rising",
        "unsorted, after a blank",
    ),
    ("gpu_hours,pass_rate\n-1,0.2\n", r"line 2, column gpu_hours: -1; need rising numbers of at least 0", "negative"),
    ("gpu_hours,pass_rate,se\n1,0.2,-1\n", r"line 2, standard error: -1; need at least 0", "negative error"),
    ("gpu_hours,pass_rate,se\n1,0.2\n", r"line 2, column se: None; need a finite", "a row that is too short"),
    (
        "time,pass_rate\n1,0.2\n",
        r"no usual column for x \(gpu_hours, .*has \['time', 'pass_rate'\]",
        "no compute column",
    ),
    ("gpu_hours,loss\n1,0.2\n", r"no usual column for y", "no pass rate column"),
    ("", r"no usual column for x", "an empty file"),
]


@pytest.mark.parametrize(("text", "message"), [row[:2] for row in FAULTS], ids=[row[2] for row in FAULTS])
def test_faults_name_line_and_column(text, message):
    with pytest.raises(FitError, match=message):
        parse_csv(text)


def test_a_column_that_is_asked_for_must_be_there():
    text = "gpu_hours,pass_rate\n1,0.2\n"
    for columns, name in ((Columns(x="flops"), "flops"), (Columns(y="acc"), "acc"), (Columns(standard_error="e"), "e")):
        with pytest.raises(FitError, match=f"no column '{name}'; the file has"):
            parse_csv(text, columns)


def test_a_file_without_rows_is_an_empty_curve():
    assert len(parse_csv("gpu_hours,pass_rate\n")) == 0


def test_rows_show_intervals_target_and_rivals():
    curve = points([0.0, 1, 3, 10, 30, 90, 190, 390, 590], [0.2, 0.24, 0.29, 0.4, 0.5, 0.56, 0.58, 0.59, 0.593])
    rows = dict(forecast_rows(fit_forecast(curve, budget=990.0, target=0.7)))
    assert rows["verdict"] == "Identified"
    assert rows["points used"] == "9"
    assert rows["ceiling A"].startswith(("0.59", "0.60"))
    assert rows["GPU-h to 0.7"] == "never  [never, never]"
    assert "pass rate at 990 GPU-h" in rows
    assert rows["rival: plateau"].startswith("ceiling 0.588")  # (.58 + .59 + .593) / 3


def test_rows_of_a_refusal_have_no_numbers():
    rows = dict(forecast_rows(fit_forecast(points([0, 1], [0.1, 0.2]))))
    assert set(rows) == {"verdict", "reason", "points used"}
