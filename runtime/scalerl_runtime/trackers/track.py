"""Runs the trackers of a run, each in a thread of its own, so that a slow or broken one never delays training. I/O."""

import importlib.util
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scalerl_api.validation import Fault, InvalidRun
from scalerl_runtime.trackers.interface import TrackedPoint, TrackedRun, Tracker, Values
from scalerl_runtime.trackers.mlflow_tracker import MlflowTracker
from scalerl_runtime.trackers.tensorboard_tracker import TensorboardTracker
from scalerl_runtime.trackers.tracker_state import TrackerState
from scalerl_runtime.trackers.wandb_tracker import WandbTracker

log = logging.getLogger(__name__)

FOLDER = "trackers"  # in the run's folder; one folder below it for each tracker
QUEUE_POINTS = 10_000  # that wait for a slow tracker; what comes beyond is dropped
CLOSE_SECONDS = 30.0  # for what still waits at the end of an attempt
BUILDERS: Mapping[str, Callable[[], Tracker]] = {
    "wandb": WandbTracker,
    "tensorboard": TensorboardTracker,
    "mlflow": MlflowTracker,
}


def check_packages(names: Sequence[str]) -> None:
    """Raise InvalidRun for every tracker whose package is not installed. Nothing is imported."""
    faults = [
        Fault(f"spec.trackers[{index}]", name, f"a tracker whose package is installed: pip install 'scalerl[{name}]'")
        for index, name in enumerate(names)
        if importlib.util.find_spec(name) is None
    ]
    if faults:
        raise InvalidRun(faults)


class Trackers:
    """The trackers of one attempt. The calls return at once, and none raises because of a tracker."""

    def __init__(self, trackers: Mapping[str, Tracker], name: str, folder: Path, config: Values):
        """`folder` is the run's; `config` its resolved spec, flat."""
        self._queues = [_TrackerQueue(each, tracker, name, folder, config) for each, tracker in trackers.items()]

    @classmethod
    def build(cls, names: Sequence[str], name: str, folder: Path, config: Values) -> "Trackers":
        """Return the trackers `names` of the run `name`."""
        return cls({each: BUILDERS[each]() for each in names}, name, folder, config)

    def log(self, point: TrackedPoint) -> None:
        """Send the numbers of a step or an evaluation."""
        for each in self._queues:
            each.put(point)

    def close(self, summary: Values, *, is_final: bool, seconds: float = CLOSE_SECONDS) -> None:
        """Send what waits and end: all trackers together within `seconds`."""
        until = time.monotonic() + seconds
        for each in self._queues:
            each.finish(_End(summary, is_final))
        for each in self._queues:
            each.join(max(0.0, until - time.monotonic()))


@dataclass(frozen=True)
class _End:
    summary: Values
    is_final: bool


class _TrackerQueue:
    """One tracker with its thread. After an error it gets nothing more in this attempt."""

    def __init__(self, name: str, tracker: Tracker, run_name: str, folder: Path, config: Values):
        self._name = name
        self._tracker = tracker
        self._folder = folder / FOLDER / name
        self._run = TrackedRun("", run_name, self._folder, config, is_new=True)
        self._queue: queue.Queue[TrackedPoint | _End] = queue.Queue()
        self._is_open = True  # takes points
        self._is_behind = False
        # A daemon: a tracker that hangs must not keep the process.
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def put(self, point: TrackedPoint) -> None:
        """Queue a point; drop it if too many wait."""
        if self._queue.qsize() >= QUEUE_POINTS:
            if not self._is_behind:
                log.warning("tracker %s is too slow: it misses steps from %d on", self._name, point.step)
            self._is_behind = True
        elif self._is_open:
            self._queue.put_nowait(point)

    def finish(self, end: _End) -> None:
        """Queue the end."""
        self._queue.put_nowait(end)

    def join(self, seconds: float) -> None:
        """Wait for the end."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            log.warning("tracker %s did not end in time: what it has not sent is lost", self._name)

    def _work(self) -> None:
        try:
            self._send()
        except (Exception, SystemExit) as error:  # noqa: BLE001 # the top of a thread, of packages with errors of their own
            text = " ".join(str(error).split())[:300]
            log.warning("tracker %s failed; the run goes on without it: %s: %s", self._name, type(error).__name__, text)
        finally:
            self._is_open = False

    def _send(self) -> None:
        state = TrackerState.load(self._folder)
        self._tracker.open(replace(self._run, id=state.id, is_new=not state.last_steps))
        while isinstance(item := self._queue.get(), TrackedPoint):
            if not state.has(item):
                self._tracker.log(item)
                state.add(item)
        self._tracker.close(item.summary, is_final=item.is_final)
