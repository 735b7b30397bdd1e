"""Carries out a run's file as `scalerl run` does, with its records beside it. I/O."""

import subprocess
import sys
from pathlib import Path


def run_file(file: Path, *flags: str) -> int:
    """Return the exit code of `scalerl run`; the run's folder has the file's name."""
    command = [
        sys.executable,
        "-m",
        "scalerl_operator",
        "run",
        str(file),
        "--folder",
        str(file.with_suffix("")),
        *flags,
    ]
    return subprocess.run(command, check=False).returncode
