"""The operator's HTTP: liveness, readiness, metrics. I/O; pure functions decide what is alive and ready."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from scalerl_api.wire import PATH_HEALTH, PATH_METRICS, PATH_READY

HEARTBEAT_SECONDS = 30.0  # the lease loop is dead after so long without a heartbeat
WORKER_SECONDS = 150.0  # every worker may be in a pass that waits for the API server; a pass ends after 60 s
WATCH_SECONDS = 1200.0  # four whole lists have failed; the alert comes earlier, for a restart seldom helps


@dataclass(frozen=True)
class HealthSignals:
    """Heartbeats of a replica's parts, in seconds of one monotonic clock."""

    lease: float
    """The lease was read or renewed."""
    workers: float | None = None
    """A worker polled the queue; None while this replica does not reconcile."""
    watches: float | None = None
    """A watch delivered an event, or a resync ended; None while this replica does not watch."""


def find_dead(signals: HealthSignals, now: float) -> str:
    """Return the dead parts of the replica as text; empty if all are alive."""
    parts = (
        ("the lease loop has no heartbeat", signals.lease, HEARTBEAT_SECONDS),
        ("no worker polls the queue", signals.workers, WORKER_SECONDS),
        ("the watches deliver nothing", signals.watches, WATCH_SECONDS),
    )
    dead = [text for text, last, limit in parts if last is not None and now - last > limit]
    return "; ".join(dead)


def find_unready(*, is_leading: bool, is_synced: bool) -> str:
    """Return why the replica is not ready; empty if it is. A standby is always ready: it can take over."""
    return "the caches are not filled" if is_leading and not is_synced else ""


async def start_health(
    port: int, *, dead: Callable[[], str], unready: Callable[[], str], render: Callable[[], bytes]
) -> web.AppRunner:
    """Serve on all addresses; `runner.cleanup()` ends it. Port 0 lets the kernel choose.

    Args:
        dead, unready: return the reason, or an empty text.
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
