"""Waits that end: every await of the runtime has a deadline and a name. I/O (asyncio only)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class PeerDied(RuntimeError):
    """Another process was to answer, and is gone."""


class DeadlineExceeded(RuntimeError):
    """A wait was longer than its bound; the phase says which."""

    def __init__(self, phase: str, seconds: float):
        super().__init__(f"{phase} took longer than its deadline of {seconds:g} s")
        self.phase = phase
        self.seconds = seconds


async def within(seconds: float, phase: str, awaitable: Awaitable[T]) -> T:
    """Await `awaitable` for at most `seconds`. Raises DeadlineExceeded with the phase's name.

    Not `asyncio.wait_for`: Python 3.11's drops a cancellation that arrives as the awaited call completes, and a
    background task that missed its cancellation is waited for for ever.
    """
    try:
        async with asyncio.timeout(seconds) as deadline:
            return await awaitable
    except TimeoutError as error:
        if not deadline.expired():
            raise
        raise DeadlineExceeded(phase, seconds) from error


async def while_alive(call: Awaitable[T], is_dead: Callable[[], bool], who: str, *, poll_seconds: float = 0.5) -> T:
    """Await `call`, whose answer comes from another process. Raises PeerDied when that is dead and has not answered."""
    task = asyncio.ensure_future(call)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=poll_seconds)
            if not task.done() and is_dead():
                raise PeerDied(f"{who} died before it answered")
        return task.result()
    finally:
        task.cancel()


class ChangeNotifier:
    """Something changed: for any number of waiters, each of which remembers what it has seen.

    An `asyncio.Event` that several tasks clear loses wake-ups: one task's clear hides the change from another that had
    not begun to wait.
    """

    def __init__(self) -> None:
        self.count = 0
        self._waiters: list[asyncio.Future[None]] = []

    def set(self) -> None:
        """Wake everybody who waits for a change after an earlier count."""
        self.count += 1
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait_past(self, seen: int) -> None:
        """Return when the count is above `seen`; at once if it is already."""
        while self.count <= seen:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
