"""The time section of `scalerl plan RUN.yaml`, as a user starts it."""

import json
from pathlib import Path

import pytest
import yaml

from scalerl_api import parse_run
from scalerl_operator.capacity.cpu_rates import CpuSample, CpuSeconds, StepWork
from scalerl_operator.cli.commands import CliDeps, run_command
from scalerl_operator.cli.parser import parse_arguments
from scalerl_operator.local import calibration

EXAMPLES = Path(__file__).parents[4] / "examples"
BIG, QUICKSTART = EXAMPLES / "qwen3-8b-math.yaml", EXAMPLES / "quickstart.yaml"


def run(*arguments):
    return run_command(parse_arguments([str(each) for each in arguments]), CliDeps())


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def plan(tmp_path, *arguments):
    assert run("plan", *arguments, "--json", tmp_path / "plan.json") == 0
    (found,) = json.loads((tmp_path / "plan.json").read_text())
    return found["time"]


def test_the_8b_run_takes_about_50_seconds_a_step(tmp_path, capsys):
    found = plan(tmp_path, BIG, "--device", "H100", "--price", "2")
    assert found["stepLimit"] == "trainer"
    assert found["trainerSeconds"] == pytest.approx(50, rel=0.15)
    assert found["cost"] == pytest.approx(2 * found["gpuHours"])
    assert found["gpus"] == 80
    text = capsys.readouterr().out
    for line in ("step ", "evaluation ", "weight update ", "checkpoint ", "whole run ", "split ", "assumed "):
        assert f"\n{line}" in text


def test_every_assumption_can_be_given(tmp_path):
    usual = plan(tmp_path, BIG)
    assert plan(tmp_path, BIG, "--mfu", "0.2")["mfu"] == pytest.approx(0.2, rel=0.02)
    assert plan(tmp_path, BIG, "--mean-tokens", "3000")["meanTokens"] == pytest.approx(3000)
    assert plan(tmp_path, BIG, "--mean-tokens", "3000")["trainerSeconds"] < usual["trainerSeconds"]
    assert plan(tmp_path, BIG, "--device", "B200")["generatorSeconds"] < usual["generatorSeconds"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([BIG, "--calibrate"], "this run has GPUs"),
        ([BIG, "--mean-tokens", "99999"], "at most 14048"),
        ([BIG, "--mean-tokens", "100", "--like", "."], "use one"),
        ([BIG, "--like", "."], "no stored completions"),
        (["curve.csv", "--x", "a", "--y", "b", "--price", "2"], "--price is for an RLRun"),
        (["curve.csv", "--x", "a", "--y", "b", "--calibrate"], "--calibrate is for an RLRun"),
    ],
)
def test_an_assumption_that_cannot_be_is_refused(arguments, message, capsys):
    assert run("plan", *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"), [("--mfu", "0"), ("--mfu", "1.5"), ("--price", "0"), ("--mean-tokens", "-1")]
)
def test_an_impossible_number_is_refused_by_the_command_line(name, value):
    with pytest.raises(SystemExit) as error:
        parse_arguments(["plan", str(BIG), name, value])
    assert error.value.code == 2


def test_cores_that_were_not_measured_have_no_time(capsys):
    assert run("plan", QUICKSTART) == 0
    assert "was not measured on this machine: `scalerl plan RUN.yaml --calibrate`" in capsys.readouterr().out


def test_measured_cores_have_one(tmp_path, monkeypatch, capsys):
    samples = iter(
        [
            CpuSample(StepWork(64, 1_600, 1_900, 30), CpuSeconds(0.2, 0.3, 0.1)),
            CpuSample(StepWork(192, 9_000, 10_500, 40), CpuSeconds(0.7, 1.2, 0.25)),
        ]
    )
    monkeypatch.setattr(calibration, "measure_run", lambda *_: next(samples))
    monkeypatch.setattr(calibration, "count_cores", lambda: 2)
    assert run("plan", QUICKSTART, "--calibrate") == 0
    out = capsys.readouterr()
    assert "calibrating with small steps" in out.err
    assert "rates measured on" in out.out
    found = plan(tmp_path, QUICKSTART, "--mean-tokens", "20")  # the kept rates are used again
    assert found["cores"] == 2
    cpu = found["cpuSecondsTrainer"] + found["cpuSecondsEngine"] + found["cpuSecondsLoop"]
    assert found["stepSeconds"] >= cpu / 2
    assert parse_run(yaml.safe_load(QUICKSTART.read_text())).spec.budget.steps * found["stepSeconds"] == pytest.approx(
        found["runSeconds"]
    )


def test_a_short_run_that_ends_by_itself_is_reported(monkeypatch, capsys):
    def fail(*_):
        raise calibration.CalibrationFailed("the short run ended with code 1: no memory")

    monkeypatch.setattr(calibration, "measure_run", fail)
    assert run("plan", QUICKSTART, "--calibrate") == 2
    assert "no memory" in capsys.readouterr().err


def test_a_split_whose_trainer_does_not_fit_is_not_printed(tmp_path):
    document = yaml.safe_load(BIG.read_text())
    document["spec"]["trainer"] |= {"microBatchTokens": 131_072, "activations": "checkpoint"}
    file = tmp_path / "large.yaml"
    file.write_text(yaml.safe_dump(document))
    found = plan(tmp_path, file)
    assert found["bestTrainerGpus"] is None  # no number of ranks shrinks a micro-batch's activations


def test_an_engine_without_room_has_no_time(tmp_path, capsys):
    document = yaml.safe_load(BIG.read_text())
    document["spec"]["generator"] |= {"gpuMemoryShare": 0.06}
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(document))
    assert plan(tmp_path, file) == {}
    assert "no room for its cache" in capsys.readouterr().out


def test_validate_says_how_long_an_evaluation_takes(capsys):
    assert run("validate", BIG, "--no-self-test", "--device", "H100") == 0
    out = capsys.readouterr().out
    assert "an evaluation takes about" in out
    assert "on 4 of 16 engines" in out
    assert "evaluations are late" not in out


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"budget": {"evalEverySteps": 20}}, "budget.evalEverySteps"),
        ({"deadlines": {"evalSeconds": 1200}}, "deadlines.evalSeconds"),
    ],
)
def test_validate_warns_of_evaluations_that_are_late(tmp_path, capsys, changes, field):
    document = yaml.safe_load(BIG.read_text())
    for name, values in changes.items():
        document["spec"][name] = document["spec"].get(name, {}) | values
    file = tmp_path / "late.yaml"
    file.write_text(yaml.safe_dump(document))
    assert run("validate", file, "--no-self-test", "--device", "H100") == 0
    assert f"spec.{field}: evaluations are late; raise it or budget.evalShare" in capsys.readouterr().out
