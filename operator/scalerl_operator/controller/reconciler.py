"""Takes runs that something happened to, decides, and carries out: the loop of the operator. I/O.

It holds no decision: those are `plan_pods` about a run and `WorkQueue` about whose turn it is.
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
from scalerl_operator.reconcile.pod_plan import plan_pods
from scalerl_operator.reconcile.snapshot import Key
from scalerl_operator.reconcile.work_queue import WorkQueue
from scalerl_operator.telemetry.metrics import OperatorMetrics

log = logging.getLogger(__name__)

WORKERS = 8  # more only make each pass wait for the others: one has up to ten calls under way
SETTLE_SECONDS = 0.05  # from an event to its pass: a run's pods change in bursts, and one pass sees all of one
PASS_SECONDS = 60.0  # of one pass: dozens of calls, each with its own bound


class Reconciler:
    """Workers on one queue. One run is never in two hands."""

    def __init__(self, cluster: Cluster, gauges: OperatorMetrics, limits: Limits, now: Callable[[], datetime]):
        self._cluster = cluster
        self._gauges = gauges
        self._limits = limits
        self._now = now
        self._queue = WorkQueue[Key]()
        self._woken = asyncio.Event()
        self.beat = time.monotonic()
        """When a worker last looked for work: liveness."""

    def mark(self, key: Key) -> None:
        """Something happened to a run."""
        self._queue.add(key, time.monotonic(), delay=SETTLE_SECONDS)
        self._woken.set()

    async def work_forever(self) -> None:
        """Run the workers until cancelled; return when one has found that this replica may not write any more."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(WORKERS):
                    group.create_task(self._work())
        except* NotLeading:  # a hand-over, no fault: a line, no trace of it
            log.warning("this replica may not write any more: another one leads, or may do so by now")

    async def _work(self) -> None:
        while True:
            self.beat = time.monotonic()
            self._gauges.depth.set(len(self._queue))
            found = self._queue.take(self.beat)
            if found is None:
                await self._sleep()
                continue
            key, waited = found
            self._gauges.wait_seconds.observe(waited)
            await self._pass(key)

    async def _sleep(self) -> None:
        """Until something is marked or the next key is due; a second at most, for the sake of `beat`."""
        due = self._queue.next_due()
        wait = min(1.0, max(0.0, due - time.monotonic())) if due is not None else 1.0
        self._woken.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._woken.wait()

    async def _pass(self, key: Key) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(PASS_SECONDS):
                until = await self.reconcile(key)
        except NotLeading:
            raise
        except (KubeError, TimeoutError) as error:
            delay = self._fail(key)
            log.warning("%s/%s: again in %.1f s: %s", *key, delay, error or f"a pass took longer than {PASS_SECONDS} s")
        except Exception:  # a fault of ours that one run brings out must not stop the others
            log.exception("%s/%s: again in %.1f s", *key, self._fail(key))
        else:
            self._queue.succeed(key, time.monotonic())
            self._gauges.reconciles.labels("done").inc()
            if until is not None:
                self._queue.add(key, time.monotonic(), delay=max(0.0, (until - self._now()).total_seconds()))
                self._woken.set()
        self._gauges.reconcile_seconds.observe(time.monotonic() - began)

    def _fail(self, key: Key) -> float:
        """Put a run off; return for how long."""
        self._gauges.retries.inc()
        self._gauges.reconciles.labels("error").inc()
        return self._queue.fail(key, time.monotonic())

    async def reconcile(self, key: Key) -> datetime | None:
        """Bring one run nearer to what is wanted; return when to look again. Raises KubeError, NotLeading."""
        snapshot = self._cluster.observe(key)
        if snapshot is None:
            self._queue.forget(key)
            return None
        plan = plan_pods(snapshot, self._now(), self._limits)
        if snapshot.run.managed_by == MANAGED_BY:
            self._gauges.show_run(key, plan.status or snapshot.run.status, snapshot.told)
        await self._cluster.apply(snapshot, plan)
        return plan.until
