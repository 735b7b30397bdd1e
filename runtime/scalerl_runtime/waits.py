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
    """Await `awaitable` for at most `seconds`. Raises DeadlineExceeded with the phase's name."""
    try:
        return await asyncio.wait_for(awaitable, seconds)
    except TimeoutError as error:
        raise DeadlineExceeded(phase, seconds) from error
