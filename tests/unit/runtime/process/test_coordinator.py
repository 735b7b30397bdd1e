"""How a coordinator takes its attempt to an end."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from scalerl_api import parse_run
from scalerl_runtime.actors.options import Environment
from scalerl_runtime.data.fingerprint import Fingerprint
from scalerl_runtime.process import coordinator as module
from scalerl_runtime.process.coordinator import Coordinator
from scalerl_runtime.process.input_check import RunInputs
from scalerl_runtime.types import TrainerLost

QUICKSTART = Path(__file__).parents[4] / "examples" / "quickstart.yaml"


class Closing:
    """The parts of an attempt whose fleet does `start`."""

    def __init__(self, start):
        self.fleet = SimpleNamespace(start=start)
        self.digests = RunInputs(Fingerprint("model", "tokenizer", {}), {})
        self.data, self.judges = SimpleNamespace(sources=()), SimpleNamespace(self_tests=())
        self.closed = False

    async def close(self):
        self.closed = True


@pytest.fixture
def coordinator(tmp_path):
    (tmp_path / "token").write_text("secret")
    names = {"SPEC": "run.yaml", "FOLDER": "", "TOKEN_FILE": "token", "TERMINATION_FILE": "termination.json"}
    environment = Environment.parse({f"SCALERL_{key}": str(tmp_path / name) for key, name in names.items()})
    return Coordinator(environment, parse_run(yaml.safe_load(QUICKSTART.read_text())))


def test_a_stop_before_the_training_cancels_the_start(coordinator, monkeypatch):
    """There is nothing to save yet, and a start may take minutes."""

    async def start():
        coordinator.stop()
        await asyncio.Event().wait()

    parts = Closing(start)
    monkeypatch.setattr(module, "build_parts", lambda _inputs: asyncio.sleep(0, parts))
    assert asyncio.run(coordinator.run_attempt()) == "Stopped"
    assert parts.closed


def test_a_failed_start_closes_the_parts(coordinator, monkeypatch):
    async def start():
        raise TrainerLost("rank 1")

    parts = Closing(start)
    monkeypatch.setattr(module, "build_parts", lambda _inputs: asyncio.sleep(0, parts))
    with pytest.raises(TrainerLost):
        asyncio.run(coordinator.run_attempt())
    assert parts.closed
