"""Counts the signals that end a run, and a wait that they interrupt. I/O."""

import queue
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Interrupts:
    """The number of requests to end, by a person or by the machine."""

    count: int = 0
    last_signal: int | None = None
    # SimpleQueue.put may be called from a signal handler; Event.set may deadlock there.
    _wakeups: queue.SimpleQueue[int] = field(default_factory=queue.SimpleQueue)

    def press(self, number: int = signal.SIGINT, frame: object = None) -> None:
        """Count one request to end and wake the waiter. A signal handler."""
        del frame
        self.count += 1
        self.last_signal = number
        self._wakeups.put(number)

    def wait(self, seconds: float) -> None:
        """Return after `seconds`, or as soon as a request arrives."""
        try:
            self._wakeups.get(timeout=seconds)
        except queue.Empty:
            return

    @contextmanager
    def listening(self) -> Iterator["Interrupts"]:
        """Receive the signals while the context lasts (main thread only)."""
        before = {number: signal.signal(number, self.press) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
