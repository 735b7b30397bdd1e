"""The operator's process: waits for the lease, fills the caches, watches, works; ends when it may not lead. I/O.

A replica that loses the lease ends its process: whatever was under way ends with it, and it starts anew as a standby.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from aiohttp import web

from scalerl_operator.cluster import KubeCluster, Rights, derive_token, load_store
from scalerl_operator.gauges import Gauges
from scalerl_operator.handlers import Body, Watches, start_watches
from scalerl_operator.health import Signs, find_dead, find_unready, start_health
from scalerl_operator.kube import Kube, KubeError, load_connection
from scalerl_operator.leaders import Leaders, Means, Read
from scalerl_operator.lease import Identity, LeaseKeeper, LeaseLoop
from scalerl_operator.names import FIELD_MANAGER, LABEL_MANAGED_BY
from scalerl_operator.network import InvalidIsolation, Isolation
from scalerl_operator.objects import PodOptions
from scalerl_operator.plan import Limits
from scalerl_operator.prometheus import Server, fetch_reading
from scalerl_operator.reconciler import Reconciler
from scalerl_operator.sights import parse_seen_pod, parse_seen_run, run_key
from scalerl_operator.store import Store

log = logging.getLogger(__name__)

FIRST_SWEEP_SECONDS = 15.0  # what is deleted between our first lists and those of kopf's watches, no watch tells of
SWEEP_SECONDS = 300.0  # between whole lists: what a watch has lost is found by then
LOAD_RETRY_SECONDS = 2.0
MIN_KEY_BYTES = 16
SELECTOR = f"{LABEL_MANAGED_BY}={FIELD_MANAGER}"


def _now() -> datetime:
    """Whole seconds, as Kubernetes writes times."""
    return datetime.now(UTC).replace(microsecond=0)


def main(options: argparse.Namespace) -> int:
    """Run the operator until it is told to end; return 0 then, 1 if it must not go on."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    key = options.token_key_file.read_bytes().strip()
    if len(key) < MIN_KEY_BYTES:
        raise SystemExit(f"--token-key-file {options.token_key_file} holds {len(key)} bytes; need {MIN_KEY_BYTES}")
    try:
        isolation = Isolation.parse(options.network_policy) if options.network_policy is not None else None
    except InvalidIsolation as error:
        raise SystemExit(f"--network-policy: {error}") from error
    return asyncio.run(_serve(options, key, isolation))


async def _serve(options: argparse.Namespace, key: bytes, isolation: Isolation | None) -> int:
    lease = await _build_lease(options)
    replica = _Replica(options, key, isolation, lease)
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
    """The election's part of the process."""

    loop: LeaseLoop
    kube: Kube
    """A client of its own: the lease must not wait behind a thousand pods."""
    keeper: LeaseKeeper

    async def close(self) -> None:
        """Let another replica lead at once."""
        await self.loop.run(self.keeper.release())
        await self.loop.run(self.kube.close())
        self.loop.close()


async def _build_lease(options: argparse.Namespace) -> _Lease:
    """Start the loop of the lease, with its client."""
    me = options.identity or f"{socket.gethostname()}-{secrets.token_hex(4)}"
    loop = LeaseLoop()

    async def connect() -> Kube:
        return Kube(load_connection(os.environ), parallel=2)

    kube = await loop.run(connect())
    return _Lease(loop, kube, LeaseKeeper(kube, Identity(options.lease_namespace, options.lease_name, me)))


