"""The schedule of simulated runs: the real pool on virtual time. Times are exact, so the shares are asserted."""

import dataclasses
import importlib

import pytest


@pytest.fixture(scope="module")
def model():
    return importlib.import_module("schedule_model")


def small(model, lengths, train_seconds, **values):
    """A run of a third of the paper's batch, on engines that slow down under load."""
    fixed = {"prompts_per_step": 16, "completions": 8, "engines": 4, "max_sequences": 96, "steps": 40}
    return model.Scenario(lengths, train_seconds, 0.006, 0.0001, **(fixed | values))


def test_an_engine_follows_its_formula(model):
    """One group of two sequences of 100 tokens an engine at a time, at .006 + 2 x .0001 s a token: .62 s."""
    one = small(model, model.Lengths("constant", 100), 0.001, completions=2, prompts_per_step=1, engines=1)
    found = model.simulate(dataclasses.replace(one, max_sequences=2, sync_seconds=0.0))
    assert found.step_seconds == pytest.approx(0.62, rel=0.01)
    assert found.engine_load == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize(
    ("shape", "sigma", "train_seconds"),
    [("constant", 0.0, 25), ("lognormal", 0.5, 30), ("lognormal", 0.7, 40), ("bimodal", 0.0, 60)],
)
def test_the_trainer_does_not_wait_where_the_engines_can_feed_it(model, shape, sigma, train_seconds):
    scenario = small(model, model.Lengths(shape, 3000, sigma, limit=9000), train_seconds)
    former, found = model.simulate(scenario, model.FormerPool), model.simulate(scenario)
    assert found.trainer_idle < 0.03
    assert found.trainer_idle <= former.trainer_idle
    assert found.lag_max <= scenario.max_lag


@pytest.mark.parametrize(("shape", "sigma"), [("lognormal", 0.7), ("bimodal", 0.0)])
def test_engines_that_are_the_bottleneck_run_full(model, shape, sigma):
    """Groups end with their longest completion: by whole groups, half of an engine's sequences would not run."""
    scenario = small(model, model.Lengths(shape, 3000, sigma, limit=9000), 1.0, engines=1)
    former, found = model.simulate(scenario, model.FormerPool), model.simulate(scenario)
    assert former.engine_load < 0.6
    assert found.engine_load > 0.9
    assert found.step_seconds < 0.85 * former.step_seconds


@pytest.mark.parametrize("max_lag", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("engines", [1, 3])
def test_the_bound_holds_at_every_lag(model, max_lag, engines):
    lengths = model.Lengths("lognormal", 3000, 0.7, limit=9000)
    found = model.simulate(small(model, lengths, 20, max_lag=max_lag, engines=engines, steps=25))
    assert found.lag_max <= max_lag


def test_groups_that_start_at_once_are_spread_over_the_engines(model):
    async def first_loads():
        simulation = model.Simulation(small(model, model.Lengths("constant", 3000), 20), model.Pool)
        pool = simulation.pool
        for slot in pool.slots.values():
            slot.state, slot.version = "ready", 0
        for serial in range(8):
            pool.submit(pool.next_slot(), model.Prompt(serial, "", model.ONES[:1], ""), 0)
        loads = [slot.num_rollouts for slot in pool.slots.values()]
        await pool.close()
        return loads

    assert importlib.import_module("virtual_clock").play(first_loads()) == [16, 16, 16, 16]
