"""The `scalerl` command: its output and exit codes."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread

import pytest
import yaml

from scalerl_api.status import SelfTestStatus, SourceStatus
from scalerl_api.wire import RunFault, RunVerdict
from scalerl_operator.cli.commands import CliDeps
from scalerl_operator.cli.main import main
from scalerl_operator.decide.lifecycle import Limits
from scalerl_operator.local import run_folder as records
from scalerl_operator.local.run_folder import RunFolder
from scalerl_operator.local.run_verdicts import CheckScope

Document = Callable[..., dict[str, object]]
SHORT = {"steps": 40, "evalEverySteps": 10}


@pytest.fixture
def write_run(place: Path, document: Document) -> Callable[..., Path]:
    """`write_run(budget={..})`: a file with the small run."""

    def write(name: str = "tiny.yaml", **spec: object) -> Path:
        path = place / name
        path.write_text(yaml.safe_dump(document(**{"budget": SHORT, "failurePolicy": {"backoffSeconds": 0}, **spec})))
        return path

    return write


@pytest.fixture
def run(fake_coordinator: list[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`run(scenario, arguments..)`: `scalerl run` with the fake coordinator."""

    def call(scenario: dict[str, object], *arguments: object) -> int:
        monkeypatch.setenv("FAKE_COORDINATOR", json.dumps(scenario))
        limits = Limits(retries=1)
        return main(["run", *map(str, arguments)], deps=CliDeps(fake_coordinator, 0.02, limits))

    return call


