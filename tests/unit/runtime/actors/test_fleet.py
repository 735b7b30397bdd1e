"""Calls to all trainer ranks of which some fail."""

import asyncio

import pytest

from scalerl_api import Fault, InvalidRun
from scalerl_runtime.actors.fleet import Fleet, engine_seed, gather_ranks
from scalerl_runtime.types import TrainerLost

BROKEN = "a trainer rank failed: RuntimeError('Connection closed by peer')"


async def answer(value):
    return value


async def fail(fault, *, after=0.0):
    await asyncio.sleep(after)
    raise fault


async def hang():
    await asyncio.Event().wait()


def test_results_are_in_the_order_of_the_ranks():
    async def late(value):
        await asyncio.sleep(0.01)
        return value

    assert asyncio.run(gather_ranks([late(4), answer(7)])) == [4, 7]


@pytest.mark.parametrize(
    "after", [pytest.param(0.0, id="at once"), pytest.param(0.02, id="after its peers have failed")]
)
def test_a_lost_rank_is_the_cause_although_its_peers_fail_first(after):
    """Else the death would count as the run's own fault, and cost a restart."""
    gone = TrainerLost("a trainer rank is lost: its process has died")
    calls = [fail(RuntimeError(BROKEN)), fail(gone, after=after), fail(RuntimeError(BROKEN), after=0.01)]
    with pytest.raises(TrainerLost, match="its process has died"):
        asyncio.run(gather_ranks(calls))


def test_a_lost_rank_ends_the_call_although_its_peers_hang():
    with pytest.raises(TrainerLost):
        asyncio.run(gather_ranks([hang(), fail(TrainerLost("gone"))]))


@pytest.mark.parametrize(
    "peer", [pytest.param(lambda: answer(7), id="peers answer"), pytest.param(hang, id="peers hang")]
)
def test_a_ranks_own_fault_is_raised_unchanged(peer):
    with pytest.raises(RuntimeError, match="Connection closed by peer"):
        asyncio.run(gather_ranks([fail(RuntimeError(BROKEN)), peer()], death_report_seconds=0.01))


def test_every_start_of_every_engine_has_its_own_seed():
    assert engine_seed(42, 0, 0) == 42
    seeds = {engine_seed(42, index, starts) for index in range(64) for starts in range(100)}
    assert len(seeds) == 64 * 100


def test_a_model_that_an_engine_does_not_fit_is_no_failed_sync():
    """Else the generator would count as lost, and be started again with the same model."""
    fault = InvalidRun([Fault("spec.model.source", "folder", "a model of which both have the same tensors")])
    calls = [answer(2.0), answer(None), fail(fault)]
    with pytest.raises(InvalidRun, match="the same tensors"):
        asyncio.run(Fleet(None)._settle(frozenset({3, 4}), calls, num_trainer_calls=1))
