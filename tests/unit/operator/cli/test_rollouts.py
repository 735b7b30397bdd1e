"""`scalerl rollouts`: what is read, shown and refused, on this machine and from a coordinator's pod."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from stored_rollouts import build_row, write_rollouts

from scalerl_operator.cli.main import main
from scalerl_runtime.storage.rollout_files import RolloutStore

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def run(place: Path) -> Path:
    """The folder of run `sums`: steps 1 to 3 and evaluations at 0, 10, .. 40."""
    folder = place / "runs" / "sums"
    write_rollouts(folder, steps=[1, 2, 3], evals=range(0, 50, 10))
    (folder / "status.yaml").write_text("")
    return folder


def show(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["rollouts", "sums", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


GOLDEN_COMMANDS = {
    "newest_step": ["--limit", "4"],
    "wrong_of_evaluation": ["--eval", "--wrong", "--step", "20", "--limit", "2"],
    "prompt_over_evaluations": ["--eval", "--prompt", "2", "--limit", "3"],
    "prompt_rates": ["--eval", "--prompts"],
}


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("name", GOLDEN_COMMANDS)
def test_text(name: str, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> None:
    out, path = show(capsys, *GOLDEN_COMMANDS[name]), GOLDEN / f"rollouts_{name}.txt"
    if request.config.getoption("--rewrite-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(out)
    assert out == path.read_text()
    assert "\x1b" not in out, "no terminal, no escape sequences"


@pytest.mark.usefixtures("run")
def test_json_has_every_completion_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.loads(line) for line in show(capsys, "--step", "2", "--format", "json").splitlines()]
    assert len(lines) == 12
    first, second = lines[:2]
    assert (first["step"], first["dataset"], first["prompt_id"], first["sample"]) == (2, None, 0, 0)
    assert (first["completion"], first["rewards"], first["lag"]) == ("<think>0 and 1; </think> 1", {"math": 1.0}, 2)
    assert second["completion"][second["forced_text_start"] : second["forced_text_end"]] == "time is up</think>"
    assert [line["reward"] for line in lines if line["excluded"]] == [None]
    wrong = show(capsys, "--eval", "--step", "20", "--wrong", "--format", "json").splitlines()
    assert {json.loads(line)["prompt_id"] for line in wrong} == {3, 4, 5}
    rates = [json.loads(line) for line in show(capsys, "--eval", "--prompts", "--format", "json").splitlines()]
    assert [rate["prompt_id"] for rate in rates] == [5, 4, 3, 2, 1, 0], "the hardest first"
    assert rates[1]["points"][-1] == {"step": 40, "passed": 2, "graded": 2, "rate": 1.0}


@pytest.fixture
def mixture(place: Path) -> Path:
    """The folder of run `mixture`: prompt 0 is of `math`, prompt 1 of `code`, which step 3 has none of."""
    folder = place / "runs" / "mixture"
    store = RolloutStore(folder / "rollouts", max_bytes=10**9, seed=1)
    for step, prompts in ((1, (0, 1)), (2, (0, 1)), (3, (0,))):
        rows = [(prompt, sample, ("math", "code")[prompt]) for prompt in prompts for sample in (0, 1)]
        store.save_step(step, [build_row(step, p, s, 1.0 - 2 * s, source=source) for p, s, source in rows])
    writer = store.open_eval(2, "held_out")
    writer.add([build_row(2, 0, 0, 1.0, "held_out", "math"), build_row(2, 1, 0, -1.0, "held_out", "code")])
    store.save_eval(writer, 1)
    (folder / "status.yaml").write_text("")
    return folder


def selected(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[tuple[int, int, str]]:
    assert main(["rollouts", "mixture", "--format", "json", *arguments]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [(row["step"], row["sample"], row["source"]) for row in rows]


@pytest.mark.usefixtures("mixture")
@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        ([], [(3, 0, "math"), (3, 1, "math")]),
        (["--source", "code"], [(2, 0, "code"), (2, 1, "code")]),
        (["--source", "code", "--wrong"], [(2, 1, "code")]),
        (["--source", "code", "--right", "--step", "1"], [(1, 0, "code")]),
        (["--source", "math", "--step", "2", "--limit", "1"], [(2, 0, "math")]),
        (["--source", "code", "--prompt", "1", "--right"], [(1, 0, "code"), (2, 0, "code")]),
        (["--source", "math", "--eval"], [(2, 0, "math")]),
        (["--dataset", "held_out.code"], [(2, 0, "code")]),
        (["--source", "math", "--eval", "--wrong"], []),
    ],
)
def test_a_source_is_selected_beside_step_prompt_and_grade(
    arguments: list[str], rows: list[tuple[int, int, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert selected(capsys, *arguments) == rows


@pytest.mark.usefixtures("mixture")
def test_a_source_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollouts", "mixture", "--source", "code", "--wrong"]) == 0
    headline, _, _, numbers, *_ = capsys.readouterr().out.splitlines()
    assert headline == "mixture · training · step 2 · source code · 1 of 2 right (0.500) · 1 wrong"
    assert numbers.startswith("step 2 · code · prompt 1 · sample 1 · reward -1 · ")
    assert main(["rollouts", "mixture", "--prompts", "--source", "code"]) == 0
    header, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert header[:2] == ["PROMPT", "SOURCE"]
    assert [row[:2] for row in rows] == [["1", "code"]]


@pytest.mark.usefixtures("mixture", "run")
@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "mixture",
            [],
            "--source sums: no completion of training, steps 1, 2, 3 is of it; their sources are code, math",
        ),
        ("mixture", ["--prompts"], "their sources are code, math"),
        ("sums", [], "a single source without a name, or stored by an older version"),
    ],
)
def test_a_source_that_does_not_exist_is_answered_with_those_that_do(
    name: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rollouts", name, "--source", "sums", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_file_of_an_older_version_has_no_sources(mixture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = mixture / "rollouts" / "step-000003.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["source"]), path)
    assert selected(capsys) == [(3, 0, ""), (3, 1, "")]
    assert selected(capsys, "--source", "math") == [(2, 0, "math"), (2, 1, "math")]


REFUSED = [
    (["--step", "9"], "stores nothing of training, step 9; steps 1, 2, 3"),
    (["--eval", "--step", "7"], "stores nothing of evaluation of held_out, step 7; steps 0, 10, 20, 30, 40"),
    (["--dataset", "aime"], "stores nothing of evaluation of aime; evaluated sets are held_out"),
    (["--prompts", "--wrong"], "--prompt, --wrong and --right exclude it"),
]


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_is_not_there_is_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollouts", "sums", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_run_without_completions(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "runs/empty").mkdir(parents=True)
    (place / "runs/empty/status.yaml").write_text("")
    assert main(["rollouts", "empty"]) == 2
    assert "has no stored completions (yet, or spec.rollouts.maxMegabytes is 0)" in capsys.readouterr().err


def test_a_prompt_that_never_occurred_has_no_completion(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(capsys, "--prompt", "77") == f"{run.name} · training · step 1 to 3 · prompt 77 · 0 of 0 right\n"


def test_a_damaged_file_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "rollouts/step-000003.parquet").write_bytes(b"PAR1 no more")
    assert main(["rollouts", "sums"]) == 1
    assert "step-000003.parquet cannot be read as completions" in capsys.readouterr().err


def test_a_copied_folder_needs_only_its_completions(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "status.yaml").unlink()
    assert main(["rollouts", str(run), "--limit", "1"]) == 0
    assert "sums · training · step 3" in capsys.readouterr().out


def test_without_pyarrow_the_package_is_named(run: Path) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        f"from scalerl_operator.cli.main import main; sys.exit(main(['rollouts', {str(run)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "scalerl: reading completions needs the package pyarrow: pip install 'scalerl[operator]'"
    ]
