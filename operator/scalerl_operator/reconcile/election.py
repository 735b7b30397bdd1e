"""Leader election by a Lease, decided by the local clock alone. PURE.

The clocks of two replicas may differ by minutes, so the written times do not count. A lease expires when this replica
has observed no change of it for its whole duration.
"""

from dataclasses import dataclass
from typing import Literal

Step = Literal["take", "renew", "wait"]


@dataclass(frozen=True)
class LeaseTimings:
    """Times in seconds. A dead leader is replaced after at most duration + 2 retries."""

    duration: float = 14.0
    """How long a lease holds without being renewed."""
    renew: float = 10.0
    """A leader that could not renew for this long stops leading, well before another may begin."""
    retry: float = 2.0
    """Between two reads of the lease."""

    @property
    def look(self) -> float:
        """Timeout of one read and write: on a slow API server the leader can retry once before it must stop."""
        return self.renew / 2


@dataclass(frozen=True)
class ObservedLease:
    """The fields of a stored Lease that decide."""

    holder: str
    """Identity of the leader; empty: released."""
    version: str
    """resourceVersion: every renewal changes it."""
    transitions: int = 0


@dataclass(frozen=True)
class Watched:
    """The last observed version of the Lease, and when it was first observed by the local clock."""

    lease: ObservedLease | None = None
    """None: no Lease exists."""
    since: float = 0.0


def watch(before: Watched, lease: ObservedLease | None, now: float) -> Watched:
    """Return the state after a read of `lease`; `since` moves only with a new version."""
    unchanged = before.lease is not None and lease is not None and before.lease.version == lease.version
    return before if unchanged else Watched(lease, now)


def choose(watched: Watched, me: str, now: float, terms: LeaseTimings) -> Step:
    """Return whether `me` takes, renews or waits for the lease now."""
    lease = watched.lease
    if lease is None or not lease.holder:
        return "take"
    if lease.holder == me:
        return "renew"
    return "take" if now - watched.since >= terms.duration else "wait"


def is_valid(renewed: float | None, now: float, terms: LeaseTimings) -> bool:
    """Whether a leader that renewed at `renewed` may still act; None: it has never renewed."""
    return renewed is not None and now - renewed < terms.renew
