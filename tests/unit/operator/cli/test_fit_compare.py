"""`scalerl fit`, `compare` and `plan`: their output and files."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scalerl_api import RLRun
from scalerl_api.wire import EvalPoint
from scalerl_operator.cli.csv_curve import parse_curve
from scalerl_operator.cli.fit_compare import save_json
from scalerl_operator.cli.main import main
from scalerl_operator.cli.options import Columns
from scalerl_operator.decide.assessment import forecast_points
from scalerl_operator.forecast import (
    Comparison,
    Forecast,
    Points,
    binomial_standard_error,
    ceiling_interval,
    curve_band,
    estimate_margin,
    fit_forecast,
    forecast_entropy,
    from_json,
    points,
    shape_interval,
    try_burn_ins,
)
from scalerl_operator.forecast.compare import Arm
from scalerl_operator.render.compare_table import comparison_json, comparison_rows

HOURS = ["--x", "hours", "--y", "rate"]


@pytest.fixture
def curve(place: Path) -> Path:
    """A CSV of 0.1 + 0.5 x^2 / (16 + x^2) at 0 .. 39, whose ceiling is 0.6."""
    path = place / "curve.csv"
    path.write_text("hours,rate\n" + "".join(f"{x},{0.1 + 0.5 * x**2 / (16 + x**2):.6f}\n" for x in range(40)))
    return path


@pytest.fixture
def decay(place: Path) -> Path:
    """A CSV whose entropy, 0.05 + exp(-x / 6) nats, is another run's from 24 on; line 2 is a comment."""
    rows = [(x, 0.3 + 0.3 * x / (x + 10), 0.05 + math.exp(-x / 6) if x < 24 else 0.9) for x in range(1, 31)]
    path = place / "decay.csv"
    path.write_text("hours,rate,nats\n# a comment\n" + "".join(f"{x},{y:.4f},{h:.4f}\n" for x, y, h in rows))
    return path


def rows_of(out: str) -> dict[str, str]:
    """The (label, text) rows above the tables."""
    lines = [line.split("  ", 1) for line in out.partition("\n\n")[0].splitlines()]
    return {label: text.strip() for label, text in lines}


def load(path: Path) -> Points:
    return parse_curve(path.read_text(), Columns("hours", "rate"), "curve")


