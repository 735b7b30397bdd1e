"""Two replicas and one Lease, on an API server in memory."""

import asyncio
import threading
from collections.abc import Awaitable
from typing import Any

import pytest
from api_server import InMemoryApiServer

from scalerl_operator.controller.lease import Identity, LeaseKeeper, LeaseLoop
from scalerl_operator.kube.client import Resource
from scalerl_operator.reconcile.election import LeaseTimings

# Real time, short enough for a test of a second; test_election covers the rules with a clock that is set.
TERMS = LeaseTimings(duration=0.6, renew=0.4, retry=0.05)
Json = dict[str, Any]


def lease_of(server: InMemoryApiServer) -> Json:
    return server.objects["leases", "ops", "scalerl-operator"]


@pytest.fixture
def server() -> InMemoryApiServer:
    return InMemoryApiServer()


def keeper(server: InMemoryApiServer, me: str, terms: LeaseTimings = TERMS) -> LeaseKeeper:
    api: Any = server
    return LeaseKeeper(api, Identity("ops", "scalerl-operator", me), terms)


def play(story: Awaitable[None]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(30.0):
            await story

    asyncio.run(whole())


def test_a_standby_leads_only_after_the_lease_expires(server: InMemoryApiServer) -> None:
    first, second = keeper(server, "a"), keeper(server, "b")

    async def story() -> None:
        await first.acquire()
        assert first.is_leading()
        keeping = asyncio.create_task(first.keep())
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(1.0)
        assert not waiting.done(), "a renewed lease is not taken"
        keeping.cancel()  # as a kill does
        await waiting
        assert second.is_leading()
        assert not first.is_leading(), "the dead one's own clock has ended its lease before"

    play(story())
    assert (lease_of(server)["spec"]["holderIdentity"], lease_of(server)["spec"]["leaseTransitions"]) == ("b", 1)


def test_a_released_lease_is_taken_at_once(server: InMemoryApiServer) -> None:
    first, second = keeper(server, "a"), keeper(server, "b")

    async def story() -> None:
        await first.acquire()
        await first.release()
        assert not first.is_leading()
        async with asyncio.timeout(TERMS.duration / 2):
            await second.acquire()

    play(story())


def test_a_lease_is_released_although_a_renewal_arrives_late(server: InMemoryApiServer) -> None:
    leader = keeper(server, "a")
    read = server.get

    async def read_before_it_arrives(resource: Resource, namespace: str, name: str) -> Json:
        found = await read(resource, namespace, name)
        if len(server.reads) == 2:  # the first of the release
            server.store("leases", found)
        return found

    async def story() -> None:
        await leader.acquire()
        server.get = read_before_it_arrives  # type: ignore[method-assign]  # the server's answer at that moment
        await leader.release()

    play(story())
    assert (len(server.reads), lease_of(server)["spec"]["holderIdentity"]) == (3, "")


def test_a_leader_that_cannot_renew_stops_leading(server: InMemoryApiServer) -> None:
    first = keeper(server, "a")

    async def story() -> None:
        await first.acquire()
        server.is_away = True
        await first.keep()
        assert not first.is_leading()

    play(story())


def test_one_of_two_simultaneous_takers_leads(server: InMemoryApiServer) -> None:
    keepers = [keeper(server, name) for name in "abcd"]

    async def story() -> None:
        await asyncio.gather(*(each._look() for each in keepers))

    play(story())
    assert sum(each.is_leading() for each in keepers) == 1


def test_a_restarted_replica_renews_its_own_lease(server: InMemoryApiServer) -> None:
    """A replica with the same identity, as a StatefulSet's pod has, does not wait for its own lease."""

    async def story() -> None:
        await keeper(server, "a").acquire()
        again = keeper(server, "a")
        async with asyncio.timeout(TERMS.duration / 2):
            await again.acquire()

    play(story())
    assert lease_of(server)["spec"]["leaseTransitions"] == 0


def test_a_leader_renews_without_reading(server: InMemoryApiServer) -> None:
    leader = keeper(server, "a")

    async def story() -> None:
        await leader.acquire()
        before = len(server.reads)
        for _ in range(3):
            assert await leader._look()
        assert len(server.reads) == before

    play(story())
    assert lease_of(server)["metadata"]["resourceVersion"] == "4"


def test_a_leader_reads_the_lease_again_after_a_foreign_write(server: InMemoryApiServer) -> None:
    leader = keeper(server, "a")

    async def story() -> None:
        await leader.acquire()
        server.store("leases", {**lease_of(server), "spec": {**lease_of(server)["spec"], "holderIdentity": "b"}})
        assert not await leader._look(), "the write was refused"
        assert not await leader._look(), "it is another's"
        assert not leader.is_leading()

    play(story())
    assert lease_of(server)["spec"]["holderIdentity"] == "b"


def test_an_answer_slower_than_the_retry_interval_is_awaited(server: InMemoryApiServer) -> None:
    patient = LeaseTimings(duration=60.0, renew=40.0, retry=0.01)
    leader = keeper(server, "a", patient)

    async def story() -> None:
        await leader.acquire()
        server.delay_seconds = 0.1
        assert await leader._look()

    play(story())


def test_the_lease_loop_runs_while_the_main_loop_is_blocked() -> None:
    async def story() -> None:
        loop, turned = LeaseLoop(), threading.Event()

        async def work() -> str:
            turned.set()
            return threading.current_thread().name

        task = asyncio.create_task(loop.run(work()))
        await asyncio.sleep(0)
        assert turned.wait(30.0), "nobody but the other thread can have done it: this one waits here"
        assert await task == "lease"
        loop.close()

    play(story())


def test_cancelling_a_wait_cancels_its_work_in_the_lease_loop() -> None:
    async def story() -> None:
        loop, ended = LeaseLoop(), threading.Event()

        async def forever() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        task = asyncio.create_task(loop.run(forever()))
        await asyncio.sleep(0.01)
        task.cancel()
        assert await asyncio.to_thread(ended.wait, 30.0)
        loop.close()

    play(story())
