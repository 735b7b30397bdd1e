"""`python -m scalerl_runtime coordinator|worker|export`: the entry point of the runtime's processes. I/O."""

import argparse
import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import yaml

from scalerl_api import InvalidRun, RLRun, parse_run
from scalerl_api.wire import (
    ENV_CLUSTER,
    ENV_COORDINATOR,
    ENV_NODE,
    ENV_SPEC,
    EXIT_INVALID,
    EXIT_RETRY,
    EXPORT_HUB,
    EXPORT_STREAM,
)
from scalerl_runtime.actors.ray_node import JoinFailed, NodeRole, run_worker_node, start_head, write_termination_message
from scalerl_runtime.deadlines import DeadlineExceeded
from scalerl_runtime.preflight.pod import check_pod
from scalerl_runtime.preflight.readings import NodeUnfit
from scalerl_runtime.process.pid1 import under_init
from scalerl_runtime.process.preflight_command import report_unfit, run_preflight

log = logging.getLogger(__name__)


def main() -> int:
    """Run the role that the command line names; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m scalerl_runtime", description="A process of an RLRun.")
    roles = parser.add_subparsers(dest="role", required=True)
    roles.add_parser("coordinator", help="drives the run")
    roles.add_parser("worker", help="a further pod, in which Ray starts the processes")
    _add_export_arguments(
        roles.add_parser("export", help="writes a checkpoint as a model that other programs can load")
    )
    check = roles.add_parser("check", help="prints verdicts on the models of RLRuns as JSON")
    _add_check_arguments(check)
    roles.add_parser("preflight", help="checks this machine or pod as a run's start does")
    arguments = parser.parse_args()
    if arguments.role == "check":
        _check(arguments)
    if arguments.role == "export":
        from scalerl_runtime.process.export_command import claim_stdout, run_export

        return run_export(arguments, os.environ, claim_stdout())
    if arguments.role == "preflight":
        return run_preflight(os.environ, sys.stdout)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return asyncio.run(_coordinate(os.environ) if arguments.role == "coordinator" else _work(os.environ))


def _add_check_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `check`."""
    parser.add_argument("files", nargs="+", type=Path, metavar="SPEC", help="YAML files of RLRuns")
    parser.add_argument("--self-test", action="store_true", help="read the data and try the verifiers too")
    parser.add_argument("--run-user-code", action="store_true", help="try functions and environments of the user's")
    parser.add_argument("--ask-judges", action="store_true", help="ask judges behind an URL")


def _check(arguments: argparse.Namespace) -> NoReturn:
    from scalerl_runtime.process.check_command import CheckOptions, check_files
    from scalerl_runtime.process.data_check import Consent
    from scalerl_runtime.process.export_command import claim_stdout

    consent = Consent(user_code=arguments.run_user_code, http_judges=arguments.ask_judges)
    code = check_files(arguments.files, CheckOptions(arguments.self_test, consent), claim_stdout())
    sys.stderr.flush()
    os._exit(code)  # a reader that was left behind at its deadline would hold the exit


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    parser.add_argument("source", type=Path, help="folder of a run, a checkpoint, or a model that was exported before")
    parser.add_argument("--to", required=True, help=f"a folder, {EXPORT_HUB}OWNER/NAME, or {EXPORT_STREAM} for a tar")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--step", type=int, help="checkpoint of this step of a run (default: the newest)")
    chosen.add_argument("--best", action="store_true", help="weights with the highest held-out pass rate of a run")
    parser.add_argument("--merged", action="store_true", help="a whole model of model.source and the run's adapters")
    parser.add_argument("--forecast", default="", help="Markdown for the model card")


async def _coordinate(variables: Mapping[str, str]) -> int:
    from scalerl_runtime.process.attempt import run_attempt

    try:
        if ENV_COORDINATOR in variables:
            variables = {**variables, ENV_CLUSTER: await _start_head(variables)}
        return await run_attempt(variables)
    except JoinFailed as error:
        log.error("%s", error)
        return EXIT_RETRY
    finally:
        write_termination_message(variables)


async def _start_head(variables: Mapping[str, str]) -> str:
    """Start Ray's head in this pod. On a wrong spec return "": the attempt then reports its faults."""
    try:
        run = _load(variables)
    except InvalidRun:
        return ""
    node, seconds = NodeRole.parse(variables, run), run.spec.deadlines.start_seconds
    folder = tempfile.mkdtemp(prefix="scalerl-ray-")  # short: a path of a unix socket below it has at most 107 bytes
    return await start_head(node, num_cpus=os.cpu_count() or 1, folder=folder, seconds=seconds)


async def _work(variables: Mapping[str, str]) -> int:
    try:
        run = _load(variables)
    except InvalidRun as error:
        log.error("%s", error)
        return EXIT_INVALID
    node = NodeRole.parse(variables, run)
    try:
        await check_pod(run, node=variables[ENV_NODE], role=node.role, shared_memory_bytes=node.object_store_bytes)
    except NodeUnfit as error:
        log.error("%s", error)
        return report_unfit(variables, error)
    except DeadlineExceeded as error:
        log.error("%s", error)
        return EXIT_RETRY
    return await run_worker_node(node, num_cpus=os.cpu_count() or 1)


def _load(variables: Mapping[str, str]) -> RLRun:
    return parse_run(yaml.safe_load(Path(variables[ENV_SPEC]).read_text()))


if __name__ == "__main__":
    sys.exit(under_init(main))
