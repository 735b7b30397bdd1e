"""`python -m scalerl_runtime check SPEC...`: prints verdicts on the models that RLRuns name. I/O."""

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from scalerl_api import InvalidRun, parse_run
from scalerl_api.wire import EXIT_FINISHED, EXIT_INVALID, ModelFault, ModelVerdict
from scalerl_runtime.models.passed_settings import require_settings
from scalerl_runtime.models.source import ModelUnavailable, find_at_hand


def check_files(paths: Sequence[Path]) -> int:
    """Print a JSON list with a verdict for every RLRun, and return the exit code.

    A model that is neither a folder here nor in the hub's cache is not fetched: its verdict says so.
    """
    verdicts = [_judge(path) for path in paths]
    print(json.dumps([each.model_dump(by_alias=True, mode="json") for each in verdicts]))  # noqa: T201  # the answer
    return EXIT_INVALID if any(each.faults for each in verdicts) else EXIT_FINISHED


def _judge(path: Path) -> ModelVerdict:
    try:
        run = parse_run(yaml.safe_load(path.read_text(encoding="utf-8")))
        require_settings(run)
        source = run.spec.model.source
        if source == "scratch":
            return ModelVerdict()  # made when the run starts, of an architecture that is known
        folder = find_at_hand(source)
        if folder is None:
            return ModelVerdict(unchecked=f"{source} is neither a folder here nor in the hub's cache")
        from scalerl_runtime.process.model_check import check_model  # loads torch

        check_model(run, folder)
    except InvalidRun as error:
        return ModelVerdict(
            faults=tuple(ModelFault(path=f.path, value=f.value, allowed=f.allowed) for f in error.faults)
        )
    except ModelUnavailable as error:
        return ModelVerdict(unchecked=str(error))
    return ModelVerdict()
