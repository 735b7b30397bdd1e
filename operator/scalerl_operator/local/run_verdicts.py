"""Asks the runtime, where it is installed, about the models of runs, their data and their verifiers. I/O."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from scalerl_api.wire import ENV_OFFLINE, RunVerdict

CHECK_COMMAND = (sys.executable, "-m", "scalerl_runtime", "check")
NEEDED = ("scalerl_runtime", "torch", "transformers")
TIMEOUT_SECONDS = 600  # a check takes seconds, and the first import of torch on a cold disk a minute
DATA_SECONDS = 300  # more for the data of each file; the runtime's own limit is shorter
NO_FETCH = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", ENV_OFFLINE: "1"}


@dataclass(frozen=True)
class CheckScope:
    """The checks beside those of the models."""

    self_test: bool = True
    """Read the data and try the verifiers on it."""
    user_code: bool = False
    """Try functions and environments of the user's too."""
    http_judges: bool = False
    """Ask judges behind an URL too."""

    @property
    def flags(self) -> list[str]:
        """The runtime's options."""
        wanted = {"--self-test": self.self_test, "--run-user-code": self.user_code, "--ask-judges": self.http_judges}
        return [flag for flag, is_wanted in wanted.items() if is_wanted]


def run_preflight() -> int | None:
    """Check this machine as the start of a run does; the report goes to stdout.

    Return the exit code; None where the runtime is not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in NEEDED):
        return None
    return subprocess.run([sys.executable, "-m", "scalerl_runtime", "preflight"], check=False).returncode


def fetch_verdicts(
    files: Sequence[Path], scope: CheckScope, command: Sequence[str] = CHECK_COMMAND
) -> list[RunVerdict]:
    """Return a verdict for each file, which must be a valid RLRun. Neither model nor data is fetched for it."""
    if not files:
        return []
    if any(importlib.util.find_spec(name) is None for name in NEEDED):
        return [RunVerdict(unchecked="the runtime is not installed here")] * len(files)
    seconds = TIMEOUT_SECONDS + DATA_SECONDS * len(files) * scope.self_test
    try:
        done = subprocess.run(
            [*command, *scope.flags, *map(str, files)],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env={**os.environ, **NO_FETCH},
        )
        verdicts = [RunVerdict.model_validate(each) for each in json.loads(done.stdout.strip().splitlines()[-1])]
        if len(verdicts) != len(files):
            raise ValueError("another number of verdicts")
    except subprocess.TimeoutExpired:
        return [RunVerdict(unchecked=f"the check took longer than {seconds} s")] * len(files)
    except (ValueError, IndexError, TypeError, ValidationError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return [RunVerdict(unchecked=f"the check failed: {last}")] * len(files)
    return verdicts
