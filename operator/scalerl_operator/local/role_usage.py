"""CPU-seconds of a run's processes by role, sampled while it runs. I/O."""

import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import psutil

Role = Literal["trainer", "engine", "loop"]
ENGINE_NAMES = ("VLLM::", "ray::Generator")  # the worker, the engine's core, and its front end
TRAINER_NAMES = ("ray::Trainer",)
ROLES: tuple[Role, ...] = ("trainer", "engine", "loop")


@dataclass(frozen=True)
class UsageSample:
    """Cumulated CPU-seconds at a time of the wall clock."""

    at: float
    seconds: Mapping[Role, float]


@dataclass
class RoleUsage:
    """Samples of a process tree. Mutable: `sample` adds one; a process that ended keeps its last reading."""

    root: psutil.Process
    samples: list[UsageSample] = field(default_factory=list)
    _seconds: dict[tuple[int, float], tuple[Role, float]] = field(default_factory=dict)

    def sample(self) -> None:
        """Read the tree once."""
        for process in [self.root, *self.root.children(recursive=True)]:
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    key = (process.pid, process.create_time())
                    self._seconds[key] = (find_role(process.cmdline()), times.user + times.system)
            except psutil.Error:  # it ended meanwhile
                continue
        totals: dict[Role, float] = dict.fromkeys(ROLES, 0.0)
        for role, seconds in self._seconds.values():
            totals[role] += seconds
        self.samples.append(UsageSample(time.time(), totals))


def find_role(command: Sequence[str]) -> Role:
    """Return the role of a process by its title: Ray and vLLM set those of theirs."""
    title = command[0] if command else ""
    if title.startswith(TRAINER_NAMES):
        return "trainer"
    return "engine" if title.startswith(ENGINE_NAMES) else "loop"


def seconds_between(samples: Sequence[UsageSample], start: float, end: float) -> dict[Role, float]:
    """Return the CPU-seconds of each role between two times, interpolated. Raises ValueError outside the samples."""
    return {role: _at(samples, role, end) - _at(samples, role, start) for role in ROLES}


def _at(samples: Sequence[UsageSample], role: Role, when: float) -> float:
    times = [each.at for each in samples]
    place = bisect_left(times, when)
    if not samples or place == len(times) or when < times[0]:
        raise ValueError(f"no sample around {when:.1f}")
    after = samples[place]
    if place == 0 or after.at == when:
        return after.seconds[role]
    before = samples[place - 1]
    share = (when - before.at) / (after.at - before.at)
    return before.seconds[role] + share * (after.seconds[role] - before.seconds[role])
