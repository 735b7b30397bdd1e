"""Weight sync: stages a copy, pushes it to outdated generators, and leases generators for evaluations. I/O."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from scalerl_runtime.algorithm.results import SyncReport
from scalerl_runtime.deadlines import DeadlineExceeded, within
from scalerl_runtime.loop.pool import Pool
from scalerl_runtime.loop.slots import Slot
from scalerl_runtime.types import SyncFailed
from scalerl_runtime.weights.buckets import StagedWeights

log = logging.getLogger(__name__)

PROBE_SECONDS = 10.0  # a generator that does not answer within this time after a failed update is lost
MAX_FAILURES = 5  # consecutive, of one update: each one removes a dead generator or met one that had just started


class WeightPublisher(Protocol):
    """The fleet's calls that the syncer uses."""

    async def stage(self) -> StagedWeights:
        """Copy the weights into buckets."""
        ...

    async def push(self, members: frozenset[int], staged: StagedWeights) -> SyncReport:
        """Send the copy to `members`. Raises SyncFailed."""
        ...

    async def probe(self, index: int) -> None:
        """Return when a generator answers. Raises GeneratorLost."""
        ...


class LeaseWithdrawn(RuntimeError):
    """A lease was not granted in time."""


@dataclass(frozen=True)
class Lease:
    """A lease that waits until slots have its version."""

    version: int
    whole: bool  # all slots
    granted: "asyncio.Future[list[Slot]]"


class Syncer:
    """A background task sends; the train loop only stages a copy."""

    def __init__(self, fleet: WeightPublisher, pool: Pool, sync_seconds: float, on_sync: Callable[[SyncReport], None]):
        self.fleet = fleet
        self.pool = pool
        self.sync_seconds = sync_seconds
        self.staged: StagedWeights | None = None
        self._on_sync = on_sync
        self._wanted = asyncio.Event()
        self._sending = asyncio.Lock()
        self._newest = -1  # version to stage next
        self._lease: Lease | None = None  # that waits for its weights
        pool.notify_stale(self._wanted.set)

    async def run(self) -> None:
        """Send whenever a generator is outdated; ends by cancellation."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            async with self._sending:
                await self._send_to_outdated()

    async def publish(self, version: int) -> None:
        """Have `version`, the trainer's present weights, sent; stage them now unless a copy is being sent.

        While a copy is being sent, or has to be sent for a lease, the version is recorded and staged afterwards.
        """
        self._newest = version
        if not self._sending.locked() and self._lease is None:
            async with self._sending:
                await self._stage()
        self._wanted.set()

    async def lease(self, version: int, *, whole: bool = False) -> "asyncio.Future[list[Slot]]":
        """Have `version`, the trainer's present weights, sent, and an evaluation's share of the slots kept on it.

        The returned future yields the slots, at least one, when they have the version. `whole`: all slots.
        """
        future: asyncio.Future[list[Slot]] = asyncio.get_running_loop().create_future()
        async with self._sending:
            self._newest = version
            await self._stage()
            self._lease = Lease(version, whole, future)
        self._wanted.set()
        return future

    def withdraw_lease(self) -> None:
        """Refuse a lease that still waits, by LeaseWithdrawn; newer weights are sent again."""
        if self._lease is not None and not self._lease.granted.done():
            self._lease.granted.set_exception(LeaseWithdrawn("no generator has its weights yet"))
        self._lease = None
        self._wanted.set()

    async def discard_staged(self) -> None:
        """Drop the staged copy: the trainer loaded other weights."""
        async with self._sending:
            self.staged, self._newest = None, -1

    def release(self, slot: Slot) -> None:
        """End a lease: the slot may be updated again."""
        self.pool.release(slot)
        self._wanted.set()

    async def _stage(self) -> None:
        if self.staged is None or self.staged.version < self._newest:
            with self.pool.tracer.span("scalerl.weights.stage", {"scalerl.version": self._newest}):
                self.staged = await within(self.sync_seconds, "staging weights", self.fleet.stage())

    async def _send_to_outdated(self) -> None:
        if self._newest >= 0 and self._lease is None:
            await self._stage()
        staged = self.staged
        if staged is None:
            return
        failures = 0
        while members := self.pool.outdated(staged.version):
            try:
                report = await self._push(members, staged)
            except (SyncFailed, DeadlineExceeded) as error:
                failures += 1
                if failures == MAX_FAILURES:
                    raise
                await self._drop_dead_members(members, error)
            else:
                self.pool.record_update(members, staged.version)
                self._on_sync(report)
        self._grant_lease()

    async def _push(self, members: frozenset[int], staged: StagedWeights) -> SyncReport:
        sending = f"sending weights of version {staged.version}"
        values = {"scalerl.version": staged.version, "scalerl.generator.count": len(members)}
        with self.pool.tracer.span("scalerl.weights.push", values):
            return await within(self.sync_seconds, sending, self.fleet.push(members, staged))

    def _grant_lease(self) -> None:
        if self._lease is None:
            return
        if self._lease.granted.done():  # its evaluation was cancelled
            self._lease = None
            return
        slots = self.pool.lease(self._lease.version, whole=self._lease.whole)
        if not slots:
            return
        self._lease.granted.set_result(slots)
        self._lease = None
        self._wanted.set()  # a newer version may have been recorded meanwhile

    async def _drop_dead_members(self, members: frozenset[int], error: SyncFailed | DeadlineExceeded) -> None:
        """Mark the members that do not answer as lost; the next push goes to the others, in a new group."""
        log.warning("%s", error)
        failed = error.failed if isinstance(error, SyncFailed) else members
        lost = failed if failed != members else frozenset()
        for index in members - lost:
            try:
                await within(PROBE_SECONDS, f"probing generator {index}", self.fleet.probe(index))
            except (RuntimeError, DeadlineExceeded):
                lost |= {index}
        for index in lost:
            self.pool.mark_lost(index, error)
