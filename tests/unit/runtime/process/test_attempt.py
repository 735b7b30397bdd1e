"""Exit code and termination message of an attempt."""

import asyncio
import errno
import json
from pathlib import Path

import pytest
import yaml

from scalerl_runtime.algorithm.step import NonFinite
from scalerl_runtime.models.source import ModelUnavailable
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


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 75, "Retry"),
        (OSError(errno.EIO, "Input/output error"), 75, "Retry"),
        (PermissionError(errno.EACCES, "Permission denied"), 1, "Failed"),
        (ModelUnavailable("the hub does not answer"), 75, "Retry"),
    ],
)
def test_a_full_disk_and_a_silent_hub_are_the_machines_fault(variables, monkeypatch, error, code, reason):
    async def fail(_coordinator):
        raise error

    monkeypatch.setattr(Coordinator, "run_attempt", fail)
    monkeypatch.setattr(Coordinator, "handle_signals", lambda _coordinator: None)
    assert asyncio.run(run_attempt(variables)) == code
    assert message(variables)["reason"] == reason


FAULTS = {
    "a model that is not there": ({"model": {"source": "./no-such-model"}}, "spec.model.source: ./no-such-model"),
    "checkpoints below a file": ({"checkpoint": {"path": "FILE/checkpoints"}}, "spec.checkpoint.path: "),
    "a verifier that is not there": ({"reward": {"verifier": "python:no_such_module:f"}}, "spec.reward.verifier: "),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_user_ends_the_attempt_before_anything_starts(variables, monkeypatch, name):
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("started"))
    monkeypatch.setattr(Coordinator, "handle_signals", lambda _coordinator: None)
    changes, words = FAULTS[name]
    path = Path(variables["SCALERL_SPEC"])
    document = yaml.safe_load(path.read_text().replace("FILE", variables["SCALERL_TOKEN_FILE"]))
    for field, value in changes.items():
        document["spec"][field] = {
            key: text.replace("FILE", variables["SCALERL_TOKEN_FILE"]) for key, text in value.items()
        }
    if "model" in changes:
        document["spec"].pop("warmStart")
    path.write_text(yaml.safe_dump(document))
    assert asyncio.run(run_attempt(variables)) == 64
    assert message(variables)["reason"] == "Invalid"
    assert message(variables)["error"].startswith(words)


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
