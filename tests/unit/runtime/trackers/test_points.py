"""The values that trackers get of a run."""

from pathlib import Path

import yaml

from scalerl_api import parse_run
from scalerl_api.wire import EvalPoint, StepRecord
from scalerl_runtime.process.live_state import LiveState
from scalerl_runtime.process.progress import ProgressReporter, ReportIdentity
from scalerl_runtime.storage.cost import CostFile
from scalerl_runtime.trackers.points import build_config, build_eval_point, build_summary
from scalerl_runtime.trackers.track import Trackers

QUICKSTART = Path(__file__).parents[4] / "examples" / "quickstart.yaml"


def point(step, rate, dataset="held_out"):
    numbers = {"prompts": 2, "samples": 4, "standard_error": 0.5, "mean_tokens": 9.0}
    return EvalPoint(
        index=0, dataset=dataset, step=step, version=step, compute_gpu_hours=step / 8, pass_rate=rate, **numbers
    )


def test_the_config_has_the_resolved_recipe_by_field_name():
    document = yaml.safe_load(QUICKSTART.read_text())
    document["spec"]["recipe"]["optimizer"] = {"learningRate": 0.0009765625}
    run = parse_run(document)
    config = build_config(run, run.spec.resolved_recipe())
    assert config["recipe.optimizer.learningRate"] == 0.0009765625
    assert config["recipe.optimizer.warmupSteps"] == run.spec.resolved_recipe().optimizer.warmup_steps
    assert config["model.source"] == "scratch"
    assert all(isinstance(value, str | int | float | bool) for value in config.values())


def test_an_evaluation_of_several_sets_is_one_point():
    found = build_eval_point([point(8, 0.25), point(8, 0.75, "other")], 77.0)
    assert (found.series, found.step, found.seconds) == ("eval", 8, 77.0)
    assert found.values["held_out/pass_rate"] == 0.25
    assert found.values["other/pass_rate"] == 0.75
    assert "held_out/entropy" not in found.values, "absent in points of older versions"


def test_an_evaluation_has_pass_and_maj_at_each_k():
    measured = point(8, 0.25).model_copy(update={"pass_at_k": {"1": 0.25, "4": 0.75}, "maj_at_k": {"4": 0.5}})
    values = build_eval_point([measured], 77.0).values
    found = {name: value for name, value in values.items() if "_at_" in name}
    assert found == {"held_out/pass_at_1": 0.25, "held_out/pass_at_4": 0.75, "held_out/maj_at_4": 0.5}


def test_the_summary_names_the_best_step():
    found = build_summary(
        "Finished", 12, 1.5, [point(4, 0.5), point(8, 0.75), point(12, 0.625), point(12, 1.0, "other")]
    )
    assert found == {
        "outcome": "Finished",
        "step": 12,
        "compute_gpu_hours": 1.5,
        "last_pass_rate": 0.625,
        "best_pass_rate": 0.75,
        "best_step": 8,
    }
    assert build_summary("Failed", 0, 0.0, []) == {"outcome": "Failed", "step": 0, "compute_gpu_hours": 0.0}


class Memory:
    """A tracker in memory."""

    def __init__(self):
        self.calls = []

    def open(self, run):
        self.calls.append(run.name)

    def log(self, found):
        self.calls.append((found.series, found.step, dict(found.values)))

    def close(self, summary, *, is_final):
        self.calls.append((summary["outcome"], is_final))


def test_a_reporter_sends_steps_evaluations_and_the_end(tmp_path):
    reporter = ProgressReporter(ReportIdentity("run", 1, 0.5), LiveState(1), CostFile(tmp_path), [])
    tracker = Memory()
    reporter.trackers = Trackers({"memory": tracker}, "run", tmp_path, {})
    reporter.on_step(StepRecord(step=3, time=5.0, attempt=1, compute_gpu_hours=0.25, values={"reward": 0.5}), [0], [])
    reporter.on_eval([point(2, 0.5)])
    reporter.close_trackers("AllPromptsSolved")
    name, step, evaluation, end = tracker.calls
    assert name == "run"
    assert step == ("train", 3, {"reward": 0.5, "compute_gpu_hours": 0.25})
    assert evaluation[:2] == ("eval", 2)
    assert end == ("AllPromptsSolved", True)
