"""An API server that gives the answers of a list, for tests of the client and the watches."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from scalerl_operator.kube.client import Connection

Json = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Call:
    """One received request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: str


@dataclass
class FakeApi:
    """Answer each call with the next of `answers` and repeat the last; a callable writes its own answer."""

    answers: list[Any] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    url: str = ""
    most: int = 0
    """Largest number of calls in flight."""
    _now: int = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        self.calls.append(Call(request.method, request.path, query, dict(request.headers), await request.text()))
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            given = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if callable(given):
                response: web.StreamResponse = await given(request)
                return response
            status, body, headers = given if isinstance(given, tuple) else (200, given, {})
            text = body if isinstance(body, str) else json.dumps(body)
            return web.Response(status=status, text=text, headers=headers)
        finally:
            self._now -= 1

    def connection(self, token: Callable[[], str | None] = lambda: "t0ken") -> Connection:
        return Connection(self.url, None, token)


def refusal(code: int, reason: str, message: str = "because", **headers: str) -> tuple[int, Json, dict[str, str]]:
    """Return a metav1.Status as Kubernetes sends it."""
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message}
    return code, {**status, "code": code}, {name.replace("_", "-"): value for name, value in headers.items()}


def pods(*names: str, more: str = "", version: int = 7) -> Json:
    """Return a page of a list."""
    metadata = {"resourceVersion": str(version), **({"continue": more} if more else {})}
    return {
        "kind": "PodList",
        "apiVersion": "v1",
        "metadata": metadata,
        "items": [{"metadata": {"name": n}} for n in names],
    }


def stream(*pieces: bytes, hold: asyncio.Event | None = None) -> Handler:
    """Send the pieces one by one; then, with `hold`, keep the answer open until it is set."""

    async def send(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0)
        if hold is not None:
            await hold.wait()
        return response

    return send


@asynccontextmanager
async def serving(*answers: Any) -> AsyncIterator[FakeApi]:
    """Serve on a free port of this machine."""
    api = FakeApi(list(answers))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield api
    finally:
        await runner.cleanup()
