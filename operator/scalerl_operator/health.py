"""The operator's HTTP: liveness, readiness, metrics. I/O."""

from collections.abc import Callable

from aiohttp import web

from scalerl_api.wire import PATH_HEALTH, PATH_METRICS, PATH_READY


async def start_health(
    port: int, *, is_live: Callable[[], bool], is_ready: Callable[[], bool], render: Callable[[], bytes]
) -> web.AppRunner:
    """Serve on all addresses; `runner.cleanup()` ends it. Port 0 lets the kernel choose."""

    async def live(_: web.Request) -> web.Response:
        return _answer(is_live(), "live", "the loop stands still")

    async def ready(_: web.Request) -> web.Response:
        return _answer(is_ready(), "ready", "the caches are not filled")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app = web.Application()
    app.add_routes([web.get(PATH_HEALTH, live), web.get(PATH_READY, ready), web.get(PATH_METRICS, metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, None, port).start()
    return runner


def _answer(good: bool, yes: str, no: str) -> web.Response:
    return web.Response(text=yes if good else no, status=200 if good else 503)