def test_fit_forecasts_a_csv(curve: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["--budget", "80", "--target", "0.55", "--picture", "fit.png", "--json", "fit.json"]
    assert main(["fit", str(curve), *HOURS, *wanted]) == 0
    out = capsys.readouterr().out
    assert out.startswith("verdict")
    assert "Identified" in out
    laws = [line.split() for line in out.partition("\n\n")[2].splitlines()]
    assert laws[0] == ["LAW", "WEIGHT", "CEILING", "RMSE", "BACK-TEST"]
    written = json.loads((place / "fit.json").read_text())
    found = written["forecast"]
    assert laws[1][:3] == ["sigmoid", f"{found['weight']:.3f}", f"{found['ceiling']:.4f}"]
    assert found["ceiling"] == pytest.approx(0.6, abs=0.005)
    assert found["target_compute"] == pytest.approx(12.0, abs=0.3)  # 0.9 = x^2 / (16 + x^2) at x = 12
    assert (place / "fit.png").read_bytes().startswith(b"\x89PNG")
    assert (written["held_back"], written["entropy"]) == (None, None)


def test_the_json_of_fit_parses_to_the_forecast(curve: Path, place: Path) -> None:
    assert main(["fit", str(curve), *HOURS, "--budget", "80", "--json", "fit.json"]) == 0
    written = json.loads((place / "fit.json").read_text())
    found = fit_forecast(load(curve), budget=80.0)
    assert from_json(written["forecast"]) == found
    _, low, high = curve_band(found, [80.0], level=0.8)
    assert written["intervals_80"] == {
        "ceiling": list(ceiling_interval(found, level=0.8)[1:]),
        **{name: list(interval[1:]) for name, interval in shape_interval(found, level=0.8).items()},
        "predicted_at_budget": [low[0], high[0]],
    }


def test_fit_prints_the_gain_per_unit_of_compute_without_a_budget(
    curve: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", str(curve), *HOURS]) == 0
    written = rows_of(capsys.readouterr().out)["gain per unit now"]
    # the slope of .5 x^2 / (16 + x^2) is 16 x / (16 + x^2)^2: .000266 at 39
    assert float(written.split()[0]) == pytest.approx(0.000266, rel=0.1)
    assert written.endswith("per hours")


def test_a_known_start_holds_for_the_fit_and_for_every_other_burn_in(curve: Path, place: Path) -> None:
    assert main(["fit", str(curve), *HOURS, "--r0", "0.15", "--json", "fit.json"]) == 0
    written = json.loads((place / "fit.json").read_text())
    found = fit_forecast(load(curve), r0=0.15)
    assert from_json(written["forecast"]) == found
    assert written["forecast"]["r0"] == pytest.approx(0.15, abs=0.001)
    tried = try_burn_ins(load(curve), found, r0=0.15)
    assert [(each["ceiling"], each["low"]) for each in written["burn_ins"]] == [
        (each.ceiling, each.low) for each in tried
    ]
    alone = fit_forecast(load(curve), burn_in=tried[-1].burn_in, r0=0.15)
    assert (tried[-1].ceiling, tried[-1].used) == (alone.ceiling, False)


def test_operator_command_and_python_give_the_same_forecast(
    place: Path, make_run: Callable[..., RLRun], point: Callable[..., EvalPoint]
) -> None:
    """An evaluation of 130 prompts x 6 is a pass rate over 780 completions everywhere."""
    x = [0.25 * index for index in range(24)]
    y = [round(0.13 + 0.41 * each**1.5 / (1.1 + each**1.5), 4) for each in x]
    evals = [
        point(index, compute_gpu_hours=each, pass_rate=rate, prompts=130, samples=6)
        for index, (each, rate) in enumerate(zip(x, y, strict=True))
    ]
    operator = forecast_points(make_run(), evals, 11.0, 5.0).forecast
    (place / "run.csv").write_text("device-h,rate\n" + "".join(f"{a!r},{b!r}\n" for a, b in zip(x, y, strict=True)))
    wanted = ["--x", "device-h", "--y", "rate", "--completions", "780", "--budget", "11", "--json", "fit.json"]
    assert main(["fit", "run.csv", *wanted]) == 0
    command = from_json(json.loads((place / "fit.json").read_text())["forecast"])
    errors = [binomial_standard_error(rate, 780) for rate in y]
    assert operator == command == fit_forecast(points(x, y, errors, unit="device-h"), budget=11.0)
    assert operator.verdict != "NotIdentified"


def test_compare_and_plan_accept_completions(curve: Path, place: Path) -> None:
    loaded = load(curve)
    errors = [binomial_standard_error(rate, 500) for rate in loaded.pass_rate.tolist()]
    found = fit_forecast(points(loaded.compute, loaded.pass_rate, errors))
    wanted = [str(curve), *HOURS, "--completions", "500", "--json", "out.json"]
    assert main(["compare", *wanted]) == 0
    (arm,) = json.loads((place / "out.json").read_text())["arms"]
    assert (arm["ceiling_low"], arm["ceiling_high"]) == (found.ceiling_low, found.ceiling_high)
    assert main(["plan", *wanted]) == 0
    (plan,) = json.loads((place / "out.json").read_text())
    assert plan["width"] == pytest.approx((found.ceiling_high or 0.0) - (found.ceiling_low or 0.0))


def test_fit_forecasts_entropy_from_the_points_up_to_fit_until(
    decay: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [*HOURS, "--entropy", "nats", "--entropy-floor", "0.12", "--fit-until", "15", "--json", "fit.json"]
    assert main(["fit", str(decay), *wanted]) == 0
    rows = rows_of(capsys.readouterr().out)
    written = json.loads((place / "fit.json").read_text())["entropy"]
    x = list(range(1, 16))
    found = forecast_entropy(x, [round(0.05 + math.exp(-each / 6), 4) for each in x], floor=0.12, unit="hours")
    assert written == vars(found)
    assert written["compute"] == pytest.approx(6 * math.log(1 / 0.07), rel=0.05)  # 16, after the last fitted point
    assert rows["entropy"].startswith("entropy reaches 0.12 near ")
    assert f"90 % interval [{written['low']:.4g}, {written['high']:.4g}]" in rows["entropy"]


def test_a_bad_entropy_is_refused_by_line_and_column(decay: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(decay), *HOURS, "--entropy", "missing"]) == 2
    assert "no column 'missing'" in capsys.readouterr().err
    lines = decay.read_text().splitlines()
    lines[4] = "3,0.4,-0.6"  # the fifth line of the file, the comment counted
    decay.write_text("\n".join(lines) + "\n")
    assert main(["fit", str(decay), *HOURS, "--entropy", "nats"]) == 2
    assert f"{decay}: line 5, column nats: -0.6; an entropy is at least 0" in capsys.readouterr().err


def test_fit_prints_where_a_pilot_will_be_identified(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(x, 0.3 + 0.3 * x / (x + 10)) for x in range(1, 9)]
    (place / "pilot.csv").write_text("hours,rate\n" + "".join(f"{x},{y:.4f}\n" for x, y in rows))
    assert main(["fit", "pilot.csv", *HOURS]) == 0
    assert rows_of(capsys.readouterr().out)["identified"].startswith(("near", "not within"))


def test_fit_prints_the_ceilings_of_other_burn_ins(
    curve: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", str(curve), *HOURS, "--json", "fit.json"]) == 0
    table = capsys.readouterr().out.rpartition("\n\n")[2].splitlines()
    assert table[0].split() == ["LEFT", "OUT", "BEFORE", "POINTS", "VERDICT", "CEILING"]
    assert [line.split()[:2] for line in table[1:]] == [["0", "hours"], ["1.17", "hours"], ["3.9", "hours"]]
    assert "(used)" in table[1]
    tried = json.loads((place / "fit.json").read_text())["burn_ins"]
    assert [(each["points"], each["used"]) for each in tried] == [(40, True), (38, False), (36, False)]
    assert all(each["low"] < 0.6 < each["high"] for each in tried)


def test_fit_reports_and_draws_held_back_points(curve: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["--fit-until", "20", "--picture", "fit.png", "--json", "fit.json"]
    assert main(["fit", str(curve), *HOURS, *wanted]) == 0
    assert "over 19 points past 20, " in capsys.readouterr().out
    assert json.loads((place / "fit.json").read_text())["held_back"]["points"] == 19
    assert (place / "fit.png").read_bytes().startswith(b"\x89PNG")


def test_ten_thousand_points_are_fitted_by_every_law(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against numpy's warnings about overflow and precision, which are errors in every test."""
    x = np.arange(1.0, 10_001.0)
    y = 0.3 + 0.3 * x**1.7 / (x**1.7 + 1500.0**1.7) + np.random.default_rng(4).normal(0.0, 0.02, 10_000)
    (place / "long.csv").write_text("hours,rate\n" + "".join(f"{a:g},{b:.5f}\n" for a, b in zip(x, y, strict=True)))
    assert main(["fit", "long.csv", *HOURS, "--budget", "20000", "--json", "fit.json"]) == 0
    found = json.loads((place / "fit.json").read_text())["forecast"]
    assert (found["points"], found["verdict"]) == (10_000, "Identified")
    assert found["ceiling_low"] < 0.6 < found["ceiling_high"]
    assert [line.split()[0] for line in capsys.readouterr().out.split("\n\n")[1].splitlines()[1:3]] == [
        "sigmoid",
        "power",
    ]


def test_compare_orders_curves_and_writes_table_json_and_picture(
    curve: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [line.split(",") for line in curve.read_text().splitlines()]
    slower = "\n".join([",".join(rows[0]), *(f"{2 * float(x)},{','.join(rest)}" for x, *rest in rows[1:])])
    (place / "slower.csv").write_text(slower + "\n")
    wanted = [*HOURS, "--json", "cmp.json", "--picture", "cmp.png"]
    assert main(["compare", str(curve), "slower.csv", *wanted]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["RUN", "curve", "slower"]
    written = json.loads((place / "cmp.json").read_text())
    found = {arm["name"]: arm for arm in written["arms"]}
    assert found["slower"]["compute_ratio"][0] == pytest.approx(2.0, rel=1e-3)  # every point at twice the compute
    assert found["slower"]["kind"] == "efficiency shaper"
    assert (place / "cmp.png").read_bytes().startswith(b"\x89PNG")
    assert main(["compare", str(curve), "none.csv", *HOURS]) == 2
    assert "none.csv: No such file" in capsys.readouterr().err


def test_compare_prints_the_origin_of_its_margin(curve: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(7)
    for name in ("one", "two"):
        rows = [(x, 0.1 + 0.5 * x**2 / (64 + x**2) + rng.normal(0.0, 0.02)) for x in range(30)]
        (place / f"{name}.csv").write_text("hours,rate\n" + "".join(f"{x},{y:.4f}\n" for x, y in rows))
    wanted = ["compare", "one.csv", "two.csv", *HOURS, "--json", "cmp.json"]
    assert main(wanted) == 0
    margin = estimate_margin([fit_forecast(load(place / f"{name}.csv")) for name in ("one", "two")])
    assert margin > 0.02
    assert f"within {margin:.3f} (estimated from the runs' own intervals)" in capsys.readouterr().out
    assert json.loads((place / "cmp.json").read_text())["margin"] == margin
    assert main([*wanted, "--margin", "0.031"]) == 0
    assert "within 0.031 (given)" in capsys.readouterr().out
    assert main([*wanted, "--replicates", str(curve), "one.csv"]) == 0
    assert "(of 2 replicates)" in capsys.readouterr().out


def test_an_open_interval_is_null_and_a_question_mark() -> None:
    found = Forecast("Weak", "why", "sigmoid", 9, 0.0, "hours", ceiling=0.6, ceiling_low=0.5, ceiling_high=0.7)
    arm = Arm("late", found, None, (0.0, -0.1, 0.1), (1.5, 0.0, math.inf), "no difference shown")
    comparison = Comparison((arm,), 0.02, True, 0.6, 0.5)
    written = json.loads(json.dumps(comparison_json(comparison), allow_nan=False))
    assert written["arms"][0]["compute_ratio"] == [1.5, None, None]
    assert "1.50x [?, ?]" in comparison_rows(comparison)[0]


def test_infinity_is_not_written_as_json(place: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_json(place / "out.json", {"ratio": math.inf})
    assert list(place.iterdir()) == []


def test_compare_names_the_leave_one_out_table(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert "leave-one-out table\n(arXiv:2510.13786, A.8)" in capsys.readouterr().out


def test_plan_prints_where_to_stop_and_how_to_split_a_budget(
    curve: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = curve.read_text().splitlines()
    (place / "early.csv").write_text("\n".join(rows[:10]) + "\n")
    wanted = [*HOURS, "--budget", "200", "--split", "60", "--json", "plan.json"]
    assert main(["plan", str(curve), "early.csv", *wanted]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["RUN", "curve", "early"]
    whole, early = json.loads((place / "plan.json").read_text())
    assert whole["identified_at"] == 39.0  # identified already
    assert whole["expected_width"] <= 0.1
    # .1 + .5 x^2 / (16 + x^2) is .5998 at 200 and .5898, one hundredth less, at x^2 = 16 * 49 = 28^2
    assert whole["stop_at"] == pytest.approx(28.0, abs=1.0)
    assert whole["share"]["compute"] + early["share"]["compute"] == pytest.approx(60.0)
    assert early["share"]["compute"] > whole["share"]["compute"]  # more to gain
    assert "MAY STOP AT" in out


def test_plan_marks_a_share_of_an_unidentified_curve(
    curve: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = 0.2 + 0.01 * np.arange(12) + np.random.default_rng(6).normal(0.0, 0.003, 12)
    straight = "".join(f"{x},{y:.4f}\n" for x, y in enumerate(rates))
    (place / "straight.csv").write_text("hours,rate\n" + straight)
    assert main(["plan", str(curve), "straight.csv", *HOURS, "--split", "60"]) == 0
    out = capsys.readouterr().out
    whole, early = (line.split() for line in out.splitlines()[1:3])
    assert early[:2] == ["straight", "NotIdentified"]
    assert all(cell.endswith("?") for cell in early[-2:])
    assert not any(cell.endswith("?") for cell in whole)
    assert "?: the split rests on a curve that is not identified, that of straight.\n" in out
    assert main(["plan", str(curve), "straight.csv", *HOURS]) == 0
    assert "?" not in capsys.readouterr().out, "nothing is split"


def test_plan_refuses_to_split_over_a_run_without_a_curve(
    curve: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "two.csv").write_text("hours,rate\n1,0.2\n2,0.3\n")
    wanted = ["plan", str(curve), "two.csv", *HOURS]
    assert main([*wanted, "--split", "10"]) == 2
    assert "two has no curve to split compute by: 2 usable points" in capsys.readouterr().err
    assert main(wanted) == 0
    out = capsys.readouterr().out
    assert "two: 2 usable points" in out
    assert "needs --budget" in out


def test_a_csv_that_cannot_be_fitted_is_a_usage_error(curve: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(curve), "--x", "hours", "--y", "accuracy"]) == 2
    assert "no column 'accuracy'; the header has hours, rate" in capsys.readouterr().err
    assert main(["fit", "none.csv", *HOURS]) == 2
    assert "none.csv: No such file or directory" in capsys.readouterr().err
