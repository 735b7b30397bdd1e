"""The coordinator's HTTP server: metrics, progress, health. I/O."""

import hmac
import logging
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from scalerl_api.wire import PATH_HEALTH, PATH_METRICS, PATH_PROGRESS, PATH_READY, Progress

log = logging.getLogger(__name__)


class HttpServer:
    """Serves what `progress` and `metrics` return at the time of the request."""

    def __init__(self, progress: Callable[[int], Progress], metrics: Callable[[], bytes], token: str):
        self._progress = progress
        self._metrics = metrics
        self._token = token
        self._runner: web.AppRunner | None = None
        self.is_ready = False

    async def start(self, host: str, port: int, address_file: Path) -> None:
        """Listen (port 0: the kernel's choice) and write `host:port` to `address_file` for the local driver."""
        app = web.Application()
        app.add_routes(
            [
                web.get(PATH_METRICS, self._get_metrics),
                web.get(PATH_PROGRESS, self._get_progress),
                web.get(PATH_HEALTH, self._get_health),
                web.get(PATH_READY, self._get_ready),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        bound = self._runner.addresses[0][1]
        part = address_file.with_suffix(".part")
        part.write_text(f"{host}:{bound}")
        part.replace(address_file)

    async def stop(self) -> None:
        """Close the socket."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _get_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _get_progress(self, request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return web.json_response({"error": "a bearer token is needed"}, status=401)
        since = request.query.get("since", "0")
        if not since.isdecimal():
            return web.json_response({"error": f"since is {since!r}; need a whole number >= 0"}, status=400)
        return web.Response(
            text=self._progress(int(since)).model_dump_json(by_alias=True), content_type="application/json"
        )

    async def _get_health(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok")  # the event loop that trains also serves this

    async def _get_ready(self, _request: web.Request) -> web.Response:
        return web.Response(text="ready" if self.is_ready else "starting", status=200 if self.is_ready else 503)