class _Replica:
    """The parts of one process, put together."""

    def __init__(self, options: argparse.Namespace, key: bytes, isolation: Isolation | None, lease: _Lease):
        limits = Limits()
        self._namespaces: list[str] = options.namespace
        self._port: int = options.http
        self.gauges = Gauges()
        self._kube = Kube(load_connection(os.environ), counted=self.gauges.count_write)
        self._store = Store()
        self._lease, self.keeper = lease, lease.keeper
        means = Means(
            now=_now,
            token=lambda uid: derive_token(key, uid),
            dirty=lambda run: self._reconciler.mark(run),
            poll_seconds=options.poll_seconds,
            read=_reader(options),
        )
        self._leaders = Leaders(self._store, self.gauges, means)
        pods = PodOptions(options.image, limits.exit_seconds, isolation)
        rights = Rights(pods, key, self.keeper.is_leading, _now)
        cluster = KubeCluster(self._kube, self._store, self._leaders, rights)
        self._reconciler = Reconciler(cluster, self.gauges, limits, _now)
        self._synced = self._working = False
        self._watch_sign = self._swept = time.monotonic()
        self._watches_ended = asyncio.Event()

    async def start_health(self) -> web.AppRunner:
        """Serve liveness, readiness and metrics."""
        return await start_health(
            self._port,
            dead=lambda: find_dead(self._signs(), time.monotonic()),
            unready=lambda: find_unready(is_leading=self.keeper.is_leading(), is_synced=self._synced),
            render=self._render,
        )

    def _signs(self) -> Signs:
        if not self._working:
            return Signs(self.keeper.beat)
        return Signs(self.keeper.beat, self._reconciler.beat, max(self._watch_sign, self._swept))

    def _render(self) -> bytes:
        self.gauges.set_leading(self.keeper.is_leading())
        self.gauges.watch_age.set(time.monotonic() - max(self._watch_sign, self._swept))
        return self.gauges.render()

    async def lead(self, stopping: "asyncio.Task[bool]") -> None:
        """Do the operator's work until told to stop, or until it may not go on."""
        keeping = asyncio.create_task(self._lease.loop.run(self.keeper.keep()), name="the lease")
        loading = asyncio.create_task(self._load(), name="the first lists")
        await asyncio.wait([keeping, loading, stopping], return_when=asyncio.FIRST_COMPLETED)
        fault = loading.exception() if loading.done() else None
        if fault is not None:
            log.error("%s ended", loading.get_name(), exc_info=fault)
        if fault is not None or not loading.done():
            await _cancel(keeping, loading)
            return
        end_watches = self._watch()
        self._reconciler.beat, self._working = time.monotonic(), True
        tasks = [
            keeping,
            asyncio.create_task(self._reconciler.work_forever(), name="the workers"),
            asyncio.create_task(self._leaders.poll_forever(), name="the poller"),
            asyncio.create_task(self._sweep_forever(), name="the sweeps"),
            asyncio.create_task(self._watches_ended.wait(), name="the watches"),
        ]
        try:
            done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                log.error("%s ended", task.get_name(), exc_info=task.exception())
        finally:
            await _cancel(*tasks)
            await asyncio.to_thread(end_watches)

    def _watch(self) -> Callable[[], None]:
        watches = Watches(self._on_run, self._on_pod, self._watches_ended.set, self._namespaces)
        return start_watches(watches, asyncio.get_running_loop())

    def _on_run(self, body: Body, deleted: bool) -> None:
        self._watch_sign = time.monotonic()
        run = parse_seen_run(body, self._store.run(run_key(body)))
        if deleted:
            self._store.drop_run(run)
            self._reconciler.mark(run.key)
        elif self._store.put_run(run):
            self._reconciler.mark(run.key)

    def _on_pod(self, body: Body, deleted: bool) -> None:
        self._watch_sign = time.monotonic()
        pod = parse_seen_pod(body)
        if pod is not None and (self._store.drop_pod(pod) if deleted else self._store.put_pod(pod)):
            self._reconciler.mark(pod.run)

    async def _load(self) -> None:
        """Fill the caches, however long the API server is away."""
        while True:
            try:
                await self._sweep()
            except KubeError as error:
                log.warning("the first lists: again in %g s: %s", LOAD_RETRY_SECONDS, error)
                await asyncio.sleep(LOAD_RETRY_SECONDS)
            else:
                self._synced = True
                return

    async def _sweep(self) -> bool:
        """Read everything that is stored; return whether anything of it was news."""
        news = await load_store(self._kube, self._store, self._namespaces or [None], SELECTOR)
        for key in news:
            self._reconciler.mark(key)
        self._swept = time.monotonic()
        return bool(news)

    async def _sweep_forever(self) -> None:
        """Return when the watches are dead: things happen, and nothing was told since the sweep before."""
        wait = FIRST_SWEEP_SECONDS
        while True:
            await asyncio.sleep(wait)
            before, is_first, wait = self._swept, wait < SWEEP_SECONDS, SWEEP_SECONDS
            try:
                if await self._sweep() and self._watch_sign < before and not is_first:
                    return
            except KubeError as error:
                log.warning("a sweep is left out: %s", error)

    async def close(self) -> None:
        """Write nothing more; then let another replica lead at once."""
        await self._leaders.close()
        await self._lease.close()
        await self._kube.close()


def _reader(options: argparse.Namespace) -> Read | None:
    """Who reads the Prometheus server; None where none is named."""
    if options.prometheus_url is None:
        return None
    server = Server(options.prometheus_url, options.prometheus_token_file, options.prometheus_ca_file)
    return partial(fetch_reading, server)


async def _cancel(*tasks: "asyncio.Task[object]") -> None:
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
