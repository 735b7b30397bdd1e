"""Rates of CPU cores: fitted back from what they made, and steps by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl_api import parse_run
from scalerl_operator.capacity.cpu_rates import (
    CpuRates,
    CpuSample,
    Rate,
    StepWork,
    fit_rates,
    measure_work_of_step,
    time_cpu_run,
)
from scalerl_operator.capacity.lengths import Lengths

WORKS = (StepWork(64, 1_600, 1_900, 30), StepWork(192, 9_000, 10_500, 40), StepWork(384, 18_000, 21_000, 80))
LENGTHS = Lengths((20.0, 40.0), prompt=5.0, source="by hand")
amounts = st.floats(1e-5, 10)


@settings(deadline=None)
@given(*[amounts] * 6)
def test_rates_that_made_the_samples_are_found(a, b, c, d, e, f):
    rates = CpuRates(Rate(a, b), Rate(c, d), Rate(e, f), cores=2)
    found = fit_rates([CpuSample(work, rates.step(work)) for work in WORKS[:2]], 2)
    for work in WORKS:
        assert found.step(work).total == pytest.approx(rates.step(work).total, rel=1e-4)


def test_a_part_is_never_negative():
    """More work in less time, by noise: the fit is a rate without a fixed part, not a negative one."""
    samples = [
        CpuSample(work, CpuRates(Rate(0, unit), Rate(0, unit), Rate(0, unit), 2).step(work))
        for work, unit in zip(WORKS, (0.01, 0.02, 0.03), strict=True)
    ]
    found = fit_rates(samples, 2)
    assert min(found.trainer.fixed, found.trainer.unit, found.engine.fixed, found.loop.fixed) >= 0


def test_one_run_is_not_enough():
    with pytest.raises(ValueError, match="two are needed"):
        fit_rates([CpuSample(WORKS[0], CpuRates(Rate(1, 1), Rate(1, 1), Rate(1, 1), 2).step(WORKS[0]))], 2)


@pytest.fixture(scope="module")
def quickstart(example):
    return lambda **changes: parse_run(example("quickstart", **changes))


def test_the_work_of_a_step(quickstart):
    """24 x 8 completions of 30 tokens after prompts of 5; an engine runs at most 256."""
    found = measure_work_of_step(quickstart(), LENGTHS, trained_share=0.5)
    assert (found.completions, found.sampled_tokens, found.trained_tokens) == (192, 192 * 30, 0.5 * 192 * 35)
    assert found.decodes == pytest.approx(192 * 30 / 256)
    few = measure_work_of_step(quickstart(recipe__promptsPerStep=2), LENGTHS)
    running = 5.5 * 16 * 30 / LENGTHS.longest_of(8)
    assert few.decodes == pytest.approx(16 * 30 / running)


def test_shared_cores_add_up(quickstart):
    rates = CpuRates(Rate(0.1, 0.0), Rate(0.0, 1e-4), Rate(0.0, 1e-3), cores=2)
    found = time_cpu_run(quickstart(), rates, LENGTHS)
    cpu = 0.1 + 192 * 30 * 1e-4 + 192 * 1e-3
    extra = 768 / 192 * (192 * 30 * 1e-4 + 192 * 1e-3) / 10  # an evaluation of 768 completions in ten steps
    assert found.cpu.total == pytest.approx(cpu)
    assert found.seconds == pytest.approx((cpu + extra) / 2)
    assert found.whole_seconds == pytest.approx(300 * found.seconds)
    assert found.device_hours == pytest.approx(2 * found.whole_seconds / 3600)


def test_a_trainer_of_one_thread_does_not_use_two_cores(quickstart):
    rates = CpuRates(Rate(10.0, 0.0), Rate(0.0, 1e-6), Rate(0.0, 1e-6), cores=2)
    assert time_cpu_run(quickstart(), rates, LENGTHS).seconds == pytest.approx(10.0, rel=0.01)


@pytest.mark.parametrize("mode", ["pipeline", "synchronous", "offPolicy"])
def test_more_cores_never_slow_and_more_work_never_speeds(quickstart, mode):
    run = quickstart(recipe__asynchrony={"mode": mode})
    rates = [CpuRates(Rate(0.1, 1e-5), Rate(1e-3, 1e-4), Rate(0.01, 1e-3), cores) for cores in (2, 3, 4, 8, 64)]
    seconds = [time_cpu_run(run, each, LENGTHS).seconds for each in rates]
    assert seconds == sorted(seconds, reverse=True)
    longer = Lengths((40.0, 80.0), 5.0, "")
    assert time_cpu_run(run, rates[0], longer).seconds > seconds[0]
