"""A client's calls to an API server that refuses them: `python bench/cluster/client_faults.py CLIENT`. I/O.

A fake server answers 429 with a Retry-After once, and 403 to one call while three others wait for their answers.
CLIENT is one of client_libraries' names; the interpreter has that library (see clients.py).
"""

import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from aiohttp import web
from client_libraries import CLIENTS, Client

from scalerl_operator.kube.client import Json

SLOW_SECONDS = 1.0
BUSY_SECONDS = 1
CODES = {429: "TooManyRequests", 403: "Forbidden"}


class Server:
    """An API server that stores nothing; the object's name selects the answer."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    async def answer(self, request: web.Request) -> web.Response:
        """Answer any call."""
        await request.read()
        name = request.path.rstrip("/").rpartition("/")[2]
        self.calls[name] += 1
        if name == "version":
            return web.json_response({"gitVersion": "v1.35.0"})
        if name == "busy" and self.calls[name] == 1:
            return _refuse(429)
        if name == "forbidden":
            return _refuse(403)
        if name.startswith("slow"):
            await asyncio.sleep(SLOW_SECONDS)
        return web.json_response(_build_object(name))


def _refuse(code: int) -> web.Response:
    status = {"kind": "Status", "apiVersion": "v1", "code": code, "reason": CODES[code], "message": "played"}
    headers = {"Content-Type": "application/json", "Retry-After": str(BUSY_SECONDS)}
    return web.Response(status=code, body=json.dumps(status).encode(), headers=headers)


def _build_object(name: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "played"}}


async def _attempt(client: Client, name: str) -> None:
    began = time.monotonic()
    (found,) = await asyncio.gather(client.apply(_build_object(name)), return_exceptions=True)
    result = f"{type(found).__name__}: {str(found)[:60]!r}" if isinstance(found, BaseException) else "answered"
    print(f"{name}: {result}, after {time.monotonic() - began:.1f} s", flush=True)


async def play(make: str, folder: Path) -> None:
    """Serve, and send one client's calls to each refusal."""
    server, app = Server(), web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    client = CLIENTS[make](str(_write_kubeconfig(folder, f"http://{host}:{port}")), 32)
    await _attempt(client, "first")
    await _attempt(client, "busy")
    waiting = [asyncio.create_task(_attempt(client, f"slow-{number}")) for number in range(3)]
    await asyncio.sleep(SLOW_SECONDS / 3)
    await _attempt(client, "forbidden")
    await asyncio.gather(*waiting)
    print("calls that reached the server:", dict(server.calls))
    await client.close()
    await runner.cleanup()


def _write_kubeconfig(folder: Path, url: str) -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": url}}],
        "users": [{"name": "it", "user": {"token": "token"}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(document))
    return path


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as own:
        asyncio.run(play(sys.argv[1], Path(own)))
