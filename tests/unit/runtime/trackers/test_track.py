"""Trackers with their real packages, offline: content, a resumed run, failures, slowness."""

import json
import logging
import multiprocessing
import struct
import threading
import time
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from scalerl_api import InvalidRun
from scalerl_api.rlrun import RLRunSpec
from scalerl_runtime.trackers import track as module
from scalerl_runtime.trackers.interface import TrackedPoint
from scalerl_runtime.trackers.track import Trackers, check_packages

PATIENCE = 300.0  # seconds for a package that starts processes, on a busy machine
CONFIG = {"recipe.optimizer.learningRate": 0.25, "model.source": "org/model", "seed": 7}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")


def train(step):
    return TrackedPoint("train", step, {"reward": step / 8}, 1000.0 + step)


def evaluation(step):
    return TrackedPoint("eval", step, {"held_out/pass_rate": step / 16}, 1000.0 + step)


def track_attempt(folder, name, points, summary, *, is_final):
    trackers = Trackers.build([name], "run", folder, CONFIG)
    for point in points:
        trackers.log(point)
    trackers.close(summary, is_final=is_final, seconds=PATIENCE)


def track_two_attempts(folder, name):
    """The first attempt is killed at step 5 and had its last checkpoint at step 3. Each has a process of its own.

    A second run of one id in one process loses its data in wandb's service.
    """
    attempts = [
        ([*map(train, range(1, 6)), evaluation(2)], {"step": 5}, False),
        ([*map(train, range(4, 9)), evaluation(6)], {"step": 8, "outcome": "Finished"}, True),
    ]
    for points, summary, is_final in attempts:
        process = multiprocessing.get_context("spawn").Process(
            target=track_attempt, args=(folder, name, points, summary), kwargs={"is_final": is_final}
        )
        process.start()
        process.join(PATIENCE)
        assert process.exitcode == 0


def test_tensorboard_has_every_step_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track_two_attempts(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "trackers" / "tensorboard"))
    events.Reload()
    assert [(each.step, each.value, each.wall_time) for each in events.Scalars("train/reward")] == [
        (step, step / 8, 1000.0 + step) for step in range(1, 9)
    ]
    assert [(each.step, each.value) for each in events.Scalars("eval/held_out/pass_rate")] == [(2, 0.125), (6, 0.375)]
    (spec,) = events.Tensors("spec/text_summary")
    assert b"| recipe.optimizer.learningRate | 0.25 |" in spec.tensor_proto.string_val[0]
    (summary,) = events.Tensors("summary/text_summary")
    assert b"| outcome | Finished |" in summary.tensor_proto.string_val[0]


