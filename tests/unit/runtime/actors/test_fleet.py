"""Calls to all trainer ranks of which some fail."""

import asyncio

import pytest

from scalerl_runtime.actors.fleet import engine_seed, gather_ranks
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


def test_every_start_of_every_engine_in_every_attempt_has_its_own_seed():
    starts = [(attempt, index, start) for attempt in (1, 2, 3) for index in range(64) for start in range(40)]
    seeds = {engine_seed(42, *start) for start in starts}
    assert len(seeds) == len(starts)
    assert all(0 <= seed < 2**32 for seed in seeds), "what numpy takes"
    assert engine_seed(42, 1, 0, 0) == engine_seed(42, 1, 0, 0) != engine_seed(43, 1, 0, 0)
