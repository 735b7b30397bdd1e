"""The relay from the watches' threads into the operator's loop."""

import asyncio
import threading
from functools import partial
from typing import Any

import kopf
import pytest

from scalerl_operator.controller import watches as handlers
from scalerl_operator.controller.watches import _NoDifferences, _Relay


class Loop:
    """A loop that counts wake-ups and runs its callbacks only on request."""

    def __init__(self) -> None:
        self.due: list[Any] = []
        self.wakings = 0

    def call_soon_threadsafe(self, call: Any) -> None:
        self.wakings += 1
        self.due.append(call)

    def call_soon(self, call: Any) -> None:
        self.due.append(call)

    def turn(self) -> None:
        due, self.due = self.due, []
        for call in due:
            call()


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def relay(loop: Loop) -> _Relay:
    given: Any = loop
    return _Relay(given)


def test_a_burst_wakes_the_loop_once_and_keeps_its_order(loop: Loop, relay: _Relay) -> None:
    received: list[int] = []
    for number in range(3):
        relay.send(partial(received.append, number))
    loop.turn()
    assert (received, loop.wakings) == ([0, 1, 2], 1)
    relay.send(partial(received.append, 7))
    loop.turn()
    assert (received[-1], loop.wakings) == (7, 2)


def test_an_event_sent_during_delivery_is_not_lost(loop: Loop, relay: _Relay) -> None:
    received: list[str] = []

    def first() -> None:
        received.append("first")
        relay.send(partial(received.append, "second"))

    relay.send(first)
    loop.turn()
    loop.turn()
    assert received == ["first", "second"]


def test_a_failing_call_does_not_block_the_next(loop: Loop, relay: _Relay) -> None:
    received: list[str] = []

    def fail() -> None:
        raise ValueError("not a pod")

    relay.send(fail)
    relay.send(partial(received.append, "next"))
    with pytest.raises(ValueError, match="not a pod"):
        loop.turn()
    loop.turn()
    assert received == ["next"]


def test_a_long_list_yields_to_the_loop(loop: Loop, relay: _Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "CALLS_AT_ONCE", 2)
    received: list[int] = []
    for number in range(5):
        relay.send(partial(received.append, number))
    lengths = []
    for _ in range(3):
        loop.turn()
        lengths.append(len(received))
    assert lengths == [2, 4, 5]


def test_events_arrive_from_another_thread() -> None:
    received: list[int] = []

    async def story() -> None:
        done = asyncio.Event()
        relay = _Relay(asyncio.get_running_loop())

        def on(number: int) -> None:
            received.append(number)
            if len(received) == 1000:
                done.set()

        def send() -> None:
            for number in range(1000):
                relay.send(partial(on, number))

        threading.Thread(target=send).start()
        async with asyncio.timeout(60.0):
            await done.wait()

    asyncio.run(story())
    assert received == list(range(1000))


def test_kopf_computes_no_diff() -> None:
    """kopf's default storage copies every object at every event and writes the copy into an annotation."""
    storage, body = _NoDifferences(), kopf.Body({"metadata": {"annotations": {"a": "b"}}, "spec": {"x": 1}})
    patch = kopf.Patch()
    storage.store(body=body, patch=patch, essence={"spec": {"x": 1}})
    assert (storage.build(body=body), storage.fetch(body=body), dict(patch)) == ({}, None, {})
