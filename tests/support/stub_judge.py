"""A judge behind an URL, for tests: replies from a script and records what it was asked. I/O."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web


@dataclass(frozen=True)
class Reply:
    """One HTTP reply."""

    body: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def chat(text: str) -> Reply:
    """The reply of an OpenAI-compatible chat server."""
    return Reply(json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}))


class StubJudge:
    """`reply(body, number)` is called with each request's JSON and its number, from 0."""

    def __init__(self, reply: Callable[[dict[str, Any], int], Reply]):
        self._reply = reply
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/judge", self._handle)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/judge"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        body = await request.json()
        number = len(self.bodies)
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        reply = self._reply(body, number)
        return web.Response(text=reply.body, status=reply.status, headers=reply.headers)