def test_mlflow_has_one_run_with_every_step_once(tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    track_two_attempts(tmp_path, "mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # to read the files here; the tracker sets it for itself
    client = MlflowClient(tracking_uri=(tmp_path / "trackers" / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("scalerl")
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "train/reward")
    assert sorted((each.step, each.value, each.timestamp) for each in history) == [
        (step, step / 8, 1_000_000 + 1000 * step) for step in range(1, 9)
    ]
    assert [each.step for each in client.get_metric_history(run.info.run_id, "eval/held_out/pass_rate")] == [2, 6]
    assert run.data.params["recipe.optimizer.learningRate"] == "0.25"
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.tags["summary.outcome"] == "Finished"


def read_wandb(file):
    """The records of an offline run's file."""
    from wandb.proto import wandb_internal_pb2

    data, place, whole = file.read_bytes(), 7, b""  # the file's own header; then LevelDB's log of 32 KiB blocks
    while place + 7 <= len(data):
        left = 32_768 - place % 32_768
        if left < 7:
            place += left
            continue
        _checksum, length, part = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if part in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def test_wandb_has_one_id_and_every_step_once(tmp_path):
    track_two_attempts(tmp_path, "wandb")
    files = sorted((tmp_path / "trackers" / "wandb").glob("wandb/offline-run-*/*.wandb"))
    ids, config, steps, rates = set(), {}, [], []
    for record in (each for file in files for each in read_wandb(file)):
        if record.HasField("run"):
            ids.add(record.run.run_id)
            config |= {each.key: each.value_json for each in record.run.config.update}
        if record.HasField("history"):
            values = {each.key or "/".join(each.nested_key): each.value_json for each in record.history.item}
            steps += [(values["train/step"], values["train/reward"])] if "train/step" in values else []
            rates += [(values["eval/step"], values["eval/held_out/pass_rate"])] if "eval/step" in values else []
    assert len(files) == 2
    assert len(ids) == 1
    assert [(int(step), float(value)) for step, value in steps] == [(step, step / 8) for step in range(1, 9)]
    assert [(int(step), float(value)) for step, value in rates] == [(2, 0.125), (6, 0.375)]
    assert json.loads(config["model.source"]) == "org/model"


class Recording:
    """A tracker in memory; `error` is raised by the call `fail`, and `hold` delays every point."""

    def __init__(self, fail=None, hold=None):
        self.calls, self.fail, self.hold = [], fail, hold

    def _note(self, name, *arguments):
        self.calls.append((name, *arguments))
        if self.fail == name:
            raise OSError("no route to host")

    def open(self, run):
        self._note("open", run.is_new)

    def log(self, point):
        if self.hold is not None:
            self.hold.wait()
        self._note("log", point.step)

    def close(self, summary, *, is_final):
        self._note("close", dict(summary), is_final)


@pytest.mark.parametrize("fail", ["open", "log", "close"])
def test_a_tracker_that_fails_is_named_once_and_costs_the_others_nothing(tmp_path, caplog, fail):
    broken, sound = Recording(fail), Recording()
    trackers = Trackers({"broken": broken, "sound": sound}, "run", tmp_path, CONFIG)
    for step in range(1, 4):
        trackers.log(train(step))
    trackers.close({"step": 3}, is_final=True)
    assert sound.calls == [("open", True), *(("log", step) for step in (1, 2, 3)), ("close", {"step": 3}, True)]
    assert [each.message for each in caplog.records if each.levelno >= logging.WARNING] == [
        "tracker broken failed; the run goes on without it: OSError: no route to host"
    ]
    assert [call[0] for call in broken.calls].count(fail) == 1


def test_a_tracker_that_hangs_delays_neither_a_step_nor_the_end(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(module, "QUEUE_POINTS", 5)
    hold = threading.Event()
    stuck = Recording(hold=hold)
    trackers = Trackers({"stuck": stuck}, "run", tmp_path, CONFIG)
    began = time.monotonic()
    for step in range(1, 1000):
        trackers.log(train(step))
    trackers.close({}, is_final=True, seconds=0.2)
    assert time.monotonic() - began < 20.0, "it would hang for ever"
    assert sum("misses steps" in each.message for each in caplog.records) == 1
    assert sum("did not end in time" in each.message for each in caplog.records) == 1
    hold.set()


def test_a_folder_that_cannot_be_written_is_a_failed_tracker(tmp_path, caplog):
    (tmp_path / "trackers").write_text("a file in the way")
    trackers = Trackers({"any": Recording()}, "run", tmp_path, CONFIG)
    trackers.log(train(1))
    trackers.close({}, is_final=True)
    assert "tracker any failed" in caplog.text


def test_a_state_that_a_crash_cut_begins_a_new_run(tmp_path):
    path = tmp_path / "trackers" / "any" / "scalerl-tracker.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"id": "x", "la')
    tracker = Recording()
    Trackers({"any": tracker}, "run", tmp_path, CONFIG).close({}, is_final=False)
    assert tracker.calls == [("open", True), ("close", {}, False)]
    assert set(json.loads(path.read_text())) == {"id", "lastSteps"}


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    check_packages(["wandb", "tensorboard", "mlflow"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "mlflow" else object())
    with pytest.raises(InvalidRun, match=r"spec.trackers\[1\]: mlflow, .* pip install 'scalerl\[mlflow\]'"):
        check_packages(["wandb", "mlflow"])


def test_every_tracker_of_the_spec_has_a_builder_and_an_extra():
    extras = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    names = get_args(get_args(RLRunSpec.model_fields["trackers"].annotation)[0])
    assert set(module.BUILDERS) == set(names) <= set(extras)
