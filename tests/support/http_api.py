"""The in-memory API server behind HTTP, as kopf and a KubeClient reach it: discovery, lists, watches, writes. I/O."""

import asyncio
import json
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fake_api
import yaml
from aiohttp import web
from api_server import InMemoryApiServer

from scalerl_operator.kube.client import CHILDREN, EVENTS, LEASES, PODS, RUNS, KubeError, Resource

Json = dict[str, Any]
Watch = asyncio.Queue[Json | None]

RESOURCES: dict[str, Resource] = {each.plural: each for each in (RUNS, PODS, EVENTS, LEASES, *CHILDREN.values())}
GROUP = {"groupVersion": "scalerl.io/v1alpha1", "version": "v1alpha1"}


def _entry(name: str, kind: str) -> Json:
    return {"name": name, "kind": kind, "namespaced": True, "singularName": "", "verbs": ["list", "watch", "patch"]}


DISCOVERY: dict[str, Json] = {
    "/api": {"versions": ["v1"]},
    "/api/v1": {"resources": [_entry("namespaces", "Namespace"), _entry("pods", "Pod")]},
    "/apis": {"groups": [{"name": "scalerl.io", "versions": [GROUP], "preferredVersion": GROUP}]},
    "/apis/scalerl.io": {"name": "scalerl.io", "versions": [GROUP], "preferredVersion": GROUP},
    "/apis/scalerl.io/v1alpha1": {"resources": [_entry("rlruns", "RLRun")]},
}


@dataclass(frozen=True)
class Request:
    """One request that was answered."""

    method: str
    path: str
    query: dict[str, str]
    agent: str
    """User-Agent: kopf names itself."""

    @property
    def is_list(self) -> bool:
        """Whether it lists all objects of a kind."""
        return (
            self.path not in DISCOVERY
            and "watch" not in self.query
            and not split_path(self.path)[2]
            and self.method == "GET"
        )


