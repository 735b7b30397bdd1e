"""The state of a tracker between attempts: the id of its run, and the last steps that it has. I/O."""

import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from scalerl_runtime.trackers.interface import TrackedPoint

FILE = "scalerl-tracker.json"


@dataclass
class TrackerState:
    """One tracker's state, in its folder. Mutable, by its own methods."""

    folder: Path
    id: str
    last_steps: dict[str, int] = field(default_factory=dict)
    """Of each series."""

    @classmethod
    def load(cls, folder: Path) -> "TrackerState":
        """Return the stored state, or a new one, which is stored."""
        folder.mkdir(parents=True, exist_ok=True)
        try:
            stored = json.loads((folder / FILE).read_text(encoding="utf-8"))
            return cls(folder, str(stored["id"]), {str(key): int(step) for key, step in stored["lastSteps"].items()})
        except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none yet, or cut by a crash
            state = cls(folder, uuid.uuid4().hex)
            state.save()
            return state

    def has(self, point: TrackedPoint) -> bool:
        """Whether the tracker has this step already, from an attempt that ended after its last checkpoint."""
        return point.step <= self.last_steps.get(point.series, -1)

    def add(self, point: TrackedPoint) -> None:
        """Store that the tracker has `point`."""
        self.last_steps[point.series] = point.step
        self.save()

    def save(self) -> None:
        """Write the file whole."""
        part = self.folder / f".{FILE}"
        part.write_text(json.dumps({"id": self.id, "lastSteps": self.last_steps}), encoding="utf-8")
        part.replace(self.folder / FILE)
