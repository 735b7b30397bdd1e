"""Waits that end: every await of the runtime has a deadline and a name. I/O (asyncio only)."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


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
