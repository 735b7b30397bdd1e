"""A run whose engine is wrong ends as a fault of the spec, before anything is trained on it. Presets: healthy ones."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalerl_api.wire import EXIT_INVALID
from scalerl_operator.cli.commands import CliDeps
from scalerl_operator.cli.main import main

WRONG_ENGINE = Path(__file__).with_name("wrong_engine.py")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("kind", "versions"),
    [
        pytest.param("stand-in", {0}, id="log-probabilities of another model, at the first update"),
        pytest.param("second-update", {1, 2, 3}, id="a real engine that loads its second update wrongly"),
    ],
)
def test_a_wrong_engine_ends_the_run_without_a_retry(
    kind: str,
    versions: set[int],
    tmp_path: Path,
    write_run: Callable[[dict[str, Any]], Path],
    lines: Callable[[Path], list[dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The evaluation of step 0 holds the only engine at version 0; with one prompt it is over within a step or two.
    changes = {"failurePolicy": {"maxRestarts": 3}, "data": {"heldOut": {"prompts": 1, "samplesPerPrompt": 1}}}
    run_file, folder = write_run({"spec": {**changes, "warmStart": {"steps": 2}}}), tmp_path / "run"
    deps = CliDeps(coordinator=[sys.executable, str(WRONG_ENGINE), kind], poll_seconds=0.2)
    assert main(["run", str(run_file), "--folder", str(folder)], deps=deps) == EXIT_INVALID
    (attempt,) = [json.loads(line) for line in (folder / "attempts.jsonl").read_text().splitlines()][-1:]
    left = attempt["termination"]
    assert (attempt["number"], attempt["exitCode"], left["reason"]) == (1, EXIT_INVALID, "Invalid")
    version = left["selfCheck"]["version"]
    assert version in versions
    assert left["step"] == version
    assert left["selfCheck"]["mean"] > 0.1
    output = capsys.readouterr()
    for text in (left["error"], output.out + output.err):
        assert "spec.model.source: 'scratch', a model that engine and trainer compute alike is needed" in text
        assert f"self-check of version {version} on generator 0" in text
        assert "allowed are 0.001 nats on average with model.dtype float32 and recipe.head fp32" in text
    status = yaml.safe_load((folder / "status.yaml").read_text())["status"]
    (failed,) = [each for each in status["conditions"] if each["type"] == "Failed"]
    assert (failed["status"], failed["reason"]) == ("True", "InvalidSpec")
    steps = lines(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
    assert len(steps) == version, "no step trains on tokens of an engine that was found wrong"
