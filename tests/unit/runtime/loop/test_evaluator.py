"""Evaluations beside training, on virtual time: the product's own Evaluator, Syncer and Pool, engines by a formula."""

import asyncio
import collections
import itertools

import numpy as np
import pytest
from eval_schedule import HELD_OUT_ID, EvalScenario, EvalSimulation, simulate_evals
from schedule_model import Lengths, Scenario
from virtual_clock import play

from scalerl_api.evaluations import MIN_PROMPTS
from scalerl_runtime.loop.eval_sets import (
    EvalProgress,
    EvalSet,
    EvalWork,
    derive_rng,
    draw_seeds,
    order_prompts,
)
from scalerl_runtime.storage.checkpoint import PendingEval
from scalerl_runtime.types import Prompt

STEPS, EVERY = 12, 4
SHORT, LONG, ENDLESS = (20, 2), (60, 4), (60, 40)  # prompts, completions of each


def make_scenario(engines, size, losses=(), **changes):
    run = Scenario(
        Lengths("lognormal", 200, 0.6, limit=800),
        2.0,
        0.01,
        engines=engines,
        max_sequences=16,
        prompts_per_step=4,
        completions=4,
        max_lag=4,
        sync_seconds=0.3,
        steps=STEPS,
        warmup_steps=0,
    )
    prompts, samples = size
    return EvalScenario(run, prompts, samples, EVERY, start_seconds=20.0, losses=tuple(losses), **changes)


def assert_whole_record(scenario, found):
    """Each due step has one point; no step waited; no engine ended; intervals and counts of prompts are true."""
    due = [0, *range(EVERY, STEPS, EVERY), STEPS]
    assert sorted(point.step for point in found.points) == due
    assert [point.index for point in found.points] == list(range(len(due)))
    assert max(found.waits) < 1.0, "beyond the time of one update a step has waited for an evaluation"
    assert found.restarts == len(scenario.losses)
    for point in found.points:
        assert point.prompts + point.unsampled == scenario.prompts
        assert point.prompts >= min(MIN_PROMPTS, scenario.prompts)
        assert point.step <= point.version <= point.version_end <= STEPS
        assert not point.unsampled or point.step < STEPS
    if scenario.run.engines > 1 and not scenario.losses:
        assert {begun for _, begun, _, _ in found.sampled} == set(due), "the lease pins the version"


@pytest.mark.parametrize("engines", [1, 2, 4, 16])
@pytest.mark.parametrize("size", [SHORT, LONG, ENDLESS])
@pytest.mark.parametrize("lost", [(), ((5.0, 0),), ((9.0, -1),)], ids=["none lost", "the first lost", "the last lost"])
def test_each_due_step_has_one_point_and_training_never_waits(engines, size, lost):
    losses = [(time, index % engines) for time, index in lost]
    scenario = make_scenario(engines, size, losses)
    assert_whole_record(scenario, simulate_evals(scenario))


@pytest.mark.parametrize("engines", [1, 4])
@pytest.mark.parametrize("seconds", [1, 6, 30])
def test_a_deadline_ends_an_evaluation_and_no_engine(engines, seconds):
    scenario = make_scenario(engines, ENDLESS, eval_seconds=seconds)
    found = simulate_evals(scenario)
    due = [0, *range(EVERY, STEPS, EVERY), STEPS]
    assert sorted(point.step for point in found.points) == due
    assert found.restarts == 0
    assert max(found.waits) < 1.0
    assert all(point.prompts >= MIN_PROMPTS for point in found.points)


@pytest.mark.parametrize("engines", [1, 2, 16])
@pytest.mark.parametrize("stop", [2.0, 9.5, 20.0])
def test_a_stop_leaves_what_is_due_in_the_state(engines, stop):
    """Recorded points are whole; the others are pending, and the next attempt makes them up from their checkpoints."""

    async def run():
        simulation = EvalSimulation(make_scenario(engines, LONG, stop_at=stop))
        await simulation.train()
        lines = simulation.deps.journals.evals.read()
        return simulation.state, [line["step"] for line in lines], sorted(simulation.began_evals)

    state, recorded, begun = play(run())
    assert sorted([*recorded, *(each.step for each in state.pending)]) == begun

    async def resume():
        simulation = EvalSimulation(make_scenario(engines, LONG), state=state)
        for slot in simulation.pool.slots.values():
            simulation.pool.start_slot(slot)
        await simulation.pool.wait_running(1)
        task = asyncio.create_task(simulation.syncer.run())
        await simulation.evaluator.catch_up()
        task.cancel()
        return [line for line in simulation.deps.journals.evals.read()]

    late = play(resume())
    assert sorted([*recorded, *(line["step"] for line in late)]) == begun
    assert all(line["version"] == line["versionEnd"] == line["step"] and not line["unsampled"] for line in late)
    assert [line["index"] for line in late] == list(range(len(recorded), len(begun)))


def test_the_interval_of_a_point_is_that_of_its_completions():
    """The only engine is updated meanwhile: never more than half of the lag behind when it gets new weights."""
    found = simulate_evals(make_scenario(1, LONG))
    assert any(point.version_end > point.version for point in found.points)
    for first, last in itertools.pairwise(sorted({versions for _, *pair, _ in found.sampled for versions in pair})):
        assert last - first <= 4 // 2 + 1
    versions = [version for _, *pair, _ in found.sampled for version in pair]
    assert min(versions) == min(point.version for point in found.points)
    assert max(versions) == max(point.version_end for point in found.points)


