"""The syncer's lease, against later steps."""

import asyncio

from scalerl_api.recipe import Recipe
from scalerl_runtime.algorithm.results import SyncReport
from scalerl_runtime.algorithm.staleness import build_staleness_bound
from scalerl_runtime.loop.device_time import RoleClock
from scalerl_runtime.loop.pool import Pool
from scalerl_runtime.loop.slots import PoolOptions, Slot
from scalerl_runtime.loop.syncer import Syncer
from scalerl_runtime.weights.buckets import StagedWeights


class Fleet:
    """A trainer whose version the test sets; a push takes as long as the loop does."""

    def __init__(self) -> None:
        self.version = 0
        self.pushed: list[int] = []

    async def stage(self) -> StagedWeights:
        return StagedWeights(self.version, (), 0.0)

    async def push(self, _members: frozenset[int], staged: StagedWeights) -> SyncReport:
        await asyncio.sleep(0)
        self.pushed.append(staged.version)
        return SyncReport(staged.version, 0, 0.0, 0.0, 0.0)

    async def probe(self, _index: int) -> None:
        return None


def make_syncer(fleet: Fleet) -> tuple[Syncer, Slot]:
    slot = Slot(0, RoleClock(1), state="stale")
    recipe = Recipe()
    options = PoolOptions(recipe, build_staleness_bound(recipe), None, 0, 60.0, 60.0, 8)
    pool = Pool(options, fleet, None, [slot], lambda: 0.0)  # type: ignore[arg-type] # nothing is generated here
    return Syncer(fleet, pool, 60.0, lambda _report: None), slot


def test_a_step_after_the_lease_does_not_overtake_its_weights() -> None:
    """Without the rule the newer copy replaces the leased one before it is sent, and the lease is never granted."""

    async def scenario() -> None:
        fleet = Fleet()
        syncer, slot = make_syncer(fleet)
        fleet.version = 4
        lease = await syncer.lease(4)
        fleet.version = 5
        await syncer.publish(5)
        task = asyncio.create_task(syncer.run())
        (leased,) = await asyncio.wait_for(lease, 5)
        assert (leased is slot, slot.version, slot.leased) == (True, 4, True)
        syncer.release(slot)
        for _ in range(20):
            await asyncio.sleep(0)
        assert slot.version == 5, "after the lease the newer weights follow"
        assert fleet.pushed == [4, 5]
        task.cancel()

    asyncio.run(scenario())