class HttpApi:
    """Serve `store`; a refusal is the answer to every path that contains its key."""

    def __init__(self, store: InMemoryApiServer | None = None):
        self.store = store or InMemoryApiServer()
        self.requests: list[Request] = []
        self.refusals: dict[str, tuple[int, Json | str, Json]] = {}
        """Part of `METHOD path` -> status, body, headers."""
        self.refuse_times: dict[str, int] = {}
        """Number of further refusals by key; a missing key has no limit."""
        self.extra: dict[str, Callable[[web.Request], web.Response]] = {}
        """Prefix of a path -> its handler."""
        self.files: dict[str, bytes] = {}
        """Path -> content, in every container: what `ls` and `cat` find."""
        self.exec: Callable[[web.Request, web.WebSocketResponse], Awaitable[None]] | None = None
        """Plays a command in a pod; None: `ls` and `cat` of `files`."""
        self.list_version = "9"
        self.log = ""
        """The log of every container."""
        self.closing = asyncio.Event()
        self._watches: dict[str, list[Watch]] = {}
        self._backlog: dict[str, list[Json | None]] = {}

    @property
    def asked(self) -> list[str]:
        """`METHOD path` of every request."""
        return [f"{each.method} {each.path}" for each in self.requests]

    def notify(self, plural: str, event: Json | None) -> None:
        """Send a watch event of a kind to one watch of it, the first that is open; None ends that watch."""
        watches = self._watches.get(plural)
        if watches:
            watches[0].put_nowait(event)
        else:
            self._backlog.setdefault(plural, []).append(event)

    def expire_watches(self) -> None:
        """End every open watch with 410: the server no longer stores the changes since then."""
        expired = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}
        for queue in [each for watches in self._watches.values() for each in watches]:
            queue.put_nowait(expired)
            queue.put_nowait(None)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        agent = request.headers.get("User-Agent", "")
        asked = Request(request.method, request.path, dict(request.query), agent)
        self.requests.append(asked)
        refused = self._refusal(asked)
        if refused is not None:
            return refused
        for prefix, respond in self.extra.items():
            if request.path.startswith(prefix):
                return respond(request)
        if request.path.rstrip("/") in DISCOVERY:
            return web.json_response(DISCOVERY[request.path.rstrip("/")])
        if request.path.endswith(("/exec", "/log")):
            return await self._execute(request) if request.path.endswith("/exec") else web.Response(text=self.log)
        plural, namespace, name = split_path(request.path)
        if "watch" in request.query:
            return await self._watch(request, plural)
        if request.method == "GET" and not name:
            return self._list(plural, namespace, request.query.get("fieldSelector", ""))
        return await self._one(request, plural, namespace, name)

    async def _execute(self, request: web.Request) -> web.WebSocketResponse:
        """Run `ls` or `cat` on `files`, as a kubelet would."""
        *program, last = request.query.getall("command")
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        if self.exec is not None:
            await self.exec(request, socket)
            return socket
        status: Json = {"status": "Success"}
        if program == ["cat"] and last not in self.files:
            status = {"status": "Failure", "reason": "NonZeroExitCode", "message": f"cat: {last}: No such file"}
        elif program == ["cat"]:
            for start in range(0, len(self.files[last]), 4096):
                await socket.send_bytes(b"\x01" + self.files[last][start : start + 4096])
        else:
            await socket.send_bytes(b"\x01" + "".join(f"{Path(path).name}\n" for path in self.files).encode())
        await socket.send_bytes(b"\x03" + json.dumps(status).encode())
        await socket.close()
        return socket

    def _refusal(self, asked: Request) -> web.Response | None:
        whole = f"{asked.method} {asked.path}"
        for part, (code, body, headers) in self.refusals.items():
            is_meant = part in whole and "watch" not in asked.query and asked.path not in DISCOVERY
            if is_meant and self.refuse_times.get(part, 1) > 0:
                if part in self.refuse_times:
                    self.refuse_times[part] -= 1
                text = body if isinstance(body, str) else json.dumps(body)
                return web.Response(text=text, status=code, headers=headers)
        return None

    def _list(self, plural: str, namespace: str, selector: str) -> web.Response:
        found = [each for each in self.store.find(plural, namespace or None) if matches(each, selector)]
        head = {"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": self.list_version}}
        return web.json_response({**head, "items": found})

    async def _one(self, request: web.Request, plural: str, namespace: str, name: str) -> web.Response:
        resource = RESOURCES[plural]
        body = json.loads(await request.text() or "{}")
        try:
            match request.method:
                case "GET":
                    return web.json_response(await self.store.get(resource, namespace, name))
                case "POST":
                    return web.json_response(await self.store.create(resource, body))
                case "PUT":
                    return web.json_response(await self.store.replace(resource, body))
                case "DELETE":
                    return web.json_response(await self.store.delete(resource, namespace, name, body))
        except KubeError as error:
            message = f'{plural} "{name}" not found' if error.status == 404 else error.message
            code, status, _ = fake_api.refusal(error.status, error.reason, message)
            return web.json_response(status, status=code)
        code, status, _ = fake_api.refusal(503, "ServiceUnavailable", "patches are not served")
        return web.json_response(status, status=code)

    async def _watch(self, request: web.Request, plural: str) -> web.StreamResponse:
        """Send the events of `notify` until the watch ends, the server closes, or the client disconnects."""
        response = web.StreamResponse()
        await response.prepare(request)
        queue: Watch = asyncio.Queue()
        for event in self._backlog.pop(plural, []):
            queue.put_nowait(event)
        self._watches.setdefault(plural, []).append(queue)
        closing = asyncio.create_task(self.closing.wait())
        try:
            while not closing.done():
                waiting = asyncio.create_task(queue.get())
                await asyncio.wait([waiting, closing], return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done() or waiting.result() is None:
                    waiting.cancel()
                    break
                await response.write(json.dumps(waiting.result()).encode() + b"\n")
        finally:
            self._watches[plural].remove(queue)
            while not queue.empty():  # the next watch of this kind sends it
                self._backlog.setdefault(plural, []).append(queue.get_nowait())
            closing.cancel()
        return response


def split_path(path: str) -> tuple[str, str, str]:
    """`/api/v1/namespaces/research/pods/x` -> `pods`, `research`, `x`."""
    found = re.fullmatch(r"(?:/api/v1|/apis/[^/]+/[^/]+)(?:/namespaces/([^/]+))?/([^/]+)(?:/([^/]+))?(?:/\w+)?", path)
    assert found is not None, path
    namespace, plural, name = found.groups(default="")
    return plural, namespace, name


def matches(document: Json, selector: str) -> bool:
    """Whether an object matches a field selector; of events only the involved object's fields are supported."""
    about = document.get("involvedObject", {})
    wanted = dict(each.split("=") for each in selector.split(",") if each)
    return all(about.get(key.removeprefix("involvedObject.")) == value for key, value in wanted.items())


def build_kubeconfig(url: str, namespace: str = "") -> Json:
    """Return a kubeconfig with one context, `dev`: the server at `url`."""
    context = {"cluster": "dev", "user": "me", **({"namespace": namespace} if namespace else {})}
    return {
        "current-context": "dev",
        "contexts": [{"name": "dev", "context": context}],
        "clusters": [{"name": "dev", "cluster": {"server": url}}],
        "users": [{"name": "me", "user": {}}],
    }


def save_kubeconfig(path: Path, url: str, namespace: str = "") -> None:
    """Write that kubeconfig, readable only by its owner."""
    path.write_text(yaml.safe_dump(build_kubeconfig(url, namespace)))
    path.chmod(0o600)


@contextmanager
def serve_in_thread(build: Callable[[], HttpApi]) -> Iterator[tuple[HttpApi, str, asyncio.AbstractEventLoop]]:
    """Serve what `build` returns from a thread with a loop of its own; give the API, its URL and that loop."""
    started, ending = threading.Event(), threading.Event()
    found: list[tuple[HttpApi, str, asyncio.AbstractEventLoop]] = []

    async def whole() -> None:
        api = build()
        async with fake_api.serving(api.answer) as server:
            found.append((api, server.url, asyncio.get_running_loop()))
            started.set()
            await asyncio.to_thread(ending.wait)
            api.closing.set()

    thread = threading.Thread(target=lambda: asyncio.run(whole()))
    thread.start()
    assert started.wait(60.0), "the API server did not start within 60 s"
    try:
        yield found[0]
    finally:
        ending.set()
        thread.join()
