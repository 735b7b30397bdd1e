"""Compares the free space of the checkpoints' disk with what the run will write there, before a step is made. I/O."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from scalerl_api.validation import Fault, InvalidRun

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpacePlan:
    """The checkpoints that a run will have at once."""

    checkpoint_bytes: int
    keep: int
    num_stored: int
    """Checkpoints that are there already."""

    @property
    def missing_bytes(self) -> int:
        """For `keep` checkpoints and the one that is written before the oldest is deleted."""
        return max(1, self.keep + 1 - self.num_stored) * self.checkpoint_bytes


def check_space(folder: Path, plan: SpacePlan, field: str) -> None:
    """Raise InvalidRun if the disk of `folder` cannot hold the run's checkpoints; a run that resumes needs one more.

    A file system that does not know its size, as some of object storage do not, is not judged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    usage = shutil.disk_usage(folder)
    if usage.total == 0 or usage.free >= plan.missing_bytes:
        return
    words = (
        f"{plan.keep + 1} checkpoints of {plan.checkpoint_bytes / 1e9:.2f} GB, of which {plan.num_stored} are there, "
        f"need {plan.missing_bytes / 1e9:.2f} GB more"
    )
    if plan.num_stored and usage.free >= plan.checkpoint_bytes:
        log.warning("%s has %.2f GB free: %s", folder, usage.free / 1e9, words)
        return
    allowed = f"more space, or a smaller spec.checkpoint.keep: {words}"
    raise InvalidRun([Fault(field, f"{folder} has {usage.free / 1e9:.2f} GB free", allowed)])
