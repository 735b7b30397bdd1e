"""Bounded waits: every await of the runtime has a deadline and a name. I/O (asyncio only)."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class PeerDied(RuntimeError):
    """Another process died before it replied."""


class DeadlineExceeded(RuntimeError):
    """A wait exceeded its bound; the phase names the wait."""

    def __init__(self, phase: str, seconds: float):
        super().__init__(f"{phase} took longer than its deadline of {seconds:g} s")
        self.phase = phase
        self.seconds = seconds


async def within(seconds: float, phase: str, awaitable: Awaitable[T]) -> T:
    """Await `awaitable` for at most `seconds`. Raises DeadlineExceeded with the phase's name.

    Not `asyncio.wait_for`: in Python 3.11 it drops a cancellation that arrives as the awaited call completes, and then
    the wait for the background task never ends.
    """
    try:
        async with asyncio.timeout(seconds) as deadline:
            return await awaitable
    except TimeoutError as error:
        if not deadline.expired():
            raise
        raise DeadlineExceeded(phase, seconds) from error


async def while_alive(call: Awaitable[T], is_dead: Callable[[], bool], peer: str, *, poll_seconds: float = 0.5) -> T:
    """Await `call`, which another process completes. Raises PeerDied if that process dies before it replies."""
    task = asyncio.ensure_future(call)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=poll_seconds)
            if not task.done() and is_dead():
                raise PeerDied(f"{peer} died before it answered")
        return task.result()
    finally:
        task.cancel()


async def all_or_none(work: Sequence[Coroutine[None, None, T]]) -> list[T]:
    """Await all. When one fails, the others are cancelled, so that none uses a peer that is lost."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Return when one of `waits` has returned; the others are cancelled."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


class ChangeNotifier:
    """A counter of changes for any number of waiters, each of which passes the last count that it read.

    An `asyncio.Event` that several tasks clear loses wake-ups: one task's clear hides the change from a task that has
    not started to wait.
    """

    def __init__(self) -> None:
        self.count = 0
        self._waiters: list[asyncio.Future[None]] = []

    def set(self) -> None:
        """Count a change and wake every waiter."""
        self.count += 1
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait_past(self, count: int) -> None:
        """Return when the counter is above `count`; at once if it already is."""
        while self.count <= count:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
