"""The operator's process: acquire the lease, fill the informer cache, watch, reconcile. I/O.

A replica that loses the lease exits, and its unfinished work with it; Kubernetes restarts it as a standby.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from aiohttp import web

from scalerl_operator.controller.apply import ApplyDeps, KubeCluster, derive_token, load_store
from scalerl_operator.controller.health import HealthSignals, find_dead, find_unready, start_health
from scalerl_operator.controller.lease import Identity, LeaseKeeper, LeaseLoop
from scalerl_operator.controller.options import OperatorOptions
from scalerl_operator.controller.reconciler import Reconciler
from scalerl_operator.controller.watches import Body, Watches, start_watches
from scalerl_operator.decide.lifecycle import Limits
from scalerl_operator.kube.client import RUNS, KubeClient, KubeError, load_connection
from scalerl_operator.reconcile.cache import InformerCache
from scalerl_operator.reconcile.observed_pod import parse_observed_pod
from scalerl_operator.reconcile.observed_run import parse_observed_run, run_key
from scalerl_operator.resources.names import FIELD_MANAGER, LABEL_MANAGED_BY
from scalerl_operator.resources.network_policy import InvalidIsolation, Isolation
from scalerl_operator.resources.owner import PodOptions
from scalerl_operator.resources.pod_storage import CachePlace, InvalidCache
from scalerl_operator.telemetry.metrics import OperatorMetrics
from scalerl_operator.telemetry.poller import FetchReading, PollerDeps, ProgressPoller
from scalerl_operator.telemetry.prometheus import PrometheusClient, fetch_reading

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

WATCH_SECONDS = 60.0  # until all watches have begun
RESYNC_SECONDS = 300.0  # between whole lists, which find what a watch has lost
COALESCE_SECONDS = 1.0  # watches that fall behind do so together, and each begins anew with a list
RETRY_SECONDS = 2.0  # after a call without an answer
MIN_KEY_BYTES = 16
SELECTOR = f"{LABEL_MANAGED_BY}={FIELD_MANAGER}"


def _now() -> datetime:
    """Whole seconds, as Kubernetes writes times."""
    return datetime.now(UTC).replace(microsecond=0)


def main(options: OperatorOptions) -> int:
    """Run the operator until SIGTERM; return 0 then, 1 if it lost the lease or a part of it failed."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    key = options.token_key_file.read_bytes().strip()
    if len(key) < MIN_KEY_BYTES:
        raise SystemExit(f"--token-key-file {options.token_key_file} holds {len(key)} bytes; need {MIN_KEY_BYTES}")
    try:
        isolation = Isolation.parse(options.network_policy) if options.network_policy is not None else None
        cache = CachePlace.parse(options.cache_host_path, options.cache_claim)
    except InvalidIsolation as error:
        raise SystemExit(f"--network-policy: {error}") from error
    except InvalidCache as error:
        raise SystemExit(str(error)) from error
    pods = PodOptions(options.image, Limits().exit_seconds, isolation, cache)
    return asyncio.run(_serve(options, key, pods))


async def _serve(options: OperatorOptions, key: bytes, pods: PodOptions) -> int:
    lease = await _build_lease(options)
    replica = _Replica(options, key, pods, lease)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    health = await replica.start_health()
    try:
        standby = asyncio.create_task(lease.loop.run(lease.keeper.acquire()))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([standby, stopping], return_when=asyncio.FIRST_COMPLETED)
        standby.cancel()
        if not stop.is_set():
            await replica.lead(stopping)
        return 0 if stop.is_set() else 1
    finally:
        await replica.close()
        await health.cleanup()


@dataclass(frozen=True)
class _Lease:
    """The parts of the process that keep the lease."""

    loop: LeaseLoop
    kube: KubeClient
    """A client of its own, so that a renewal does not wait behind a thousand pods."""
    keeper: LeaseKeeper

    async def close(self) -> None:
        """Release the lease, so that another replica can lead at once."""
        await self.loop.run(self.keeper.release())
        await self.loop.run(self.kube.close())
        self.loop.close()


async def _build_lease(options: OperatorOptions) -> _Lease:
    """Start the loop of the lease, with its client."""
    me = options.identity or f"{socket.gethostname()}-{secrets.token_hex(4)}"
    loop = LeaseLoop()

    async def connect() -> KubeClient:
        return KubeClient(load_connection(os.environ), parallel=2)

    kube = await loop.run(connect())
    return _Lease(loop, kube, LeaseKeeper(kube, Identity(options.lease_namespace, options.lease_name, me)))


