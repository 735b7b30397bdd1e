"""`scalerl plan` and the runtime have one rule for the engines of an evaluation."""

import itertools

import pytest
from eval_schedule import EvalScenario, EvalSimulation
from schedule_model import Lengths, Scenario
from virtual_clock import play

from scalerl_operator.capacity.lengths import measured_lengths
from scalerl_operator.capacity.run_time import time_evaluation
from scalerl_operator.capacity.schedule import Demand, Supply
from scalerl_runtime.loop.device_time import RoleClock
from scalerl_runtime.loop.slots import Slot, choose_leases

STEPS = 60  # of a second each: the first evaluation ends before the last, which has every engine
ENGINES, SHARES, SIZES = (1, 2, 3, 4, 5, 8, 16, 64), (0.01, 0.25, 0.3, 0.5, 0.75, 1.0), ((1, 1), (3, 16), (200, 4))
LENGTHS = measured_lengths([float(each) for each in range(50, 100)], 0.0, "drawn")


def make_scenario(engines, share, size):
    run = Scenario(
        Lengths("lognormal", 60, 0.2, limit=100),
        1.0,
        0.01,
        engines=engines,
        max_sequences=32,
        prompts_per_step=2,
        completions=2,
        max_lag=2,
        steps=STEPS,
        warmup_steps=0,
    )
    return EvalScenario(run, *size, every_steps=STEPS, share=share)


def plan(scenario):
    run = scenario.run
    demand = Demand(run.prompts_per_step, run.completions, run.recipe.asynchrony, LENGTHS)
    supply = Supply(run.engines, run.max_sequences, lambda running: 0.01 + 0.0001 * running, run.train_seconds)
    return time_evaluation(scenario.spec, demand, supply)


@pytest.mark.parametrize("engines", ENGINES)
@pytest.mark.parametrize("share", SHARES)
def test_the_plan_has_the_engines_that_the_pool_leases(engines, share):
    ready = [Slot(index, RoleClock(1), state="ready", version=7) for index in range(engines)]
    leased = choose_leases(ready, 7, share, whole=False)
    for size in SIZES:
        planned = plan(make_scenario(engines, share, size))
        assert planned.engines == min(len(leased), size[0])
        assert planned.samples == size[0] * size[1]


@pytest.mark.parametrize(("engines", "share", "size"), list(itertools.product((1, 3, 8), (0.25, 1.0), SIZES)))
def test_and_these_engines_sample(engines, share, size):
    """The engines of step 0's evaluation, counted where they sample."""
    scenario = make_scenario(engines, share, size)

    async def run():
        simulation = EvalSimulation(scenario)
        await simulation.train()
        return simulation.fleet.evaluated_on[0]

    assert len(play(run())) == plan(scenario).engines


@pytest.mark.parametrize("share", SHARES)
def test_a_larger_share_is_never_slower(share):
    seconds = [plan(make_scenario(16, each, (200, 4))).seconds for each in SHARES]
    assert seconds == sorted(seconds, reverse=True)
    assert plan(make_scenario(1, share, (200, 4))).engines == 1
