"""The work queue: every key once, failing keys with growing delays. PURE: the caller passes the time.

The same rules as client-go's work queue: a key that is being worked on and is added again is worked on once more
afterwards, never by two workers at the same time.
"""

import heapq
import itertools
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Backoff:
    """Delays of a failing key."""

    first_seconds: float = 0.5
    max_seconds: float = 120.0

    def delay(self, failures: int) -> float:
        """Return the seconds to wait after so many failures in a row, at least 1."""
        return min(self.max_seconds, self.first_seconds * 2.0 ** min(failures - 1, 60))


class WorkQueue(Generic[Key]):
    """Keys with the time from which on each may be taken, in seconds of any steady clock."""

    def __init__(self, backoff: Backoff | None = None):
        self._backoff = backoff or Backoff()
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._order = itertools.count()
        self._working: set[Key] = set()
        self._again: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}

    def __len__(self) -> int:
        """Keys that wait, due or not."""
        return len(self._due)

    def add(self, key: Key, now: float, *, delay: float = 0.0) -> None:
        """Schedule `key` in `delay` seconds; of several calls the earliest counts.

        Events do not shorten a failing key's delay: its own failures often cause them.
        """
        due = now + delay
        if key in self._working:
            self._again[key] = min(due, self._again.get(key, due))
            return
        failures = self._failures.get(key, 0)
        if failures and key in self._due:
            return
        if key not in self._due or due < self._due[key]:
            self._due[key] = due
            heapq.heappush(self._heap, (due, next(self._order), key))

    def take(self, now: float) -> tuple[Key, float] | None:
        """Return the key that is longest due and for how many seconds it has been; None if none is."""
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                del self._due[key]
                self._working.add(key)
                return key, now - due
        return None

    def next_due(self) -> float | None:
        """Return when the next key is due; None if none waits."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def succeed(self, key: Key, now: float) -> None:
        """The work on `key` is done."""
        self._failures.pop(key, None)
        self._release(key, now)

    def fail(self, key: Key, now: float) -> float:
        """The work on `key` has failed: it is due again after a wait, whose seconds are returned."""
        self._failures[key] = self._failures.get(key, 0) + 1
        delay = self._backoff.delay(self._failures[key])
        self._working.discard(key)
        self._again.pop(key, None)
        self._due[key] = now + delay
        heapq.heappush(self._heap, (now + delay, next(self._order), key))
        return delay

    def forget(self, key: Key) -> None:
        """Drop `key`: its run is deleted."""
        self._failures.pop(key, None)
        self._due.pop(key, None)
        self._again.pop(key, None)

    def _release(self, key: Key, now: float) -> None:
        self._working.discard(key)
        due = self._again.pop(key, None)
        if due is not None:
            self.add(key, now, delay=max(0.0, due - now))
