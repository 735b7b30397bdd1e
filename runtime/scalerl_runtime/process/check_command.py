"""`python -m scalerl_runtime check SPEC...`: prints verdicts on the models and the data of RLRuns. I/O."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import yaml

from scalerl_api import InvalidRun, RLRun, parse_run
from scalerl_api.addresses import is_in_bucket
from scalerl_api.wire import EXIT_FINISHED, EXIT_INVALID, RunFault, RunVerdict
from scalerl_runtime.models.passed_settings import require_settings
from scalerl_runtime.models.source import ModelUnavailable, find_at_hand
from scalerl_runtime.process.data_check import Consent, LocalModel, check_run_data

NOT_FOUND = "neither a folder here nor in the hub's cache"


@dataclass(frozen=True)
class CheckOptions:
    """The checks beside that of the model."""

    self_test: bool = False
    """Read the data and try the verifiers."""
    consent: Consent = Consent()


def check_files(paths: Sequence[Path], options: CheckOptions, stream: BinaryIO) -> int:
    """Write a JSON list with a verdict for every RLRun into `stream`, and return the exit code.

    A model that is neither a folder here nor in the hub's cache is not fetched: its verdict says so.
    """
    verdicts = [_judge(path, options) for path in paths]
    stream.write(json.dumps([each.model_dump(by_alias=True, mode="json") for each in verdicts]).encode() + b"\n")
    stream.flush()
    return EXIT_INVALID if any(each.faults for each in verdicts) else EXIT_FINISHED


def _judge(path: Path, options: CheckOptions) -> RunVerdict:
    try:
        run = parse_run(yaml.safe_load(path.read_text(encoding="utf-8")))
        require_settings(run)
        if run.spec.model.source == "scratch":
            return _judge_scratch(run, options)
        source = run.spec.model.source
        folder = find_at_hand(source)
        if folder is None:
            where = "in a bucket, and nothing is fetched" if is_in_bucket(source) else NOT_FOUND
            unchecked = f"{source} is {where}"
            return _judge_data(run, None, options).model_copy(update={"unchecked": unchecked})
        return _judge_here(run, folder, options)
    except InvalidRun as error:
        return RunVerdict(faults=tuple(RunFault(path=f.path, value=f.value, allowed=f.allowed) for f in error.faults))
    except ModelUnavailable as error:
        return RunVerdict(unchecked=str(error))


def _judge_scratch(run: RLRun, options: CheckOptions) -> RunVerdict:
    """Return the verdict on a run whose model is made when it starts, of an architecture that is known."""
    if not options.self_test:
        return RunVerdict()
    from scalerl_runtime.process.model_check import make_start_model  # loads torch

    with tempfile.TemporaryDirectory(prefix="scalerl-check-") as parent:
        folder = Path(parent) / "model"
        make_start_model(run, folder)
        return _judge_here(run, folder, options)


def _judge_here(run: RLRun, folder: Path, options: CheckOptions) -> RunVerdict:
    """Return the verdict on a run whose model is in `folder`. Raises InvalidRun, ModelUnavailable."""
    from scalerl_runtime.process.model_check import check_model  # loads torch

    return _judge_data(run, LocalModel(check_model(run, folder).tokenizer, folder), options)


def _judge_data(run: RLRun, model: LocalModel | None, options: CheckOptions) -> RunVerdict:
    if not options.self_test:
        return RunVerdict()
    report = check_run_data(run, model, options.consent)
    return RunVerdict(sources=report.sources, untested=report.untested)
