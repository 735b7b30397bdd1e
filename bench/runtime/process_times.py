"""CPU time of a program's processes while it runs, by process. I/O on /proc."""

import bisect
import threading
import time
from collections import defaultdict
from collections.abc import Mapping

import psutil

SAMPLE_SECONDS = 0.25


class ProcessTimes:
    """Samples user and system time of a process and all its descendants, threads of ended ones included."""

    def __init__(self, pid: int):
        self._root = psutil.Process(pid)
        self._series: dict[int, tuple[str, list[float], list[float]]] = {}  # name, wall-clock times, CPU-seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "ProcessTimes":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            try:
                processes = [self._root, *self._root.children(recursive=True)]
            except psutil.Error:
                return
            for process in processes:
                self._sample(process)

    def _sample(self, process: psutil.Process) -> None:
        try:
            with process.oneshot():
                name, times = name_process(process.name(), process.cmdline()), process.cpu_times()
        except psutil.Error:  # it ended meanwhile
            return
        _, clock, used = self._series.setdefault(process.pid, (name, [], []))
        clock.append(time.time())
        used.append(times.user + times.system)
        self._series[process.pid] = (name, clock, used)  # a process gets its title after its start

    def between(self, begin: float, end: float) -> Mapping[str, float]:
        """Return the CPU-seconds from `begin` to `end` (seconds since 1970) by name, the largest first."""
        found: dict[str, float] = defaultdict(float)
        for name, clock, used in self._series.values():
            found[name] += interpolate(clock, used, end) - interpolate(clock, used, begin)
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def interpolate(clock: list[float], used: list[float], at: float) -> float:
    """Return the CPU-seconds used at a time; 0 before the first sample, the last value after the last one."""
    place = bisect.bisect_right(clock, at)
    if place == 0:
        return 0.0
    if place == len(clock):
        return used[-1]
    share = (at - clock[place - 1]) / (clock[place] - clock[place - 1])
    return used[place - 1] + share * (used[place] - used[place - 1])


NAMES = {  # a piece of the title or the command line -> the part of scalerl or Ray
    "ray::Generator": "generator",
    "VLLM::EngineCor": "engine core",
    "VLLM::Worker": "engine worker",
    "ray::Trainer": "trainer",
    "verifier_process": "judges",
    "scalerl_runtime": "coordinator",
    "scalerl_operator": "scalerl run",
    "gcs_server": "Ray: gcs",
    "raylet": "Ray: raylet",
    "trl_training": "TRL",
}


def name_process(name: str, command: list[str]) -> str:
    """Return the part of the program that a process is."""
    text = " ".join([name, *command[:6]])
    return next((part for piece, part in NAMES.items() if piece in text), "other")
