"""The watches, by kopf: an event only fills the caches and marks a run. I/O. It decides nothing and writes nothing.

kopf writes annotations and finalizers for handlers of changes and for daemons; `on.event` is neither. It runs in a
thread with a loop of its own: its signal handlers stay away from ours, and its work from the reconciler's pace.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import kopf

from scalerl_api.rlrun import API_VERSION, PLURAL
from scalerl_operator.kube import PAGE
from scalerl_operator.names import FIELD_MANAGER, LABEL_MANAGED_BY

Body = Mapping[str, Any]
OnEvent = Callable[[Body, bool], None]
"""(object, whether it is deleted)."""

SERVER_SECONDS = 300  # a watch is asked anew so often, so that one that died unseen costs no more than that
STOP_SECONDS = 10.0
CALLS_AT_ONCE = 100  # the first lists are 10,000 objects: the loop has a lease to renew meanwhile


@dataclass(frozen=True)
class Watches:
    """What is watched, and who is told; in the caller's loop."""

    on_run: OnEvent
    on_pod: OnEvent
    on_end: Callable[[], None]
    """The watches have ended, asked for or not."""
    namespaces: Sequence[str] = ()
    """Empty: all."""


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
        self._calls: deque[tuple[OnEvent, Body, bool]] = deque()
        self._woken = False

    def send(self, call: OnEvent, body: Body, deleted: bool) -> None:
        """Ask for one call; from the watching thread."""
        self._calls.append((call, body, deleted))
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._empty)

    def _empty(self) -> None:
        self._woken = False  # before the look: who sends from now on wakes again
        try:
            for _ in range(min(len(self._calls), CALLS_AT_ONCE)):
                call, body, deleted = self._calls.popleft()
                call(body, deleted)
        finally:  # a call that fails is told by the loop; those behind it are made all the same
            if self._calls:
                self._loop.call_soon(self._empty)


def _build_registry(watches: Watches, relay: _Relay) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    def login(**arguments: Any) -> kopf.ConnectionInfo | None:
        found: kopf.ConnectionInfo | None = kopf.login_with_service_account(**arguments)
        return found or kopf.login_with_kubeconfig(**arguments)

    async def on_run(type: str | None, body: Body, **_: Any) -> None:
        relay.send(watches.on_run, body, type == "DELETED")

    async def on_pod(type: str | None, body: Body, **_: Any) -> None:
        relay.send(watches.on_pod, body, type == "DELETED")

    kopf.on.login(registry=registry)(login)
    kopf.on.event(*API_VERSION.split("/"), PLURAL, registry=registry)(on_run)
    kopf.on.event("", "v1", "pods", registry=registry)(on_pod)
    return registry


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
