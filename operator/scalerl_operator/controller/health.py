"""The operator's HTTP: liveness, readiness, metrics. I/O; what is alive and ready is decided by functions of values."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from scalerl_api.wire import PATH_HEALTH, PATH_METRICS, PATH_READY

BEAT_SECONDS = 30.0  # a loop that has not turned for so long is dead
WORKER_SECONDS = 150.0  # every worker may be in a pass that waits for the API server; a pass ends after 60 s
WATCH_SECONDS = 1200.0  # four whole lists have failed; the alert comes earlier, for a restart seldom helps


@dataclass(frozen=True)
class HealthSignals:
    """When the parts of a replica last showed that they live, in seconds of one monotonic clock."""

    lease: float
    """The lease was looked at."""
    workers: float | None = None
    """A worker looked for work; None while this replica does not work on runs."""
    watches: float | None = None
    """A watch told something, or whole lists were read; None while it does not watch."""


def find_dead(signs: HealthSignals, now: float) -> str:
    """Return what of the replica is dead; empty if nothing is."""
    parts = (
        ("nobody looks at the lease", signs.lease, BEAT_SECONDS),
        ("no worker looks for work", signs.workers, WORKER_SECONDS),
        ("nothing is heard of the watches", signs.watches, WATCH_SECONDS),
    )
    dead = [text for text, last, limit in parts if last is not None and now - last > limit]
    return "; ".join(dead)


def find_unready(*, is_leading: bool, is_synced: bool) -> str:
    """Return why the replica is not ready; empty if it is. A standby is ready when it could take over."""
    return "the caches are not filled" if is_leading and not is_synced else ""


async def start_health(
    port: int, *, dead: Callable[[], str], unready: Callable[[], str], render: Callable[[], bytes]
) -> web.AppRunner:
    """Serve on all addresses; `runner.cleanup()` ends it. Port 0 lets the kernel choose.

    Args:
        dead, unready: return why not, or nothing.
        render: called in another thread.
    """

    async def live(_: web.Request) -> web.Response:
        return _answer(dead())

    async def ready(_: web.Request) -> web.Response:
        return _answer(unready())

    async def metrics(_: web.Request) -> web.Response:
        body = await asyncio.to_thread(render)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app = web.Application()
    app.add_routes([web.get(PATH_HEALTH, live), web.get(PATH_READY, ready), web.get(PATH_METRICS, metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, None, port).start()
    return runner


def _answer(fault: str) -> web.Response:
    return web.Response(text=fault or "ok", status=503 if fault else 200)
