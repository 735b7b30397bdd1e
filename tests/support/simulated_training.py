"""A run's simulated training: steps, checkpoints, the cost of a death. PURE: the caller sets the time.

`saved` outlives pods, as a volume does; everything since then dies with the coordinator's process.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

START_SECONDS = 3.0
STEP_SECONDS = 0.5
SAVE_EVERY = 20  # steps
SAVE_SECONDS = 3.0

State = Literal["none", "starting", "training", "saving", "ended"]


@dataclass
class Training:
    """The training of one run over all its attempts."""

    state: State = "none"
    attempt: int = 0
    step: int = 0
    saved: int = 0
    """Step of the newest durable checkpoint."""
    first_steps: dict[int, int] = field(default_factory=dict)
    """Attempt -> the step at which it began."""
    held: set[State] = field(default_factory=set)
    """States that do not end until they are released."""
    evals: list[dict[str, Any]] = field(default_factory=list)
    ending: bool = False
    """Whether it received SIGTERM."""
    hung: bool = False
    """Whether it waits for a dead member: it neither steps nor saves, and only a kill ends it."""
    alive_at_once: int = 0
    """Largest number of coordinators that were alive at one time."""
    _alive: int = 0
    _since: float = 0.0
    _base: int = 0

    def begin(self, attempt: int, now: float) -> None:
        """Start the coordinator's process from the newest checkpoint."""
        self.attempt, self.step, self.ending, self.hung = attempt, self.saved, False, False
        self.first_steps[attempt] = self.saved
        self._alive += 1
        self.alive_at_once = max(self.alive_at_once, self._alive)
        self._enter("starting", now)

    def ask_to_end(self, now: float) -> None:
        """Handle SIGTERM: save, then end. A running save is enough; a run without a step ends at once."""
        self.ending = True
        if self.hung:
            return
        if self.state == "starting":
            self._end(now)
        elif self.state == "training":
            self._enter("saving", now)

    def kill(self, now: float) -> None:
        """Handle SIGKILL: an unfinished checkpoint is lost."""
        if self.state not in ("none", "ended"):
            self._end(now)

    def tick(self, now: float) -> None:
        """Advance to a time."""
        if self.hung or self.state in self.held:
            return
        passed = now - self._since
        if self.state == "starting" and passed >= START_SECONDS:
            self._enter("training", now)
        elif self.state == "training":
            self.step = self._base + int(passed / STEP_SECONDS)
            if self.step >= self.saved + SAVE_EVERY:
                self._enter("saving", now)
        elif self.state == "saving" and passed >= SAVE_SECONDS:
            self.saved = self.step
            if self.ending:
                self._end(now)
            else:
                self._enter("training", now)

    def _enter(self, state: State, now: float) -> None:
        self.state, self._since, self._base = state, now, self.step

    def _end(self, now: float) -> None:
        self._alive -= 1
        self._enter("ended", now)

    def checkpoint(self, unix: float) -> dict[str, Any] | None:
        """Return the newest durable checkpoint, as coordinators report it."""
        return {"step": self.saved, "time": unix, "path": "/run/checkpoints"} if self.saved else None

    def progress(self, run: str, since: int, unix: float) -> dict[str, Any]:
        """Return the body of `/v1/progress?since=N`."""
        phases = {"starting": "starting", "saving": "stopping" if self.ending else "training"}
        return {
            "run": run,
            "attempt": self.attempt,
            "phase": phases.get(self.state, "training"),
            "step": self.step,
            "version": self.step,
            "computeGpuHours": 0.01 * self.step,
            "gpuSeconds": {"trainer": 10.0 * self.step},
            "generatorsReady": 3,
            "evals": [each for each in self.evals if each["index"] >= since],
            "checkpoint": self.checkpoint(unix),
            "time": unix,
        }
