"""Leader election by a Lease, decided by the local clock alone. PURE.

Clocks of two replicas may differ by minutes, so a lease is not over when its written time is past, but when it has not
changed for its whole duration as seen from here.
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
    """A lease as it was read."""

    holder: str
    """Empty: released."""
    version: str
    """resourceVersion: it moves with every renewal."""
    transitions: int = 0


@dataclass(frozen=True)
class Watched:
    """The last lease that was seen to change, and when that was by the local clock."""

    lease: ObservedLease | None = None
    """None: there is none."""
    since: float = 0.0


def watch(before: Watched, lease: ObservedLease | None, now: float) -> Watched:
    """Return what is known after reading `lease`."""
    unchanged = before.lease is not None and lease is not None and before.lease.version == lease.version
    return before if unchanged else Watched(lease, now)


def choose(watched: Watched, me: str, now: float, terms: LeaseTimings) -> Step:
    """Return what `me` does about the lease now."""
    lease = watched.lease
    if lease is None or not lease.holder:
        return "take"
    if lease.holder == me:
        return "renew"
    return "take" if now - watched.since >= terms.duration else "wait"


def is_valid(renewed: float | None, now: float, terms: LeaseTimings) -> bool:
    """Whether a leader that renewed at `renewed` may still act; None: it has never renewed."""
    return renewed is not None and now - renewed < terms.renew
