"""Waits for the trainer ranks' processes, and names those that are late. I/O (asyncio only)."""

import asyncio
from collections.abc import Awaitable, Sequence

from scalerl_runtime.preflight.readings import PreflightFailed


async def all_started(calls: Sequence[Awaitable[object]], seconds: float) -> None:
    """Await an answer of each rank. Raises PreflightFailed with the ranks that have not answered within `seconds`."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    _, waiting = await asyncio.wait(tasks, timeout=seconds)
    for task in waiting:
        task.cancel()
    if waiting:
        late = ", ".join(str(rank) for rank, task in enumerate(tasks) if task in waiting)
        raise PreflightFailed(f"trainer ranks that no node has started within {seconds:g} s: {late}")
    await asyncio.gather(*tasks)
