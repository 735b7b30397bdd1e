"""Device-seconds by role and phase. PURE: the clock's readings are arguments."""

from dataclasses import dataclass, field

IDLE_PHASES = frozenset({"wait", "idle"})


@dataclass
class RoleClock:
    """Device-seconds of one role's devices, by phase. Mutable, as a stopwatch is.

    Time is counted between `start` and the last reading, so start-up and warm start do not count.
    """

    devices: int
    seconds: dict[str, float] = field(default_factory=dict)
    _phase: str = "idle"
    _since: float | None = None

    def start(self, now: float) -> None:
        """Begin to count; `now` in seconds of any monotonic clock."""
        self._since = now

    def stop(self, now: float) -> None:
        """Count until `now`, then pause until the next `start`: the devices are released."""
        self._count(now)
        self._since = None

    def switch(self, phase: str, now: float) -> str:
        """Count until `now`, continue in `phase`, and return the previous phase."""
        before = self._phase
        self._count(now)
        self._phase = phase
        return before

    def total(self, now: float) -> float:
        """Device-seconds so far."""
        self._count(now)
        return sum(self.seconds.values())

    def idle_fraction(self, now: float) -> float:
        """Share of the time in which the devices waited or were idle; 0 before the start."""
        total = self.total(now)
        return sum(self.seconds.get(phase, 0.0) for phase in IDLE_PHASES) / total if total else 0.0

    def _count(self, now: float) -> None:
        if self._since is None:
            return
        self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + self.devices * (now - self._since)
        self._since = now
