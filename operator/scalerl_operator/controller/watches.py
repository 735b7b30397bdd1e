"""The watches, by kopf: an event only fills the caches and marks a run. I/O. It decides nothing and writes nothing.

kopf writes annotations and finalizers for handlers of changes and for daemons; `on.event` is neither. It runs in a
thread with a loop of its own: its signal handlers stay away from ours, and its work from the reconciler's pace.

A watch begins with a list, and begins anew with one when it has fallen behind. What was deleted before such a list, it
never tells; kopf does not say when it lists, so the HTTP session that we lend it does.
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

SERVER_SECONDS = 300  # a watch is asked anew so often, so that one that died unseen costs no more than that
STOP_SECONDS = 10.0
LOGIN_SECONDS = 5.0  # until credentials that were refused are tried again
CALLS_AT_ONCE = 100  # the first lists are 10,000 objects: the loop has a lease to renew meanwhile


@dataclass(frozen=True)
class Watches:
    """What is watched, and who is told; in the caller's loop."""

    on_run: OnEvent
    on_pod: OnEvent
    on_list: Callable[[], None]
    """One of the watches has begun a list: lists that are read from now on show what was deleted before it."""
    on_end: Callable[[], None]
    """The watches have ended, asked for or not."""
    namespaces: Sequence[str] = ()
    """Empty: all."""

    @property
    def count(self) -> int:
        """How many there are, so how many lists at the least: of runs and of pods, in each namespace that is named."""
        return 2 * max(1, len(self.namespaces))


def start_watches(watches: Watches, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Start watching in a thread of its own; return how to stop it.

    Every object that exists is told of soon after, and again where a watch has fallen so far behind that it lists anew.
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
    """Carries calls into another thread's loop, in order, as many as have come at one waking."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._calls: deque[Callable[[], None]] = deque()
        self._woken = False

    def send(self, call: Callable[[], None]) -> None:
        """Ask for one call; from the watching thread."""
        self._calls.append(call)
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._empty)

    def _empty(self) -> None:
        self._woken = False  # before the look: who sends from now on wakes again
        try:
            for _ in range(min(len(self._calls), CALLS_AT_ONCE)):
                self._calls.popleft()()
        finally:  # a call that fails is told by the loop; those behind it are made all the same
            if self._calls:
                self._loop.call_soon(self._empty)


def _build_registry(watches: Watches, relay: _Relay) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    last: kopf.ConnectionInfo | None = None

    async def login(**arguments: Any) -> kopf.AiohttpSession | None:
        nonlocal last
        found = kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)
        if found is None:
            return None
        if found == last:  # kopf asks because they were refused (401), and would use them again at once, without an end
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
    """Return the session that kopf would make of `info`, one that tells of every list whose first page has come."""

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
    """Seconds between the tries of one of kopf's calls, without an end: after the last it would give up its watch."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((1.0, 1.0, 2.0, 3.0), itertools.repeat(5.0))


class _NoDifferences(kopf.DiffBaseStorage):  # type: ignore[misc]  # kopf is not typed for mypy
    """kopf compares every event's object with the one before, which is most of its work. Nothing here asks for it."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:
        """An object as it matters to us: not at all."""
        del body, extra_fields
        return {}

    def fetch(self, *, body: Any) -> Any:
        """Nothing is kept."""
        del body

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        """Nothing is kept."""


async def _watch(registry: kopf.OperatorRegistry, watches: Watches, stop: threading.Event) -> None:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # events are ours
    settings.persistence.diffbase_storage = _NoDifferences()
    settings.watching.server_timeout = SERVER_SECONDS
    settings.watching.chunk_size = PAGE
    settings.watching.label_selectors["pods"] = f"{LABEL_MANAGED_BY}={FIELD_MANAGER}"
    settings.networking.error_backoffs = _Backoffs()
    settings.scanning.disabled = True  # else it must read all namespaces and CRDs; ours is there before we are
    logging.getLogger("kopf").setLevel(logging.WARNING)
    await kopf.operator(
        registry=registry,
        settings=settings,
        standalone=True,
        clusterwide=not watches.namespaces,
        namespaces=tuple(watches.namespaces),
        stop_flag=stop,
    )
