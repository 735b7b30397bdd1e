"""Reads the parts of a running attempt for a report: steps, compute, device time, counters. I/O (reads clocks only)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scalerl_runtime.loop.device_time import RoleClock
from scalerl_runtime.loop.pipeline import Pipeline
from scalerl_runtime.loop.pool import Pool
from scalerl_runtime.loop.slots import PoolCounters, Slot

Role = Literal["trainer", "generator"]
ROLES: tuple[Role, ...] = ("trainer", "generator")


@dataclass(frozen=True)
class StartPoint:
    """The checkpoint that an attempt resumes from; all zero without one."""

    step: int = 0
    compute_gpu_hours: float = 0.0


class LiveState:
    """The attempt's state at the time of the call. A part is None until it is built."""

    def __init__(self, trainer_devices: int):
        self.trainer_clock = RoleClock(trainer_devices)
        self.start: StartPoint | None = None
        self.pool: Pool | None = None
        self.pipeline: Pipeline | None = None

    @property
    def step(self) -> int:
        """Optimizer steps done; 0 while the checkpoints are not read yet."""
        return self.pipeline.state.step if self.pipeline else (self.start or StartPoint()).step

    @property
    def compute_gpu_hours(self) -> float:
        """Compute of the surviving history."""
        return self.pipeline.compute_gpu_hours() if self.pipeline else (self.start or StartPoint()).compute_gpu_hours

    @property
    def slots(self) -> Sequence[Slot]:
        """The generators' slots."""
        return list(self.pool.slots.values()) if self.pool else []

    @property
    def version(self) -> int:
        """Newest weights that a generator runs; 0 before there are generators."""
        return max((slot.version for slot in self.slots), default=0)

    @property
    def generators_ready(self) -> int:
        """Generators that serve this run's weights."""
        return sum(slot.state == "ready" for slot in self.slots)

    @property
    def counters(self) -> PoolCounters:
        """The pool's counters."""
        return self.pool.counters if self.pool else PoolCounters()

    def device_seconds(self) -> dict[str, float]:
        """Device-seconds of this attempt, by role."""
        now = time.monotonic()
        return {role: sum(clock.total(now) for clock in self._clocks(role)) for role in ROLES}

    def device_seconds_by_phase(self) -> dict[tuple[str, str], float]:
        """Device-seconds of this attempt, by role and phase."""
        now = time.monotonic()
        seconds: dict[tuple[str, str], float] = {}
        for role in ROLES:
            for clock in self._clocks(role):
                clock.total(now)
                for phase, spent in clock.seconds.items():
                    seconds[role, phase] = seconds.get((role, phase), 0.0) + spent
        return seconds

    def idle_fractions(self) -> dict[str, float]:
        """Share of the device time without work, by role; the mean over generators."""
        now = time.monotonic()
        fractions = {role: [clock.idle_fraction(now) for clock in self._clocks(role)] for role in ROLES}
        return {role: sum(each) / max(1, len(each)) for role, each in fractions.items()}

    def _clocks(self, role: Role) -> list[RoleClock]:
        return [self.trainer_clock] if role == "trainer" else [slot.clock for slot in self.slots]
