"""How a coordinator takes its attempt to an end."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from scalerl_api import Fault, InvalidRun, parse_run
from scalerl_runtime.actors.options import Environment
from scalerl_runtime.data.fingerprint import Fingerprint
from scalerl_runtime.process import coordinator as module
from scalerl_runtime.process.assembly import load_warm_start
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


class StandInSession:
    """Ray, as it comes up, fails or hangs."""

    def __init__(self, *_):
        self.events = []

    def begin(self, _then):
        self.events.append("begin")

    async def stop(self):
        self.events.append("stop")


@pytest.fixture(autouse=True)
def session(monkeypatch):
    found = StandInSession()
    monkeypatch.setattr(module, "RaySession", lambda *_: found)
    return found


@pytest.fixture
def coordinator(tmp_path):
    (tmp_path / "token").write_text("secret")
    names = {"SPEC": "run.yaml", "FOLDER": "", "TOKEN_FILE": "token", "TERMINATION_FILE": "termination.json"}
    environment = Environment.parse({f"SCALERL_{key}": str(tmp_path / name) for key, name in names.items()})
    return Coordinator(environment, parse_run(yaml.safe_load(QUICKSTART.read_text())))


def test_a_stop_before_the_training_cancels_the_start(coordinator, monkeypatch):
    """There is nothing to save yet, and a start may take minutes."""

    async def start(_seconds):
        coordinator.stop()
        await asyncio.Event().wait()

    parts = Closing(start)
    monkeypatch.setattr(module, "build_parts", lambda *_: asyncio.sleep(0, parts))
    monkeypatch.setattr(module, "load_warm_start", lambda *_: asyncio.sleep(0))
    assert asyncio.run(coordinator.run_attempt()) == "Stopped"
    assert parts.closed


def test_a_refused_model_stops_ray_which_started_meanwhile(coordinator, session, monkeypatch):
    fault = InvalidRun([Fault("spec.model.source", "missing", "a folder")])

    async def build(_inputs, given):
        assert given.events == ["begin"]
        raise fault

    monkeypatch.setattr(module, "build_parts", build)
    with pytest.raises(InvalidRun) as raised:
        asyncio.run(coordinator.run_attempt())
    assert raised.value is fault
    assert session.events == ["begin", "stop"]


def test_a_failed_start_closes_the_parts(coordinator, monkeypatch):
    async def start(_seconds):
        raise TrainerLost("rank 1")

    parts = Closing(start)
    monkeypatch.setattr(module, "build_parts", lambda *_: asyncio.sleep(0, parts))
    monkeypatch.setattr(module, "load_warm_start", lambda *_: asyncio.sleep(0))
    with pytest.raises(TrainerLost):
        asyncio.run(coordinator.run_attempt())
    assert parts.closed


def test_demonstrations_are_read_before_a_process_starts(coordinator, monkeypatch):
    """Else a file that does not exist would be found when trainer and engines hold their devices."""
    fault = InvalidRun([Fault("spec.warmStart.source", "missing.jsonl", "a file")])
    loaded_from = []

    async def load(_inputs, _parts, num_done):
        loaded_from.append(num_done)
        raise fault

    async def start(_seconds):
        raise AssertionError("the trainer is started")

    monkeypatch.setattr(module, "build_parts", lambda *_: asyncio.sleep(0, Closing(start)))
    monkeypatch.setattr(module, "load_warm_start", load)
    with pytest.raises(InvalidRun) as raised:
        asyncio.run(coordinator.run_attempt())
    assert raised.value is fault
    assert loaded_from == [0]


def test_demonstrations_are_not_read_once_their_steps_are_done(coordinator):
    """Their file may be gone by then."""
    steps = coordinator.inputs.run.spec.warm_start.steps
    assert asyncio.run(load_warm_start(coordinator.inputs, SimpleNamespace(), steps)) is None
