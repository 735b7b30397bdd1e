"""Exports a model on this machine: runs the runtime's `export`, which this side cannot import, as a process. I/O."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scalerl_api.wire import EXPORT_HUB

RUNTIME_COMMAND = (sys.executable, "-m", "scalerl_runtime", "export")


@dataclass(frozen=True)
class ExportChoiceOptions:
    """Which weights of a run, and the forecast for the card of a model that goes to a hub."""

    step: int | None
    best: bool
    forecast: str
    merged: bool = False
    """Adapters are added to the model that they belong to."""


def build_arguments(source: str, target: str, choice: ExportChoiceOptions) -> list[str]:
    """Return the arguments of the runtime's `export`. The card of a folder is completed when the folder is here."""
    chosen = ["--best"] if choice.best else ["--step", str(choice.step)] if choice.step is not None else []
    chosen += ["--merged"] if choice.merged else []
    is_hub = target.startswith(EXPORT_HUB)
    return [source, "--to", target, *chosen, *(["--forecast", choice.forecast] if choice.forecast and is_hub else [])]


def run_runtime(arguments: Sequence[str], command: Sequence[str] = RUNTIME_COMMAND) -> int:
    """Run it with this terminal's streams, so its progress is seen; return its exit code. No GPU is shown to it."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "PYTHONUNBUFFERED": "1"}
    return subprocess.run([*command, *arguments], env=environment, check=False).returncode


def find_picture(folder: Path) -> Path | None:
    """Return the picture of the run's curve that the report has left in the run's folder."""
    path = folder / "pass_rate.png"
    return path if path.is_file() else None
