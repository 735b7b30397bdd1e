"""What carries the watches' events into the operator's loop."""

import asyncio
import threading
from functools import partial
from typing import Any

import kopf
import pytest

from scalerl_operator.controller import watches as handlers
from scalerl_operator.controller.watches import _NoDifferences, _Relay


class Loop:
    """Counts wakings; turns when it is told to."""

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
    heard: list[int] = []
    for number in range(3):
        relay.send(partial(heard.append, number))
    loop.turn()
    assert (heard, loop.wakings) == ([0, 1, 2], 1)
    relay.send(partial(heard.append, 7))
    loop.turn()
    assert (heard[-1], loop.wakings) == (7, 2)


def test_what_is_sent_while_the_calls_are_made_is_not_lost(loop: Loop, relay: _Relay) -> None:
    heard: list[str] = []

    def first() -> None:
        heard.append("first")
        relay.send(partial(heard.append, "second"))

    relay.send(first)
    loop.turn()
    loop.turn()
    assert heard == ["first", "second"]


def test_a_call_that_fails_does_not_keep_the_next_from_being_made(loop: Loop, relay: _Relay) -> None:
    heard: list[str] = []

    def fail() -> None:
        raise ValueError("not a pod")

    relay.send(fail)
    relay.send(partial(heard.append, "next"))
    with pytest.raises(ValueError, match="not a pod"):
        loop.turn()
    loop.turn()
    assert heard == ["next"]


def test_a_long_list_lets_the_loop_turn_in_between(loop: Loop, relay: _Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "CALLS_AT_ONCE", 2)
    heard: list[int] = []
    for number in range(5):
        relay.send(partial(heard.append, number))
    lengths = []
    for _ in range(3):
        loop.turn()
        lengths.append(len(heard))
    assert lengths == [2, 4, 5]


def test_events_arrive_from_another_thread() -> None:
    heard: list[int] = []

    async def story() -> None:
        done = asyncio.Event()
        relay = _Relay(asyncio.get_running_loop())

        def on(number: int) -> None:
            heard.append(number)
            if len(heard) == 1000:
                done.set()

        def send() -> None:
            for number in range(1000):
                relay.send(partial(on, number))

        threading.Thread(target=send).start()
        async with asyncio.timeout(60.0):
            await done.wait()

    asyncio.run(story())
    assert heard == list(range(1000))


def test_kopf_compares_nothing() -> None:
    """Its own storage copies every object at every event and writes what it saw into an annotation."""
    storage, body = _NoDifferences(), kopf.Body({"metadata": {"annotations": {"a": "b"}}, "spec": {"x": 1}})
    patch = kopf.Patch()
    storage.store(body=body, patch=patch, essence={"spec": {"x": 1}})
    assert (storage.build(body=body), storage.fetch(body=body), dict(patch)) == ({}, None, {})