def test_a_run_prints_its_events_and_the_half_way_forecast(
    write_run: Callable[..., Path], run: Callable[..., int], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run({}, write_run()) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert (
        "eval held_out at step 40: pass rate 0.589 ± 0.020 (mean@4 of 250 prompts)\n" in out
    )  # 0.2 + 0.5 logistic(10/8)
    summary = dict(map(str.strip, line.split("  ", 1)) for line in out.rpartition("\n\n")[2].splitlines())
    assert summary["run"] == "tiny: Finished"
    assert summary["made at half"].startswith("step 20, 0.2 device-h: NotIdentified")
    assert summary["then measured"].startswith("0.589 ± 0.016 (step 40, 0.4 device-h)")
    folder = place / "runs" / "tiny"
    assert json.loads((folder / "halfway.json").read_text())["madeAtStep"] == 20
    assert (folder / "report.html").exists()
    assert "\x1b" not in out, "no terminal, no escape sequences"


def test_an_invalid_run_starts_nothing(
    write_run: Callable[..., Path], run: Callable[..., int], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run({}, write_run(budget={"steps": 0})) == 64
    assert capsys.readouterr().err.startswith("spec.budget.steps: 0, ")
    assert not (place / "runs").exists()


def test_a_failed_run_exits_1_and_prints_the_end_of_the_log(
    write_run: Callable[..., Path], run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_run(failurePolicy={"maxRestarts": 0})
    assert run({"crash": {"1": [3, 1]}}, file, "--quiet") == 1
    err = capsys.readouterr().err
    assert "  | --- attempt 1 ---\n" in err
    assert "scalerl: RestartsExhausted: attempt 1 ended with exit code 1: fell at step 3" in err


def test_an_outage_around_a_run_exits_75(
    write_run: Callable[..., Path], run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run({"crash": {"1": [3, 75], "2": [3, 75]}}, write_run(), "--quiet") == 75
    assert "scalerl: RetriesExhausted: " in capsys.readouterr().err


def test_a_run_stopped_by_a_policy_exits_0(
    write_run: Callable[..., Path], run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    policy = {"name": "enough", "when": {"passRate": {"above": 0.2}}, "for": 2}
    assert run({"hold": {"1": 10}}, write_run(stopPolicies=[policy]), "--quiet") == 0
    out, err = capsys.readouterr()
    assert "tiny: StoppedByPolicy" in out
    assert err == ""


def test_records_are_neither_overwritten_nor_mixed(
    write_run: Callable[..., Path], run: Callable[..., int], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run({}, write_run(), "--quiet") == 0
    assert capsys.readouterr().out.startswith("\nrun"), "quiet: only the summary"
    before = (place / "runs" / "tiny" / "evals.jsonl").read_text()
    assert run({}, write_run(), "--quiet") == 2
    assert "--resume goes on with it" in capsys.readouterr().err
    assert run({}, write_run(seed=5), "--quiet", "--resume") == 64
    assert capsys.readouterr().err == "spec.seed: 5, fixed for the run's life (0)\n"
    assert run({}, write_run(), "--quiet", "--resume") == 0, "a finished run is finished"
    assert (place / "runs" / "tiny" / "evals.jsonl").read_text() == before
    longer = write_run(budget={"steps": 60, "evalEverySteps": 10})
    assert run({}, longer, "--quiet", "--resume") == 0, "a larger budget lets it go on"
    points = records.load_evals(RunFolder(place / "runs" / "tiny"))
    assert [each.step for each in points] == [0, 10, 20, 30, 40, 50, 60]


def test_a_folder_in_use_exits_75(
    write_run: Callable[..., Path], run: Callable[..., int], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with records.lock_folder(RunFolder(place / "runs" / "tiny")):
        assert run({}, write_run()) == 75
    assert "is in use" in capsys.readouterr().err


INTERRUPTS = [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 75, "the machine goes down")]


@pytest.mark.parametrize(("number", "code"), [r[:2] for r in INTERRUPTS], ids=[r[2] for r in INTERRUPTS])
def test_a_signal_saves_a_checkpoint_and_ends_the_run(
    write_run: Callable[..., Path],
    run: Callable[..., int],
    place: Path,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
) -> None:
    folder = RunFolder(place / "runs" / "tiny")

    def send() -> None:
        while not any(point.step == 10 for point in records.load_evals(folder)):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    sender = Thread(target=send, daemon=True)
    sender.start()
    assert run({"hold": {"1": 15}}, write_run()) == code
    sender.join()
    out, err = capsys.readouterr()
    assert "tiny: Interrupted" in out
    assert "--resume goes on from the checkpoint" in err
    assert records.load_attempts(folder)[0].checkpoint_step in range(10, 16)


def test_a_terminal_gets_a_panel(write_run: Callable[..., Path], fake_coordinator: list[str], place: Path) -> None:
    script = (
        "import sys; from scalerl_operator.cli.commands import CliDeps; from scalerl_operator.cli.main import main;"
        f"sys.exit(main(sys.argv[1:], deps=CliDeps({fake_coordinator!r}, 0.02)))"
    )
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", "FAKE_COORDINATOR": "{}"}
    command = [sys.executable, "-c", script, "run", str(write_run())]
    with subprocess.Popen(command, stdout=slave, stderr=slave, env=environment, cwd=place) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                found = os.read(master, 4096)
            except OSError:  # the last process that held it has exited
                break
            if not found:
                break
            shown += found
    os.close(master)
    assert process.returncode == 0
    text = shown.decode()
    assert "╭─ tiny" in text
    assert "tiny: Finished" in text
    assert "\x1b[36m" not in text, "NO_COLOR"


def test_validate_prints_every_fault_of_every_file(
    write_run: Callable[..., Path], capsys: pytest.CaptureFixture[str], place: Path
) -> None:
    good, bad = write_run(), write_run("bad.yaml", budget={"steps": 0, "evalEverySteps": "often"})
    torn = place / "torn.yaml"
    torn.write_text("a: [1\n")
    assert main(["validate", "--no-self-test", str(good), str(bad), str(torn), "no.yaml"]) == 64
    out, err = capsys.readouterr()
    assert out == f"{good}: RLRun tiny is valid\n"
    lines = err.splitlines()
    assert lines[0].startswith(f"{bad}: spec.budget.steps: 0, ")
    assert lines[1].startswith(f"{bad}: spec.budget.evalEverySteps: 'often', ")
    assert lines[2].startswith(f"{torn}:2:1: ")
    assert lines[3].startswith("no.yaml: No such file or directory, ")
    assert len(lines) == 4
    assert main(["validate", "--no-self-test", str(good)]) == 0


def test_validate_prints_what_was_tested_and_what_was_not(
    write_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    test = SelfTestStatus(verifier="math", rows=64, failed=1)
    tested = SourceStatus(
        path="spec.data.train", rows=7473, bad=2, train=7000, held_out=400, duplicates=71, self_tests=[test]
    )
    refused = RunFault(path="spec.data.maxBadShare", value="9 of 64 rows fail the self-test", allowed="0.01")
    verdicts = [RunVerdict(sources=(tested,), untested=("http:rm was not asked",)), RunVerdict(faults=(refused,))]
    scopes = []

    def fetch(files: Sequence[Path], scope: CheckScope) -> list[RunVerdict]:
        scopes.append(scope)
        return verdicts[: len(files)]

    good, bad = write_run(), write_run("bad.yaml")
    assert main(["validate", "--run-user-code", str(good), str(bad)], deps=CliDeps(fetch_verdicts=fetch)) == 64
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"{good}: RLRun tiny is valid",
        f"{good}: spec.data.train: 7,473 rows, 2 bad, 71 near duplicates removed, 7,000 to train on, 400 held out;"
        " math: 63 of 64 rows as expected",
        f"{good}: http:rm was not asked",
    ]
    assert err == f"{bad}: spec.data.maxBadShare: 9 of 64 rows fail the self-test, 0.01\n"
    assert scopes == [CheckScope(user_code=True)]


def test_status_lists_the_runs_and_finds_one(
    run_folder: RunFolder, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--runs", str(run_folder.path.parent)]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["NAME", "STATE", "STEP", "PASS", "CEILING", "GPU-H", "AGE"]
    assert row.split()[:3] == ["adder-digits", "Finished", "240/240"]
    assert main(["status", "adder-digits", "--runs", str(run_folder.path.parent)]) == 0
    out = capsys.readouterr().out
    rows = [line.split(maxsplit=1) for line in out.splitlines()[:2]]
    assert rows == [["run", f"adder-digits, in {run_folder.path}"], ["state", "Finished: budget spent at step 240"]]
    assert "attempt 1 was killed by signal 9" in out
    assert main(["status", str(run_folder.path), "-o", "yaml"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["status"]["progress"]["step"] == 240
    assert main(["status", "--runs", str(place / "none")]) == 0
    assert capsys.readouterr().out.startswith("no runs in ")
    assert main(["status", "missing"]) == 2
    assert "no run 'missing'" in capsys.readouterr().err


def test_report_writes_the_report(run_folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    (run_folder.path / "metrics.jsonl").unlink()
    assert main(["report", "adder-digits", "--runs", str(run_folder.path.parent)]) == 0
    assert capsys.readouterr().out == f"{run_folder.path / 'report.html'}\n"
    (run_folder.path / "evals.jsonl").unlink()
    assert main(["report", str(run_folder.path)]) == 2
    assert "no evaluation yet" in capsys.readouterr().err


@pytest.mark.usefixtures("place")
def test_logs_of_a_run_on_this_machine(run_folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", str(run_folder.path)]) == 2
    assert "has no log yet" in capsys.readouterr().err
    run_folder.log.write_bytes(b"one\ntwo \xff\nthree\n")
    assert main(["logs", str(run_folder.path)]) == 0
    assert capsys.readouterr().out == "one\ntwo \ufffd\nthree\n"
    assert main(["logs", str(run_folder.path), "--tail", "1", "--follow"]) == 0, (
        "no process drives it, so its log is complete"
    )
    assert capsys.readouterr().out == "three\n"
    assert main(["logs", str(run_folder.path), "--tail", "0"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["logs", str(run_folder.path), "--role", "trainer", "-p"]) == 2
    assert "--role, --previous: for pods" in capsys.readouterr().err


def test_a_log_of_this_machine_is_followed_until_its_run_is_over(run_folder: RunFolder) -> None:
    """The last line is written just before the run ends."""
    run_folder.log.write_text("one\n")
    with records.lock_folder(run_folder):
        pieces = records.read_log(run_folder, tail=None, follow=True)
        assert next(pieces) == "one\n"
        with run_folder.log.open("a") as file:
            file.write("two\n")
        assert next(pieces) == "two\n"
        with run_folder.log.open("a") as file:
            file.write("last\n")
    assert list(pieces) == ["last\n"]


USAGE = [
    ([], "no command"),
    (["dance"], "unknown command"),
    (["run"], "no file"),
    (["fit", "x.csv", "--x", "a"], "no column for y"),
    (["fit", "x.csv", "--x", "a", "--y", "b", "--budget", "-1"], "a budget below 0"),
    (["fit", "x.csv", "--x", "a", "--y", "b", "--budget", "much"], "a budget that is no number"),
    (["fit", "x.csv", "--x", "a", "--y", "b", "--target", "1.5"], "a target above 1"),
    (["fit", "x.csv", "--x", "a", "--y", "b", "--r0", "12"], "a start in percent"),
    (["fit", "x.csv", "--x", "a", "--y", "b", "--completions", "0"], "no completion behind a pass rate"),
    (["plan", "x.csv", "--x", "a", "--y", "b", "--stderr", "c", "--completions", "9"], "two kinds of standard error"),
    (["compare", "x.csv", "--x", "a", "--y", "b", "--margin", ".1", "--replicates", "x.csv"], "two margins"),
    (["plan", "x.csv", "--x", "a", "--y", "b", "--width", "2"], "a width above 1"),
    (["plan", "x.csv", "--x", "a", "--y", "b", "--split", "0"], "nothing to split"),
]


@pytest.mark.parametrize("arguments", [r[0] for r in USAGE], ids=[r[1] for r in USAGE])
def test_a_wrong_command_line_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "Usage: scalerl" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["run"], ["validate"], ["status"], ["report"], ["fit"], ["plan"]], ids=str)
def test_help_has_examples(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert "Examples:" in capsys.readouterr().out
