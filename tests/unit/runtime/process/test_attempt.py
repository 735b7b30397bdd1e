"""Exit code and termination message of an attempt."""

import asyncio
import json
from pathlib import Path

import pytest
import yaml

from scalerl_runtime.algorithm.step import NonFinite
from scalerl_runtime.process.attempt import run_attempt
from scalerl_runtime.process.coordinator import Coordinator

QUICKSTART = Path(__file__).parents[4] / "examples" / "quickstart.yaml"


@pytest.fixture
def variables(tmp_path):
    document = yaml.safe_load(QUICKSTART.read_text())
    document["spec"]["data"]["train"]["size"] = 300
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    (tmp_path / "token").write_text("secret")
    return {
        "SCALERL_SPEC": str(tmp_path / "run.yaml"),
        "SCALERL_FOLDER": str(tmp_path),
        "SCALERL_TOKEN_FILE": str(tmp_path / "token"),
        "SCALERL_TERMINATION_FILE": str(tmp_path / "termination.json"),
    }


def message(variables):
    return json.loads(Path(variables["SCALERL_TERMINATION_FILE"]).read_text())


def test_a_wrong_spec_is_never_retried(variables):
    Path(variables["SCALERL_SPEC"]).write_text("kind: RLRun\n")
    assert asyncio.run(run_attempt(variables)) == 64
    assert message(variables)["reason"] == "Invalid"
    assert "spec: missing" in message(variables)["error"]


def test_non_finite_numbers_have_their_own_exit_code(variables, monkeypatch):
    async def fail(_coordinator):
        raise NonFinite("step 57: loss is nan")

    monkeypatch.setattr(Coordinator, "run_attempt", fail)
    monkeypatch.setattr(Coordinator, "handle_signals", lambda _coordinator: None)
    assert asyncio.run(run_attempt(variables)) == 65
    assert (message(variables)["reason"], message(variables)["error"]) == ("Failed", "NonFinite: step 57: loss is nan")


def test_a_failed_start_of_ray_is_retried(variables, monkeypatch):
    """Ray waits 30 s for its node, then raises a bare Exception; on a busy machine the next start may succeed."""

    def fail(**_options):
        raise Exception("The current node timed out during startup.\nMore of it.")  # noqa: TRY002 # as Ray does

    monkeypatch.setattr("ray.init", fail)
    monkeypatch.setattr(Coordinator, "handle_signals", lambda _coordinator: None)  # this process keeps its own signals
    assert asyncio.run(run_attempt(variables)) == 75
    assert message(variables)["reason"] == "Retry"
    assert (
        message(variables)["error"]
        == "ClusterUnavailable: Ray did not start: The current node timed out during startup."
    )
