"""Device time of a run over all attempts, lost work included: cost.json. I/O."""

import json
from collections.abc import Mapping
from pathlib import Path

COST = "cost.json"


class CostFile:
    """Device-seconds by role. A killed attempt loses only the time since its last step."""

    def __init__(self, folder: Path):
        self._file = folder / COST
        self.before: dict[str, float] = json.loads(self._file.read_text()) if self._file.exists() else {}
        """Device-seconds of earlier attempts."""

    def total(self, spent: Mapping[str, float]) -> dict[str, float]:
        """Device-seconds of earlier attempts and of this one, which has `spent`."""
        return {role: self.before.get(role, 0.0) + seconds for role, seconds in spent.items()}

    def save(self, spent: Mapping[str, float]) -> None:
        """Replace the file atomically."""
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps(self.total(spent)))
        part.replace(self._file)