class _Replica:
    """The parts of one operator process."""

    def __init__(self, options: OperatorOptions, key: bytes, pods: PodOptions, lease: _Lease):
        limits = Limits()
        self._scopes: Sequence[str | None] = options.namespaces or [None]
        self._port = options.http
        self.metrics = OperatorMetrics()
        self._kube = KubeClient(load_connection(os.environ), counted=self.metrics.count_write)
        self._store = InformerCache()
        self._lease, self.keeper = lease, lease.keeper
        deps = PollerDeps(
            now=_now,
            token=lambda uid: derive_token(key, uid),
            enqueue=lambda run: self._reconciler.mark(run),
            poll_seconds=options.poll_seconds,
            fetch_reading=_reader(options),
        )
        self._poller = ProgressPoller(self._store, self.metrics, deps)
        apply_deps = ApplyDeps(pods, key, self.keeper.is_leading, _now)
        cluster = KubeCluster(self._kube, self._store, self._poller, apply_deps)
        self._reconciler = Reconciler(cluster, self.metrics, limits, _now)
        self._synced = False
        self._watch_heartbeat = self._resynced = time.monotonic()
        self._watches_ended, self._listed = asyncio.Event(), asyncio.Event()
        self._watches = Watches(self._on_run, self._on_pod, self._on_list, self._watches_ended.set, options.namespaces)
        self._end_watches: Callable[[], None] = lambda: None
        self._lists = 0
        """Number of lists that the watches have begun."""

    async def start_health(self) -> web.AppRunner:
        """Serve liveness, readiness and metrics."""
        return await start_health(
            self._port,
            dead=lambda: find_dead(self._health_signals(), time.monotonic()),
            unready=lambda: find_unready(is_leading=self.keeper.is_leading(), is_synced=self._synced),
            render=self._render,
        )

    def _health_signals(self) -> HealthSignals:
        if not self._synced:
            return HealthSignals(self.keeper.heartbeat)
        return HealthSignals(
            self.keeper.heartbeat, self._reconciler.heartbeat, max(self._watch_heartbeat, self._resynced)
        )

    def _render(self) -> bytes:
        self.metrics.set_leading(self.keeper.is_leading())
        self.metrics.watch_age.set(time.monotonic() - max(self._watch_heartbeat, self._resynced))
        return self.metrics.render()

    async def lead(self, stopping: "asyncio.Task[bool]") -> None:
        """Reconcile until `stopping` is done, or until a part ends."""
        parts = {
            "the lease": self._lease.loop.run(self.keeper.keep()),
            "the watches": self._watches_ended.wait(),
            "the work": self._work(),
        }
        try:
            await _run_together(parts, stopping)
        finally:
            await asyncio.to_thread(self._end_watches)

    async def _work(self) -> None:
        """Fill the cache; then reconcile until a part ends."""
        await self._load()
        self._reconciler.heartbeat, self._synced = time.monotonic(), True
        parts = {
            "the workers": self._reconciler.work_forever(),
            "the poller": self._poller.poll_forever(),
            "the resyncs": self._resync_forever(),
        }
        await _run_together(parts)

    def _on_list(self) -> None:
        self._lists += 1
        self._listed.set()

    def _on_run(self, body: Body, deleted: bool) -> None:
        self._watch_heartbeat = time.monotonic()
        run = parse_observed_run(body, self._store.run(run_key(body)))
        if deleted:
            self._store.drop_run(run)
            self._reconciler.mark(run.key)
        elif self._store.put_run(run):
            self._reconciler.mark(run.key)

    def _on_pod(self, body: Body, deleted: bool) -> None:
        self._watch_heartbeat = time.monotonic()
        pod = parse_observed_pod(body)
        if pod is not None and (self._store.drop_pod(pod) if deleted else self._store.put_pod(pod)):
            self._reconciler.mark(pod.run)

    async def _load(self) -> None:
        """Fill the cache, however long the API server is away. Raises TimeoutError if the watches do not begin.

        The watches begin first: neither would report an object that is deleted between our lists and theirs.
        """
        await _retry_until_answered(
            self._probe
        )  # so that the deadline below does not count an outage of the API server
        self._end_watches = start_watches(self._watches, asyncio.get_running_loop())
        try:
            async with asyncio.timeout(WATCH_SECONDS):
                while self._lists < self._watches.count:
                    self._listed.clear()
                    await self._listed.wait()
        except TimeoutError:
            begun = f"{self._lists} of {self._watches.count} watches have begun within {WATCH_SECONDS:g} s"
            raise TimeoutError(begun) from None
        await _retry_until_answered(self._resync)

    async def _probe(self) -> None:
        for namespace in self._scopes:
            await self._kube.probe(RUNS, namespace)

    async def _resync(self) -> bool:
        """List everything; return whether anything differed from the cache."""
        self._listed.clear()
        changed = await load_store(self._kube, self._store, self._scopes, SELECTOR)
        for key in changed:
            self._reconciler.mark(key)
        self._resynced = time.monotonic()
        return bool(changed)

    async def _resync_forever(self) -> None:
        """Return when the watches are dead: a list differs, and no event came since the resync before."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RESYNC_SECONDS):
                    await self._listed.wait()
            watch_restarted, before = self._listed.is_set(), self._resynced
            if watch_restarted:
                await asyncio.sleep(COALESCE_SECONDS)
            has_changed = await _retry_until_answered(self._resync)
            if has_changed and self._watch_heartbeat < before and not watch_restarted:
                return

    async def close(self) -> None:
        """Stop writing; then release the lease."""
        await self._poller.close()
        await self._lease.close()
        await self._kube.close()


def _reader(options: OperatorOptions) -> FetchReading | None:
    """The function that queries the Prometheus server; None if none is configured."""
    if options.prometheus_url is None:
        return None
    server = PrometheusClient(options.prometheus_url, options.prometheus_token_file, options.prometheus_ca_file)
    return partial(fetch_reading, server)


async def _retry_until_answered(call: Callable[[], Awaitable[Answer]]) -> Answer:
    """Retry a call until the API server answers."""
    while True:
        try:
            return await call()
        except KubeError as error:
            log.warning("retry in %g s: %s", RETRY_SECONDS, error)
            await asyncio.sleep(RETRY_SECONDS)


async def _run_together(parts: Mapping[str, Coroutine[None, None, object]], *others: "asyncio.Task[bool]") -> None:
    """Run all parts until one of them ends, which is logged, or one of `others` does; then cancel the rest."""
    tasks: list[asyncio.Task[object]] = [asyncio.create_task(part, name=name) for name, part in parts.items()]
    try:
        done, _ = await asyncio.wait([*tasks, *others], return_when=asyncio.FIRST_COMPLETED)
        for task in done.intersection(tasks):
            log.error("%s ended", task.get_name(), exc_info=task.exception())
    finally:
        await _cancel(*tasks)


async def _cancel(*tasks: "asyncio.Task[object]") -> None:
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
