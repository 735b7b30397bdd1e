"""Leader election of this replica: read, take, renew and release the Lease. I/O."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from scalerl_operator.kube.client import LEASES, Json, KubeClient, KubeError, find_object
from scalerl_operator.reconcile.election import LeaseTimings, ObservedLease, Watched, choose, is_valid, watch

log = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Identity:
    """Namespace and name of the Lease, and the identity of this replica."""

    namespace: str
    name: str
    me: str


class LeaseLoop:
    """An event loop in its own thread, so that the lease is renewed while the main loop parses ten thousand pods."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lease", daemon=True)
        self._thread.start()

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run `work` in that loop; cancelling the wait cancels the work."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def close(self) -> None:
        """End the thread; no work may be running."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class LeaseKeeper:
    """One replica's state in the election. Between renewals the local clock alone decides `is_leading`."""

    def __init__(self, kube: KubeClient, identity: Identity, terms: LeaseTimings | None = None):
        self._kube = kube
        self._identity = identity
        self._terms = terms or LeaseTimings()
        self._watched = Watched()
        self._mine: Json | None = None  # the Lease as this replica wrote it last; None after a write without an answer
        self._renewed: float | None = None
        self._clock: Callable[[], float] = time.monotonic
        self.heartbeat = self._clock()
        """Time of the last attempt to read or renew the lease: a standby's liveness."""

    def is_leading(self) -> bool:
        """Whether this replica may write now."""
        return is_valid(self._renewed, self._clock(), self._terms)

    async def acquire(self) -> None:
        """Return once this replica leads."""
        while True:
            if await self._look():
                log.info("%s leads", self._identity.me)
                return
            await asyncio.sleep(self._terms.retry)

    async def keep(self) -> None:
        """Return when this replica no longer leads."""
        while self.is_leading():
            await asyncio.sleep(self._terms.retry)
            await self._look()
        log.error("%s no longer leads: the lease could not be renewed", self._identity.me)

    async def release(self) -> None:
        """Release the lease, so that another replica leads at once. Without leadership this does nothing."""
        if not self.is_leading():
            return
        self._renewed = None
        for attempt in (1, 2):  # a cancelled renewal may still reach the server after the first read
            try:
                stored = await self._kube.get(LEASES, self._identity.namespace, self._identity.name)
                if stored["spec"].get("holderIdentity") == self._identity.me:
                    stored["spec"]["holderIdentity"] = ""
                    await self._kube.replace(LEASES, stored)
                return
            except KubeError as error:
                if attempt == 2 or error.status != 409:
                    log.warning("the lease was not released, other replicas wait for its expiry: %s", error)
                    return

    async def _look(self) -> bool:
        """Take, renew or leave the lease; return whether this replica leads by it now."""
        began = self.heartbeat = self._clock()
        try:
            async with asyncio.timeout(self._terms.look):
                return await self._take_part(began)
        except (KubeError, TimeoutError) as error:
            if not (isinstance(error, KubeError) and error.status == 409):  # another replica was first
                log.warning("the lease could not be read or renewed: %s", error or "no answer")
            return False

    async def _take_part(self, began: float) -> bool:
        stored, self._mine = self._mine, None  # a write without an answer may have taken effect
        if stored is None or not self.is_leading():
            stored = await find_object(self._kube, LEASES, self._identity.namespace, self._identity.name)
            self._watched = watch(self._watched, _parse(stored), self._clock())
            if choose(self._watched, self._identity.me, self._clock(), self._terms) == "wait":
                self._renewed = None  # another replica holds it: stop leading at once
                return False
        self._mine = await self._write(stored)
        self._watched = Watched(_parse(self._mine), self._clock())
        self._renewed = began  # not the time of the answer: others count from the write
        return True

    async def _write(self, stored: Json | None) -> Json:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = stored["spec"] if stored is not None else {}
        again = before.get("holderIdentity") == self._identity.me
        spec = {
            "holderIdentity": self._identity.me,
            "leaseDurationSeconds": int(self._terms.duration),
            "acquireTime": before.get("acquireTime", now) if again else now,
            "renewTime": now,
            "leaseTransitions": before.get("leaseTransitions", 0) + (0 if again or not before else 1),
        }
        if stored is not None:
            return await self._kube.replace(LEASES, {**stored, "spec": spec})
        head = {"namespace": self._identity.namespace, "name": self._identity.name}
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": head, "spec": spec}
        return await self._kube.create(LEASES, lease)


def _parse(stored: Json | None) -> ObservedLease | None:
    if stored is None:
        return None
    spec = stored.get("spec", {})
    return ObservedLease(
        spec.get("holderIdentity", ""), stored["metadata"]["resourceVersion"], spec.get("leaseTransitions", 0)
    )
