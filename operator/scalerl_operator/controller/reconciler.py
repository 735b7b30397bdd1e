"""The reconcile loop: take a run from the queue, observe it, plan, apply. I/O.

It holds no decision: `plan_pods` decides about a run, `WorkQueue` about the order.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from datetime import datetime

from scalerl_api.rlrun import MANAGED_BY
from scalerl_operator.controller.apply import Cluster, NotLeading
from scalerl_operator.decide.lifecycle import Limits
from scalerl_operator.kube.client import KubeError
from scalerl_operator.reconcile.observed_run import Key
from scalerl_operator.reconcile.pod_plan import plan_pods
from scalerl_operator.reconcile.work_queue import WorkQueue
from scalerl_operator.telemetry.metrics import OperatorMetrics

log = logging.getLogger(__name__)

WORKERS = 8  # more only make each pass wait for the others: one has up to ten calls under way
SETTLE_SECONDS = 0.05  # from an event to its pass: a run's pods change in bursts, and one pass sees all of one
PASS_SECONDS = 60.0  # of one pass: dozens of calls, each with its own deadline


class Reconciler:
    """Workers on one queue; a run is never in two workers at once."""

    def __init__(self, cluster: Cluster, metrics: OperatorMetrics, limits: Limits, now: Callable[[], datetime]):
        self._cluster = cluster
        self._metrics = metrics
        self._limits = limits
        self._now = now
        self._queue = WorkQueue[Key]()
        self._wake = asyncio.Event()
        self.heartbeat = time.monotonic()
        """When a worker last polled the queue: liveness."""

    def mark(self, key: Key) -> None:
        """Enqueue a run that has changed."""
        self._queue.add(key, time.monotonic(), delay=SETTLE_SECONDS)
        self._wake.set()

    async def work_forever(self) -> None:
        """Run the workers until cancelled; return when this replica must not write any more."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(WORKERS):
                    group.create_task(self._work())
        except* NotLeading:  # a hand-over is no fault: one line, no traceback
            log.warning("this replica must not write any more: another one leads, or may lead by now")

    async def _work(self) -> None:
        while True:
            self.heartbeat = time.monotonic()
            self._metrics.depth.set(len(self._queue))
            found = self._queue.take(self.heartbeat)
            if found is None:
                await self._sleep()
                continue
            key, wait_seconds = found
            self._metrics.wait_seconds.observe(wait_seconds)
            await self._pass(key)

    async def _sleep(self) -> None:
        """Wait until a key is enqueued or due; at most a second, to keep the heartbeat."""
        due = self._queue.next_due()
        wait = min(1.0, max(0.0, due - time.monotonic())) if due is not None else 1.0
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._wake.wait()

    async def _pass(self, key: Key) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(PASS_SECONDS):
                until = await self.reconcile(key)
        except NotLeading:
            raise
        except (KubeError, TimeoutError) as error:
            delay = self._fail(key)
            log.warning("%s/%s: retry in %.1f s: %s", *key, delay, error or f"a pass took longer than {PASS_SECONDS} s")
        except Exception:  # a fault of ours that one run brings out must not stop the others
            log.exception("%s/%s: retry in %.1f s", *key, self._fail(key))
        else:
            self._queue.succeed(key, time.monotonic())
            self._metrics.reconciles.labels("done").inc()
            if until is not None:
                self._queue.add(key, time.monotonic(), delay=max(0.0, (until - self._now()).total_seconds()))
                self._wake.set()
        self._metrics.reconcile_seconds.observe(time.monotonic() - began)

    def _fail(self, key: Key) -> float:
        """Requeue a run with backoff; return the delay in seconds."""
        self._metrics.retries.inc()
        self._metrics.reconciles.labels("error").inc()
        return self._queue.fail(key, time.monotonic())

    async def reconcile(self, key: Key) -> datetime | None:
        """Move one run towards its desired state; return when to reconcile again. Raises KubeError, NotLeading."""
        snapshot = self._cluster.observe(key)
        if snapshot is None:
            self._queue.forget(key)
            return None
        plan = plan_pods(snapshot, self._now(), self._limits)
        if snapshot.run.managed_by == MANAGED_BY:
            self._metrics.show_run(key, plan.status or snapshot.run.status, snapshot.poll)
        await self._cluster.apply(snapshot, plan)
        return plan.until
