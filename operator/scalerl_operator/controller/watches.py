"""The watches, by kopf: an event only updates the informer cache and enqueues a run. I/O; no decision, no write.

kopf writes annotations and finalizers for change handlers and daemons; `on.event` is neither. kopf runs in a thread
with a loop of its own, so that its signal handlers do not replace ours and its load does not slow the reconciler.

A watch begins with a list, and restarts with one when it has fallen behind. It never reports an object that was deleted
before such a list. kopf does not report its lists, so the HTTP session that we pass to it does.
"""

import asyncio
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import aiohttp
import kopf

from scalerl_api.rlrun import API_VERSION, PLURAL
from scalerl_operator.kube.client import PAGE
from scalerl_operator.resources.names import FIELD_MANAGER, LABEL_MANAGED_BY

Body = Mapping[str, Any]
OnEvent = Callable[[Body, bool], None]
"""(object, whether it is deleted)."""

SERVER_SECONDS = 300  # a watch is renewed so often: a dead connection goes unnoticed no longer than that
STOP_SECONDS = 10.0
LOGIN_SECONDS = 5.0  # until refused credentials are tried again
CALLS_AT_ONCE = 100  # the first lists are 10,000 objects: the loop has a lease to renew meanwhile


@dataclass(frozen=True)
class Watches:
    """The kinds to watch, and the callbacks, which run in the caller's loop."""

    on_run: OnEvent
    on_pod: OnEvent
    on_list: Callable[[], None]
    """A watch has begun a list: lists that are read from now on show the deletions before it."""
    on_end: Callable[[], None]
    """The watches have ended, on request or by a fault."""
    namespaces: Sequence[str] = ()
    """Empty: all."""

    @property
    def count(self) -> int:
        """Number of watches, and so of first lists: runs and pods, in each named namespace."""
        return 2 * max(1, len(self.namespaces))


def start_watches(watches: Watches, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Start watching in a thread of its own; return a function that stops it.

    Every existing object is delivered soon after, and again when a watch has fallen behind and restarts with a list.
    """
    stop, ended = threading.Event(), threading.Event()
    registry = _build_registry(watches, _Relay(loop))

    def run() -> None:
        try:
            asyncio.run(_watch(registry, watches, stop))
        finally:
            ended.set()
            loop.call_soon_threadsafe(watches.on_end)

    threading.Thread(target=run, name="watches", daemon=True).start()

    def end() -> None:
        stop.set()
        ended.wait(STOP_SECONDS)

    return end


class _Relay:
    """Passes calls to another thread's loop, in order, in batches."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._calls: deque[Callable[[], None]] = deque()
        self._is_awake = False

    def send(self, call: Callable[[], None]) -> None:
        """Enqueue one call; from the watching thread."""
        self._calls.append(call)
        if not self._is_awake:
            self._is_awake = True
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._is_awake = False  # first: a call that is enqueued from now on wakes the loop again
        try:
            for _ in range(min(len(self._calls), CALLS_AT_ONCE)):
                self._calls.popleft()()
        finally:  # the loop logs a call that fails; the calls behind it still run
            if self._calls:
                self._loop.call_soon(self._drain)


def _build_registry(watches: Watches, relay: _Relay) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    last: kopf.ConnectionInfo | None = None

    async def login(**arguments: Any) -> kopf.AiohttpSession | None:
        nonlocal last
        found = kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)
        if found is None:
            return None
        if found == last:  # refused with 401; without a pause kopf would retry them at once, for ever
            await asyncio.sleep(LOGIN_SECONDS)
        last = found
        return _build_session(found, lambda: relay.send(watches.on_list))

    async def on_run(type: str | None, body: Body, **_: Any) -> None:
        relay.send(partial(watches.on_run, body, type == "DELETED"))

    async def on_pod(type: str | None, body: Body, **_: Any) -> None:
        relay.send(partial(watches.on_pod, body, type == "DELETED"))

    kopf.on.login(registry=registry)(login)
    kopf.on.event(*API_VERSION.split("/"), PLURAL, registry=registry)(on_run)
    kopf.on.event("", "v1", "pods", registry=registry)(on_pod)
    return registry


def _build_session(info: kopf.ConnectionInfo, on_list: Callable[[], None]) -> kopf.AiohttpSession:
    """Return the session that kopf would build of `info`, with a trace that reports the first page of every list."""

    async def on_answer(_: aiohttp.ClientSession, __: SimpleNamespace, answer: aiohttp.TraceRequestEndParams) -> None:
        is_list = answer.url.name in (PLURAL, "pods") and not {"watch", "continue"} & answer.url.query.keys()
        if is_list and answer.response.status == 200:
            on_list()

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(on_answer)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),  # no limit: each watch holds a connection
        headers=info.as_http_headers(),
        proxy=info.proxy_url,
        trust_env=info.trust_env,
        trace_configs=[trace],
    )
    return kopf.AiohttpSession(
        server=info.server,
        aiohttp_session=session,
        priority=info.priority,
        default_namespace=info.default_namespace,
        expiration=info.expiration,
    )


class _Backoffs:
    """Seconds between kopf's retries of one call; endless, since kopf gives up its watch after the last."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((1.0, 1.0, 2.0, 3.0), itertools.repeat(5.0))


class _NoDifferences(kopf.DiffBaseStorage):  # type: ignore[misc]  # kopf is not typed for mypy
    """Turns off kopf's comparison of each object with its last version, most of its work, which nothing here uses."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:
        """Return an empty essence."""
        del body, extra_fields
        return {}

    def fetch(self, *, body: Any) -> Any:
        """Store nothing."""
        del body

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        """Store nothing."""


async def _watch(registry: kopf.OperatorRegistry, watches: Watches, stop: threading.Event) -> None:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # events are ours
    settings.persistence.diffbase_storage = _NoDifferences()
    settings.watching.server_timeout = SERVER_SECONDS
    settings.watching.chunk_size = PAGE
    settings.watching.label_selectors["pods"] = f"{LABEL_MANAGED_BY}={FIELD_MANAGER}"
    settings.networking.error_backoffs = _Backoffs()
    settings.scanning.disabled = True  # it would read all namespaces and CRDs; our CRD is installed before the operator
    logging.getLogger("kopf").setLevel(logging.WARNING)
    await kopf.operator(
        registry=registry,
        settings=settings,
        standalone=True,
        clusterwide=not watches.namespaces,
        namespaces=tuple(watches.namespaces),
        stop_flag=stop,
    )
