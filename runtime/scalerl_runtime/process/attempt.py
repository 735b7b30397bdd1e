"""One attempt as a process sees it: environment in, exit code and last words out. I/O."""

import json
import logging
from collections.abc import Mapping

import yaml

from scalerl_api import InvalidRun, parse_run
from scalerl_api.wire import EXIT_FINISHED, EXIT_INVALID, EXIT_NON_FINITE, EXIT_RETRY, Termination
from scalerl_runtime.actors.options import Environment
from scalerl_runtime.algorithm.step import NonFinite
from scalerl_runtime.data.datasets import DataUnavailable
from scalerl_runtime.deadlines import DeadlineExceeded
from scalerl_runtime.process.coordinator import Coordinator
from scalerl_runtime.rewards.sandbox import SandboxUnavailable
from scalerl_runtime.rewards.verifier import VerifierLost
from scalerl_runtime.types import ClusterUnavailable, GeneratorLost, TrainerLost

log = logging.getLogger(__name__)

# Faults that say nothing against the run: another start, perhaps elsewhere, may succeed.
SURROUNDINGS = (
    ClusterUnavailable,
    TrainerLost,
    GeneratorLost,
    DataUnavailable,
    DeadlineExceeded,
    VerifierLost,
    SandboxUnavailable,
)


async def run_attempt(variables: Mapping[str, str]) -> int:
    """Lead a run to its end; return the exit code, and leave the last words where the wire says."""
    environment = Environment.parse(variables)
    try:
        run = parse_run(yaml.safe_load(environment.spec.read_text()))
        coordinator = Coordinator(environment, run)
    except InvalidRun as error:
        return _leave(environment, Termination(reason="Invalid", error=str(error)), EXIT_INVALID)
    coordinator.handle_signals()
    try:
        reason = await coordinator.run_attempt()
    except InvalidRun as error:
        return _leave(environment, Termination(reason="Invalid", error=str(error)), EXIT_INVALID)
    except SURROUNDINGS as error:
        log.error("%s", error)
        return _leave(environment, coordinator.reporter.termination("Retry", _one_line(error)), EXIT_RETRY)
    except NonFinite as error:
        log.error("%s", error)
        return _leave(environment, coordinator.reporter.termination("Failed", _one_line(error)), EXIT_NON_FINITE)
    except Exception as error:
        log.exception("the run failed")
        return _leave(environment, coordinator.reporter.termination("Failed", _one_line(error)), 1)
    return _leave(environment, coordinator.reporter.termination(reason, ""), EXIT_FINISHED)


def _leave(environment: Environment, words: Termination, code: int) -> int:
    part = environment.termination_file.with_suffix(".part")
    part.write_text(json.dumps(words.model_dump(by_alias=True, mode="json")))
    part.replace(environment.termination_file)
    return code


def _one_line(error: BaseException) -> str:
    text = str(error).strip() or repr(error)
    return f"{type(error).__name__}: {text.splitlines()[0]}"[:1000]
