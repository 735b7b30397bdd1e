"""A coordinator's report of its attempt."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from scalerl_api.wire import EvalPoint, SelfCheck, StepRecord
from scalerl_runtime.loop.device_time import RoleClock
from scalerl_runtime.loop.slots import PoolCounters, Slot
from scalerl_runtime.process.live_state import LiveState
from scalerl_runtime.process.progress import ProgressReporter, ReportIdentity
from scalerl_runtime.storage.checkpoint import RunState
from scalerl_runtime.storage.cost import CostFile
from scalerl_runtime.types import Completion, Group, Prompt

EVALS = [
    EvalPoint(
        index=index,
        dataset="held_out",
        step=step,
        attempt=1,
        compute_gpu_hours=hours,
        pass_rate=0.5,
        standard_error=0.1,
        prompts=8,
        samples=2,
        version=step,
    )
    for index, step, hours in ((0, 0, 0.0), (1, 4, 0.25))
]


@pytest.fixture
def live():
    return LiveState(trainer_devices=2)


@pytest.fixture
def reporter(tmp_path, live):
    return ProgressReporter(ReportIdentity("small", 3, 0.05), live, CostFile(tmp_path), EVALS)


def pool(**states):
    """A pool with generators that have used 7 and 11 device-seconds."""
    slots = [Slot(0, RoleClock(1, {"generate": 7.0}), **states), Slot(1, RoleClock(1, {"generate": 5.0, "idle": 6.0}))]
    return SimpleNamespace(slots=dict(enumerate(slots)), counters=PoolCounters(restarts=4, excluded=2))


def metric(reporter, name):
    prefix = f"scalerl_{name} "
    return [
        line.removeprefix(prefix) for line in reporter.render_metrics().decode().splitlines() if line.startswith(prefix)
    ]


def test_time_without_a_step_is_reported_only_while_the_run_trains(reporter):
    """Loading and the last evaluations have their own deadlines."""
    for phase in ("starting", "warmStart"):
        reporter.on_phase(phase, "")
        assert reporter.progress(0).still_seconds is None
    reporter.on_phase("training", "")
    first = reporter.progress(0).still_seconds
    assert first is not None
    assert first >= 0.0
    values = {"entropy": 0.75, "lag_max": 2.0, "non_finite": 0.0}
    reporter.on_step(StepRecord(step=7, time=1.0, attempt=1, compute_gpu_hours=0.5, values=values), [], [])
    progress = reporter.progress(0)
    assert [(each.step, each.finite, each.entropy, each.lag) for each in progress.vitals] == [(7, True, 0.75, 2.0)]
    reporter.on_phase("evaluating", "waiting for the last evaluations")
    assert reporter.progress(0).still_seconds is None


def test_step_and_compute_have_no_series_until_the_checkpoints_are_read(reporter, tmp_path):
    assert metric(reporter, "step") == []
    state = RunState(step=6, warm_steps=40, compute_gpu_hours=0.75)
    reporter.on_resume((tmp_path, state))
    assert (metric(reporter, "step"), metric(reporter, "compute_gpu_hours")) == (["6.0"], ["0.75"])
    progress = reporter.progress(0)
    assert (progress.step, progress.compute_gpu_hours, progress.version) == (6, 0.75, 0)
    assert progress.checkpoint.step == 6
    assert progress.checkpoint.path == str(tmp_path)


def test_a_run_without_a_checkpoint_starts_at_step_0(reporter):
    reporter.on_resume(None)
    assert metric(reporter, "step") == ["0.0"]
    assert reporter.progress(0).checkpoint is None


def test_since_leaves_out_the_evaluations_that_the_caller_has(reporter):
    assert [point.index for point in reporter.progress(1).evals] == [1]
    reporter.on_eval([EVALS[1].model_copy(update={"index": 2})])
    assert [point.index for point in reporter.progress(1).evals] == [1, 2]


def test_a_step_while_stopping_does_not_change_the_phase(reporter):
    record = StepRecord(step=7, time=1.0, attempt=1, compute_gpu_hours=0.5, values={})
    reporter.on_phase("stopping", "")
    reporter.on_step(record, [], [])
    assert reporter.progress(0).phase == "stopping"
    reporter.on_phase("evaluating", "late evaluation of step 4")
    reporter.on_step(record, [], [])
    assert (reporter.progress(0).phase, reporter.progress(0).detail) == ("training", "")


def test_cost_is_on_disk_after_each_step_and_adds_up_over_attempts(tmp_path, live):
    (tmp_path / "cost.json").write_text(json.dumps({"trainer": 100.0, "generator": 200.0}))
    reporter = ProgressReporter(ReportIdentity("small", 3, 0.05), live, CostFile(tmp_path), [])
    live.trainer_clock.seconds["train"] = 13.0
    live.pool = pool()
    reporter.on_step(StepRecord(step=7, time=1.0, attempt=1, compute_gpu_hours=0.5, values={}), [], [])
    assert json.loads((tmp_path / "cost.json").read_text()) == {"trainer": 113.0, "generator": 218.0}
    assert reporter.progress(0).gpu_seconds == {"trainer": 113.0, "generator": 218.0}


def test_generators_are_reported_from_the_pool(reporter, live):
    live.trainer_clock.seconds.update(train=3.0, wait=1.0)
    live.pool = pool(state="ready", version=5)
    progress = reporter.progress(0)
    assert (progress.version, progress.generators_ready, progress.generator_restarts) == (5, 1, 4)
    assert progress.idle_fraction == {"trainer": 0.25, "generator": pytest.approx((0.0 + 6 / 11) / 2)}
    assert metric(reporter, "generators_ready") == ["1.0"]
    assert metric(reporter, "verifier_failures_total") == ["2.0"]
    text = reporter.render_metrics().decode()
    assert '{phase="generate",role="generator"} 12.0' in text


def test_the_termination_message_has_the_last_checkpoint_and_evaluation(reporter, tmp_path):
    reporter.on_resume((tmp_path, RunState(step=6, warm_steps=40, compute_gpu_hours=0.75)))
    message = reporter.termination("Retry", "TrainerLost: rank 0")
    assert (message.reason, message.step, message.error) == ("Retry", 6, "TrainerLost: rank 0")
    assert message.checkpoint.step == 6
    assert message.last_eval.index == 1


def test_the_last_self_check_is_in_progress_metrics_and_termination_message(reporter):
    assert (reporter.progress(0).self_check, metric(reporter, "self_check_mean")) == (None, [])
    assert metric(reporter, "mismatch_bound") == ["0.05"]
    numbers = {"generator": 0, "tokens": 128, "worst_prompt": 9, "worst_mean": 0.03}
    for version, mean in ((0, 0.015), (1, 0.02)):
        reporter.on_self_check(SelfCheck(version=version, mean=mean, largest=0.4, **numbers))
    for found in (reporter.progress(0).self_check, reporter.termination("Invalid", "").self_check):
        assert (found.version, found.mean) == (1, 0.02)
    assert (metric(reporter, "self_check_mean"), metric(reporter, "self_check_max")) == (["0.02"], ["0.4"])


def test_newest_example_is_reported(reporter):
    assert reporter.progress(0).example is None
    for step, rewards in ((1, (1.0, -1.0)), (2, (-1.0, None))):
        reporter.on_groups([group_of(*rewards)], step)
    example = reporter.progress(0).example
    assert (example.step, example.reward, example.passed, example.graded, example.completions) == (2, -1.0, 0, 1, 2)


def test_equal_rewards_of_the_first_steps_are_reported_once(reporter, caplog):
    for step in (1, 2, 3):
        reporter.on_groups([group_of(-1.0, -1.0)], step)
        assert bool(reporter.progress(0).warning) == (step >= 2)
    assert "every completion of the first 2 steps got the same reward, -1" in reporter.progress(0).warning
    assert len(caplog.records) == 1


def group_of(*rewards):
    none = np.zeros(1, np.int32)
    completion = Completion(none, np.zeros(1, np.float32), none, np.zeros(1, bool), "stop", "4")
    return Group(Prompt(3, "2 + 2 =", none, "4"), 0, 0, tuple(replace(completion, reward=each) for each in rewards))
