"""Asks the runtime, where it is installed, whether trainer and engine can represent the models of runs. I/O."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from scalerl_api.wire import ModelVerdict

CHECK_COMMAND = (sys.executable, "-m", "scalerl_runtime", "check")
NEEDED = ("scalerl_runtime", "torch", "transformers")
TIMEOUT_SECONDS = 600  # a check takes seconds, and the first import of torch on a cold disk a minute


def fetch_verdicts(files: Sequence[Path], command: Sequence[str] = CHECK_COMMAND) -> list[ModelVerdict]:
    """Return a verdict for each file, which must be a valid RLRun. No model is fetched for it."""
    if not files:
        return []
    if any(importlib.util.find_spec(name) is None for name in NEEDED):
        return [ModelVerdict(unchecked="the runtime is not installed here")] * len(files)
    try:
        done = subprocess.run(
            [*command, *map(str, files)], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
        verdicts = [ModelVerdict.model_validate(each) for each in json.loads(done.stdout.strip().splitlines()[-1])]
        if len(verdicts) != len(files):
            raise ValueError("another number of verdicts")
    except subprocess.TimeoutExpired:
        return [ModelVerdict(unchecked=f"the check took longer than {TIMEOUT_SECONDS} s")] * len(files)
    except (ValueError, IndexError, TypeError, ValidationError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return [ModelVerdict(unchecked=f"the check failed: {last}")] * len(files)
    return verdicts
