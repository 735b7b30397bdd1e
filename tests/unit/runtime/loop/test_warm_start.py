"""The supervised stage: token weights, checkpoints, and resumption after a kill."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import yaml

from scalerl_api import parse_run
from scalerl_api.recipe import merge
from scalerl_runtime.algorithm.loss import LossStats
from scalerl_runtime.algorithm.results import StepResult
from scalerl_runtime.algorithm.step import NonFinite
from scalerl_runtime.data.demonstrations import Demonstration
from scalerl_runtime.deadlines import DeadlineExceeded
from scalerl_runtime.loop.warm_start import WarmStart, sequences_of

QUICKSTART = Path(__file__).parents[4] / "examples" / "quickstart.yaml"


def make_run(changes):
    return parse_run(merge(yaml.safe_load(QUICKSTART.read_text()), {"spec": changes}))


class Rig:
    """A trainer that only counts, and demonstrations that hold the number of their step."""

    def __init__(self, run):
        self.run = run
        self.log = []
        self.reported = []
        self.hang_at = None
        self.nan_at = None

    def batch(self, step, size):
        return [Demonstration(np.array([step, step, 1], dtype=np.int32), loss_from=1)] * size

    async def train_supervised(self, batches, *, learning_rate):
        step = int(batches[0][0].tokens[0])
        if step == self.hang_at:
            await asyncio.Event().wait()
        self.log.append(("step", step, learning_rate))
        empty = np.zeros(0, dtype=np.float32)
        stats = LossStats(loss=np.nan if step == self.nan_at else 0.25)
        return [StepResult(stats, 1.0, 0.1, 3, empty, empty, empty.astype(np.int32)) for _ in batches]

    async def reset_optimizer(self):
        self.log.append("reset")

    async def save(self, done):
        self.log.append(("save", done))

    def train_from(self, done):
        stage = WarmStart(self.run, self, self, quadratic=0.0, save=self.save, report_progress=self.reported.append)
        return asyncio.run(stage.train_from(done))


STAGE = {
    "warmStart": {"steps": 7, "batchSize": 2, "wrongSteps": 0, "learningRate": 0.01, "warmupSteps": 4},
    "checkpoint": {"everySteps": 2},
}


def test_the_loss_is_the_mean_over_the_tokens_of_all_completions():
    """Completions of 3 and 1 tokens: each token weighs a quarter, prompt tokens nothing."""
    first = Demonstration(np.arange(5, dtype=np.int32), loss_from=2)
    second = Demonstration(np.arange(4, dtype=np.int32), loss_from=3)
    found = sequences_of([first, second])
    assert [each.weight for each in found] == [0.25, 0.25]
    assert [each.trained.tolist() for each in found] == [[False, False, True, True, True], [False, False, False, True]]
    assert [each.tokens.tolist() for each in found] == [[0, 1, 2, 3, 4], [0, 1, 2, 3]]


def test_order_of_steps_checkpoints_and_the_reset():
    rig = Rig(make_run(STAGE))
    assert rig.train_from(0) == 7
    rates = [0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01, 0.01]
    steps = [("step", step, pytest.approx(rate)) for step, rate in enumerate(rates)]
    assert rig.log == [
        *steps[:2], ("save", 2), *steps[2:4], ("save", 4), *steps[4:6], ("save", 6), steps[6], "reset",
    ]  # fmt: skip
    assert rig.reported[0].startswith("step 1 of 7, loss 0.250, ")
    assert len(rig.reported) == 7


def test_the_last_step_is_not_saved_before_the_optimizer_is_reset():
    """A checkpoint with all steps done and the old moments would carry them into RL."""
    rig = Rig(make_run(merge(STAGE, {"warmStart": {"steps": 6}})))
    rig.train_from(0)
    assert [entry[1] for entry in rig.log if entry[0] == "save"] == [2, 4]
    assert rig.log[-1] == "reset"


def test_a_killed_stage_resumes_from_its_last_checkpoint():
    whole, rig = Rig(make_run(STAGE)), Rig(make_run(STAGE))
    whole.train_from(0)
    assert rig.train_from(4) == 7
    assert rig.log == whole.log[whole.log.index(("save", 4)) + 1 :]


def test_a_finished_stage_trains_no_step():
    rig = Rig(make_run(STAGE))
    assert rig.train_from(7) == 7
    assert rig.log == [], "the optimizer keeps what RL has put in it"


def test_a_non_finite_loss_ends_the_stage_unless_the_action_is_warn():
    rig = Rig(make_run(STAGE))
    rig.nan_at = 3
    with pytest.raises(NonFinite, match="^warm start, step 4: loss is nan"):
        rig.train_from(0)
    assert rig.log[-1][:2] == ("step", 3), "nothing is saved after it"
    warned = Rig(make_run(merge(STAGE, {"watchdog": {"nonFinite": {"action": "Warn"}}})))
    warned.nan_at = 3
    assert warned.train_from(0) == 7


def test_the_error_names_the_step_that_hangs():
    rig = Rig(make_run(merge(STAGE, {"deadlines": {"trainSeconds": 1}})))
    rig.hang_at = 3
    with pytest.raises(DeadlineExceeded, match="^warm start, step 4 took longer"):
        rig.train_from(0)
