"""Runs one attempt as a process: environment in, exit code and termination message out. I/O."""

import json
import logging
from collections.abc import Mapping

import yaml

from scalerl_api import InvalidRun, parse_run
from scalerl_api.wire import EXIT_FINISHED, EXIT_INVALID, EXIT_NON_FINITE, EXIT_RETRY, EXIT_UNFIT, Termination
from scalerl_runtime.actors.options import Environment, apply_replicas
from scalerl_runtime.algorithm.step import NonFinite
from scalerl_runtime.data.datasets import DataUnavailable
from scalerl_runtime.deadlines import DeadlineExceeded
from scalerl_runtime.environments.pool import EnvironmentFailed
from scalerl_runtime.hub import is_transient
from scalerl_runtime.models.source import ModelUnavailable
from scalerl_runtime.preflight.readings import NodeUnfit, PreflightFailed, shorten
from scalerl_runtime.process.coordinator import Coordinator
from scalerl_runtime.process.input_check import DataRefused
from scalerl_runtime.rewards.http_judge import JudgeUnavailable
from scalerl_runtime.rewards.pool import VerifierLost
from scalerl_runtime.rewards.sandbox import SandboxUnavailable
from scalerl_runtime.types import ClusterUnavailable, GeneratorLost, TrainerLost

log = logging.getLogger(__name__)

# Faults of the surroundings, not of the run: another start, perhaps on another node, may succeed.
RETRYABLE = (
    ClusterUnavailable,
    TrainerLost,
    GeneratorLost,
    DataUnavailable,
    ModelUnavailable,
    DeadlineExceeded,
    VerifierLost,
    JudgeUnavailable,
    SandboxUnavailable,
    EnvironmentFailed,
    PreflightFailed,
)


async def run_attempt(variables: Mapping[str, str]) -> int:
    """Run the attempt to its end, write the termination message and return the exit code."""
    environment = Environment.parse(variables)
    try:
        run = apply_replicas(parse_run(yaml.safe_load(environment.spec.read_text())), environment.replicas)
        coordinator = Coordinator(environment, run)
    except InvalidRun as error:
        return _terminate(environment, Termination(reason="Invalid", error=str(error)), EXIT_INVALID)
    coordinator.handle_signals()
    try:
        reason = await coordinator.run_attempt()
    except InvalidRun as error:
        log.error("%s", error)
        message = coordinator.reporter.termination("Invalid", str(error))
        refused = error.digest if isinstance(error, DataRefused) else ""
        return _terminate(environment, message.model_copy(update={"refused_data": refused}), EXIT_INVALID)
    except NodeUnfit as error:
        log.error("%s", error)
        message = coordinator.reporter.termination("Unfit", _one_line(error))
        return _terminate(environment, message.model_copy(update={"unfit_nodes": shorten(error.nodes)}), EXIT_UNFIT)
    except RETRYABLE as error:
        log.error("%s", error)
        return _terminate(environment, coordinator.reporter.termination("Retry", _one_line(error)), EXIT_RETRY)
    except NonFinite as error:
        log.error("%s", error)
        return _terminate(environment, coordinator.reporter.termination("Failed", _one_line(error)), EXIT_NON_FINITE)
    except Exception as error:
        if isinstance(error, OSError) and is_transient(error):  # a full disk, a file system that does not answer
            log.error("%s", error)
            return _terminate(environment, coordinator.reporter.termination("Retry", _one_line(error)), EXIT_RETRY)
        log.exception("the run failed")
        return _terminate(environment, coordinator.reporter.termination("Failed", _one_line(error)), 1)
    return _terminate(environment, coordinator.reporter.termination(reason, coordinator.export_fault), EXIT_FINISHED)


def _terminate(environment: Environment, message: Termination, code: int) -> int:
    part = environment.termination_file.with_suffix(".part")
    part.write_text(json.dumps(message.model_dump(by_alias=True, mode="json")))
    part.replace(environment.termination_file)
    return code


def _one_line(error: BaseException) -> str:
    text = str(error).strip() or repr(error)
    return f"{type(error).__name__}: {text.splitlines()[0]}"[:1000]
