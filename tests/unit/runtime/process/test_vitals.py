"""The watchdog's data of an attempt."""

from scalerl_api.wire import StepRecord, StepVital
from scalerl_runtime.process.vitals import Vitals


class Clock:
    def __init__(self):
        self.now = 5.0

    def __call__(self):
        return self.now


def record(step, **values):
    return StepRecord(step=step, time=1.0, attempt=1, compute_gpu_hours=0.1, values=values)


def test_a_step_has_its_measured_vitals():
    vitals = Vitals(Clock())
    vitals.add(record(7, entropy=0.5, lag_max=3.0, lag_mean=1.5, loss=0.1, non_finite=0.0))
    vitals.add(record(8, lag_max=4.0, non_finite=1.0, mismatch_lag0=0.02, zero_variance_share=0.75))
    vitals.add(record(9, zero_variance_share=1.0).model_copy(update={"reward": -1.0}))
    assert vitals.steps == [
        StepVital(step=7, finite=True, entropy=0.5, lag=3.0),
        StepVital(step=8, finite=False, entropy=None, lag=4.0, mismatch=0.02),
        StepVital(step=9, gradient=False, reward=-1.0),
    ]


def test_only_the_last_hundred_steps_are_kept():
    vitals = Vitals(Clock())
    for step in range(1, 251):
        vitals.add(record(step))
    assert [each.step for each in vitals.steps] == list(range(151, 251))


def test_time_since_the_last_step():
    clock = Clock()
    vitals = Vitals(clock)
    assert vitals.still_seconds is None, "it does not train yet"
    vitals.move()
    clock.now = 12.5
    assert vitals.still_seconds == 7.5
    vitals.move()
    assert vitals.still_seconds == 0.0