def test_a_part_has_short_and_long_completions_alike():
    """Completions that are in flight at the end are awaited: their mean length is that of all completions."""
    found = simulate_evals(make_scenario(4, (200, 4)))
    parts = [point for point in found.points if point.unsampled]
    whole = [point for point in found.points if not point.unsampled]
    assert parts
    assert whole
    # Lengths have a standard deviation of about 145 tokens: 200 of them a standard error of 10.
    assert np.mean([each.mean_tokens for each in parts]) == pytest.approx(whole[0].mean_tokens, abs=30)
    assert all(part.standard_error >= 0 for part in parts)


def test_a_lost_engine_of_several_costs_no_point_and_no_prompt():
    scenario = make_scenario(16, LONG, [(1.0, 3)])
    found = simulate_evals(scenario)
    assert_whole_record(scenario, found)
    assert not found.points[0].unsampled


def test_progress_is_shown_from_the_start():
    async def run():
        simulation = EvalSimulation(make_scenario(4, SHORT))
        await simulation.train()
        return simulation.observer.progress

    shown = play(run())
    first = [each for each in shown if each is not None and each.step == 0]
    assert (first[0].done, first[-1].done) == (0, 20)
    assert len(first) <= 21, "each changes the run's status"
    assert shown[-1] is None
    assert EvalProgress(100, 312, 1000, 0.414, 0.031).describe() == (
        "evaluating step 100: 312 of 1000 prompts, pass rate 0.41 ± 0.03 so far"
    )


# --- order, seeds, and what counts


def make_set(name, sizes, parts=(), samples=2):
    prompts = [Prompt(i, "", np.array([i], np.int32), "", source=s) for s, n in sizes.items() for i in range(n)]
    return EvalSet(name, prompts, samples, parts=parts)


SETS = [make_set("held_out", {"math": 300, "code": 100}, ("math", "code")), make_set("near", {"near": 50})]


def test_every_beginning_of_the_order_has_the_same_share_of_each_set_and_source():
    order = order_prompts(SETS, seed=1, step=10)
    assert len(set(order)) == 450
    counts = collections.Counter()
    for count, task in enumerate(order, 1):
        counts[SETS[task.set_index].prompts[task.row].source] += 1
        for source, size in (("math", 300), ("code", 100), ("near", 50)):
            assert abs(counts[source] - count * size / 450) <= 1.5


def test_order_and_seeds_differ_by_step_and_repeat():
    assert order_prompts(SETS, seed=1, step=10) == order_prompts(SETS, seed=1, step=10)
    assert order_prompts(SETS, seed=1, step=10) != order_prompts(SETS, seed=1, step=20)
    keys = itertools.product((1, 2), (10, 20), ("held_out", "near"), (5, 6))
    seeds = [draw_seeds(derive_rng(seed, step, name, 1, prompt), 16) for seed, step, name, prompt in keys]
    assert len({each for row in seeds for each in row}) == 16 * 16, "run, step, set, prompt and number all count"
    assert seeds[0] == draw_seeds(derive_rng(1, 10, "held_out", 1, 5), 16)
    assert all(0 <= each < 2**63 for row in seeds for each in row)


def test_a_prompt_of_an_evaluation_is_sampled_with_its_own_seeds():
    """The second attempt at the same weights asks for the same noise."""

    async def run():
        simulation = EvalSimulation(make_scenario(2, SHORT))
        asked = {}
        sample = simulation.fleet.sample

        async def watch(index, prompt, requests):
            if prompt[0] >= HELD_OUT_ID:
                asked.setdefault(int(prompt[0]), []).append([each.seed for each in requests])
            return await sample(index, prompt, requests)

        simulation.fleet.sample = watch
        await simulation.train()
        return asked

    once, twice = play(run()), play(run())
    assert {prompt: sorted(map(tuple, rows)) for prompt, rows in once.items()} == {
        prompt: sorted(map(tuple, rows)) for prompt, rows in twice.items()
    }
    drawn = [seed for rows in once.values() for row in rows for seed in row]
    assert len(set(drawn)) == len(drawn) == 20 * 2 * 4


@pytest.mark.parametrize(
    ("begun", "is_enough", "rule"),
    [
        (45, False, "30 of the pooled set, 10 of code, 5 of the other set"),
        (200, False, "code has more than 30, the other set fewer"),
        (300, True, "30 of each"),
    ],
)
def test_a_part_counts_with_enough_prompts_of_each_set_and_source(begun, is_enough, rule):
    work = EvalWork(SETS, seed=1, step=10)
    for _ in range(begun):
        work.begin()
        work.finish()
    assert work.is_enough() == is_enough, rule


def test_a_small_set_counts_when_all_of_it_has_begun():
    work = EvalWork([make_set("held_out", {"": 7})], seed=1, step=0)
    for _ in range(6):
        work.begin()
    assert not work.is_enough()
    task = work.begin()
    assert work.is_enough()
    work.end()
    work.give_back(task)
    assert work.has_next, "a prompt of a lost engine belongs to the sample"
    assert work.begin() == task


def test_a_lease_that_no_engine_can_take_is_withdrawn_by_the_next_one():
    """The engine is lost before it has the weights; the evaluation is repeated, and newer weights are sent."""

    async def run():
        simulation = EvalSimulation(make_scenario(1, SHORT))
        simulation.state.pending.append(PendingEval(0, 0.0))
        await simulation.evaluator.begin(simulation.state.pending[0], whole=False)
        simulation.evaluator.end()
        await asyncio.sleep(1.0)
        return simulation

    simulation = play(run())
    assert simulation.observer.late == 1
    assert [each.step for each in simulation.state.pending] == [0]
