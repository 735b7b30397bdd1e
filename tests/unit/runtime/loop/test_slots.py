"""The pool's slots follow the capacity of the cluster."""

import asyncio
from typing import Any

import pytest

from scalerl_api.recipe import Recipe
from scalerl_runtime.algorithm.staleness import build_staleness_bound
from scalerl_runtime.loop.device_time import RoleClock
from scalerl_runtime.loop.pool import Pool
from scalerl_runtime.loop.slots import PoolOptions, Slot, SlotState, plan_slots


@pytest.mark.parametrize(
    ("why", "states", "capacity", "start", "give_up"),
    [
        ("none yet", [], 0, [], []),
        ("the first pods", [], 2, [0, 1], []),
        ("one more", ["ready"], 2, [1], []),
        ("enough", ["ready", "starting"], 2, [], []),
        ("a lost generator restarts in its own slot", ["ready", "vacant", "stale"], 3, [1], []),
        ("vacant before new", ["vacant", "ready"], 3, [0, 2], []),
        ("one waiting slot is too many", ["ready", "starting"], 1, [], [1]),
        ("the highest waiting slot is given up", ["starting", "lost", "starting"], 2, [], [2]),
        ("running slots are never given up", ["ready", "stale"], 1, [], []),
        ("all gone", ["starting", "ready"], 0, [], [0]),
        ("given up as many as are too many", ["starting", "starting", "starting"], 1, [], [1, 2]),
    ],
)
def test_slots_to_start_and_to_give_up(
    why: str, states: list[SlotState], capacity: int, start: list[int], give_up: list[int]
) -> None:
    assert plan_slots(dict(enumerate(states)), capacity) == (start, give_up), why


class Starts:
    """A fleet whose generator starts when the test allows it."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.allowed: dict[int, asyncio.Event] = {}
        self.cancelled: list[int] = []

    async def start_generator(self, index: int) -> float:
        self.started.append(index)
        event = self.allowed.setdefault(index, asyncio.Event())
        try:
            await event.wait()
        except asyncio.CancelledError:
            self.cancelled.append(index)
            raise
        return 1.0

    async def sample(self, *_: Any) -> Any:
        raise AssertionError("nothing is generated here")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def make_pool(fleet: Starts, clock: Clock, slots: list[Slot]) -> Pool:
    recipe = Recipe()
    options = PoolOptions(
        recipe=recipe,
        staleness=build_staleness_bound(recipe),
        interruption=None,
        seed=0,
        generate_seconds=10.0,
        start_seconds=10.0,
        max_sequences=8,
        devices=4,
    )
    return Pool(options, fleet, None, slots, clock)  # type: ignore[arg-type] # nothing is graded here


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_slots_follow_the_number_of_pods() -> None:
    async def scenario() -> None:
        fleet, clock = Starts(), Clock()
        pool = make_pool(fleet, clock, [])
        pool.start_clocks()
        capacity = [1]

        async def count() -> int:
            return capacity[0]

        pool.follow_capacity(count)
        await settle()
        assert fleet.started == [0]
        fleet.allowed[0].set()
        await settle()
        assert pool.slots[0].state == "stale"

        pool.resize(2)  # scaled up
        await settle()
        assert fleet.started == [0, 1]
        clock.now = 100.0
        pool.resize(1)  # and down again before it has started
        await settle()
        assert (pool.slots[1].state, fleet.cancelled) == ("vacant", [1])
        clock.now = 300.0
        assert pool.slots[0].clock.total(clock.now) == 4 * 300.0  # four devices
        assert pool.slots[1].clock.total(clock.now) == 4 * 100.0  # a vacant slot is not charged
        await pool.close()

    asyncio.run(scenario())


def test_a_lost_generator_waits_for_its_pod() -> None:
    async def scenario() -> None:
        fleet, clock = Starts(), Clock()
        pool = make_pool(fleet, clock, [])
        pool.start_clocks()

        async def count() -> int:
            return 1

        pool.follow_capacity(count)
        await settle()
        fleet.allowed[0].set()
        await settle()
        pool.mark_lost(0, "its pod is deleted")
        await settle()
        assert (pool.slots[0].state, pool.slots[0].restarts, fleet.started) == ("vacant", 1, [0])
        pool.mark_lost(0, "again")  # a second call that failed: lost once
        assert pool.counters.restarts == 1
        pool.resize(0)
        assert pool.slots[0].state == "vacant"
        clock.now = 50.0
        pool.resize(1)  # the pod is back
        await settle()
        assert (pool.slots[0].state, fleet.started) == ("stale", [0, 0])
        clock.now = 60.0
        assert pool.slots[0].clock.total(clock.now) == 4 * 10.0
        await pool.close()

    asyncio.run(scenario())


def test_without_pods_a_lost_generator_restarts_at_once() -> None:
    async def scenario() -> None:
        fleet = Starts()
        pool = make_pool(fleet, Clock(), [Slot(0, RoleClock(1), state="ready")])
        pool.mark_lost(0, "killed")
        await settle()
        assert (pool.slots[0].state, fleet.started) == ("starting", [0])
        await pool.close()

    asyncio.run(scenario())


def test_a_failed_capacity_query_ends_the_run() -> None:
    async def scenario() -> None:
        pool = make_pool(Starts(), Clock(), [])

        async def count() -> int:
            raise ConnectionError("no head")

        pool.follow_capacity(count)
        await settle()
        assert isinstance(pool.fault, ConnectionError)
        await pool.close()

    asyncio.run(scenario())
