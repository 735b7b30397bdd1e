"""The `scalerl` command: arguments, messages and exit codes; the work is in the modules it calls. I/O.

Everything heavy (numpy, scipy, rich, matplotlib) is imported by the command that needs it, so that --help is quick.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from scalerl_api import Fault, InvalidRun, RLRun, parse_run
from scalerl_operator.cli.exit_codes import (
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_INTERRUPTED,
    EXIT_INVALID,
    EXIT_RETRY,
    CommandError,
    UsageError,
)
from scalerl_operator.cli.parser import build_parser
from scalerl_operator.decide.lifecycle import Limits
from scalerl_operator.local import run_folder as records
from scalerl_operator.local.durable_files import save_text
from scalerl_operator.local.run_folder import FolderBusy, RunFolder
from scalerl_operator.local.yaml_document import load_document

_EXIT_CODES = {
    "Finished": EXIT_FINISHED,
    "StoppedByPolicy": EXIT_FINISHED,
    "Suspended": EXIT_FINISHED,
    "Invalid": EXIT_INVALID,
    "RetriesExhausted": EXIT_RETRY,
    "RestartsExhausted": EXIT_FAILED,
    "DeadlineExceeded": EXIT_FAILED,
    "FailedByRule": EXIT_FAILED,
    "StoppedByWatchdog": EXIT_FAILED,
}


@dataclass(frozen=True)
class CliDeps:
    """What a run uses of its surroundings; tests use others."""

    coordinator: Sequence[str] | None = None
    """The command that runs a coordinator; None is the runtime's own."""
    poll_seconds: float = 1.0
    limits: Limits = Limits()


def main(arguments: Sequence[str] | None = None, *, machinery: CliDeps | None = None) -> int:
    """Do what `arguments` ask for; return the exit code.

    Args:
        arguments: without the program's name; None reads the command line.
        machinery: what runs a coordinator, and how often it is asked.
    """
    options = build_parser().parse_args(arguments)
    commands = {
        "validate": _validate,
        "status": _somewhere,
        "report": _somewhere,
        "logs": _somewhere,
        "fit": _fit,
        "operator": _operator,
        "compare": _compare,
        "plan": _plan,
    }
    try:
        if options.command == "run":
            return _run(options, machinery or CliDeps())
        return commands[options.command](options)
    except InvalidRun as error:
        return _complain(str(error), EXIT_INVALID)
    except FolderBusy as error:
        return _complain(f"scalerl: {error}", EXIT_RETRY)
    except CommandError as error:
        return _complain(f"scalerl: {error}", error.code)
    except BrokenPipeError:  # `scalerl status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _complain(text: str, code: int) -> int:
    sys.stderr.write(f"{text}\n")
    return code


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _validate(options: argparse.Namespace) -> int:
    """Check every file; one bad one does not hide the next."""
    code = EXIT_FINISHED
    for path in options.files:
        try:
            run = parse_run(load_document(path))
        except InvalidRun as error:
            code = _complain("\n".join(_name_fault(path, fault, options.files) for fault in error.faults), EXIT_INVALID)
        else:
            _say(f"{path}: RLRun {run.name} is valid\n")
    return code


def _name_fault(path: Path, fault: Fault, files: Sequence[Path]) -> str:
    """Return the fault in one line; of several files it says which, unless it does already."""
    return f"{fault}" if len(files) == 1 or fault.path.startswith(str(path)) else f"{path}: {fault}"


def _run(options: argparse.Namespace, machinery: CliDeps) -> int:
    run = parse_run(load_document(options.file))
    text = options.file.read_text(encoding="utf-8")
    folder = RunFolder(options.folder or Path("runs") / run.name)

    from scalerl_operator.cli.progress_display import open_display
    from scalerl_operator.local.coordinator_process import COORDINATOR_COMMAND
    from scalerl_operator.local.driver import DriverDeps, FolderInUse, drive, prepare_folder
    from scalerl_operator.local.signals import Interrupts

    with records.lock_folder(folder) as lock, Interrupts().listening() as interrupts:
        try:
            prepare_folder(folder, run, text, resume=options.resume)
        except FolderInUse as error:
            raise UsageError(str(error)) from error
        if options.resume and folder.status.exists():
            run = run.model_copy(update={"status": records.load_run(folder).status})
        command = machinery.coordinator or COORDINATOR_COMMAND
        deps = DriverDeps(
            interrupts,
            command=command,
            limits=machinery.limits,
            poll_seconds=machinery.poll_seconds,
            inherit=(lock,),
        )
        with open_display(sys.stdout, os.environ, quiet=options.quiet) as display:
            done = drive(run, folder, display, deps)
        _close(folder, done.outcome, done.message)
        if done.outcome == "Interrupted":
            return EXIT_INTERRUPTED if interrupts.last_signal == signal.SIGINT else EXIT_RETRY
        return _EXIT_CODES[done.outcome]


def _close(folder: RunFolder, outcome: str, message: str) -> None:
    """Say how the run ended, write the half-way comparison and the report."""
    from scalerl_operator.decide.halfway import compare_halfway
    from scalerl_operator.render.text import format_rows, summary_rows

    run, evals = records.load_run(folder), records.load_evals(folder)
    found = compare_halfway(records.load_forecasts(folder), evals)
    halfway = found.summary if found is not None else None
    if halfway is not None:
        save_text(folder.halfway, halfway.model_dump_json(by_alias=True, indent=2) + "\n")
    rows = summary_rows(run, outcome, halfway, evals)
    if evals:
        from scalerl_operator.cli.report import write_report

        rows.append(("report", str(write_report(folder))))
    _say("\n" + format_rows(rows))
    if outcome not in ("Finished", "StoppedByPolicy", "Suspended"):
        tail = [] if outcome == "Interrupted" else records.load_log_tail(folder, num_lines=15)
        text = "".join(f"  | {line}\n" for line in tail)
        sys.stderr.write(f"{text}scalerl: {outcome}: {message}\nscalerl: the runtime's output is in {folder.log}\n")


def _somewhere(options: argparse.Namespace) -> int:
    """Do a command about runs where they are: on this machine or on a cluster."""
    place = choose_location(options)
    if place != "cluster":
        try:
            folders = _find_folders(options.runs or Path("runs"), options.target)
        except UsageError as error:
            if place == "machine":
                raise
            return _on_the_cluster(options, error)
        commands = {"status": _status, "report": _report, "logs": _logs}
        return commands[options.command](options, folders)
    return _on_the_cluster(options, None)


def _on_the_cluster(options: argparse.Namespace, missing: UsageError | None) -> int:
    """Do it on a cluster; where that was the second choice, an error says what was looked for first."""
    from scalerl_operator.cli.cluster_commands import run_command

    try:
        return run_command(options)
    except CommandError as error:
        if missing is None:
            raise
        raise CommandError(f"{missing}; and on a cluster: {error}", error.code) from error


def _status(options: argparse.Namespace, folders: Sequence[RunFolder]) -> int:
    if options.watch:
        raise UsageError("--watch is about a cluster's run: `scalerl run` shows its own")
    if options.output == "yaml":
        for folder in folders:
            text = folder.status.read_text(encoding="utf-8")
            _say(text if len(folders) == 1 else f"---\n{text}")
        return EXIT_FINISHED
    if options.target is not None:
        _say(_describe(folders[0]))
        return EXIT_FINISHED

    from scalerl_operator.render.status_row import HEADER, status_row
    from scalerl_operator.render.text import format_table

    now = datetime.now(UTC)
    rows = []
    for folder in folders:
        attempts = records.load_attempts(folder)
        began = attempts[0].started if attempts else None
        rows.append(status_row(_load_shown(folder), records.is_driven(folder), began, now))
    where = options.runs or Path("runs")
    _say(format_table(HEADER, rows) if rows else f"no runs in {where}; a cluster's: scalerl status -n NAMESPACE\n")
    return EXIT_FINISHED


def _describe(folder: RunFolder) -> str:
    """Return everything about one run of this machine."""
    from scalerl_operator.render.describe import Overview, build_overview
    from scalerl_operator.render.status_row import shown_state

    run, attempts = _load_shown(folder), records.load_attempts(folder)
    view = Overview(
        run=run,
        place=f"in {folder.path}",
        now=datetime.now(UTC),
        began=attempts[0].started if attempts else None,
        state=shown_state(run.status, records.is_driven(folder)),
        attempts=attempts,
    )
    return build_overview(view)


def _load_shown(folder: RunFolder) -> RLRun:
    try:
        return records.load_run(folder)
    except InvalidRun as error:
        raise UsageError(f"{folder.path} is not a run's folder: {error}") from error


def _find_folders(runs: Path, target: str | None) -> list[RunFolder]:
    """Return the folders of runs that `target` names: a folder, a name below `runs`, or all of them."""
    if target is None:
        return [RunFolder(path.parent) for path in sorted(runs.glob("*/status.yaml"))]
    for path in (runs / target, Path(target)):
        if (path / "status.yaml").exists():
            return [RunFolder(path)]
    raise UsageError(f"no run {target!r} on this machine: neither {runs / target} nor {target} holds a status.yaml")


def _report(options: argparse.Namespace, folders: Sequence[RunFolder]) -> int:
    from scalerl_operator.cli.report import write_report

    if not records.load_evals(folders[0]):
        raise UsageError(f"{folders[0].path} holds no evaluation yet")
    _say(f"{write_report(folders[0], options.folder)}\n")
    return EXIT_FINISHED


def _logs(options: argparse.Namespace, folders: Sequence[RunFolder]) -> int:
    given = {"--role": options.role, "--index": options.index, "--previous": options.previous or None}
    given["--timestamps"] = options.timestamps or None
    wrong = [name for name, value in given.items() if value is not None]
    if wrong:
        raise UsageError(f"{', '.join(wrong)}: about pods; a run of this machine has one log, {folders[0].log}")
    if not folders[0].log.exists():
        raise UsageError(f"{folders[0].path} has no log yet")
    try:
        for text in records.read_log(folders[0], tail=options.tail, follow=options.follow):
            _say(text)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_FINISHED


def _fit(options: argparse.Namespace) -> int:
    from scalerl_operator.cli.fit_compare import run_fit

    return _say_of_curves(run_fit, options)


def _compare(options: argparse.Namespace) -> int:
    from scalerl_operator.cli.fit_compare import run_compare

    return _say_of_curves(run_compare, options)


def _plan(options: argparse.Namespace) -> int:
    from scalerl_operator.cli.plan import run_plan

    return _say_of_curves(run_plan, options)


def _say_of_curves(command: Callable[[argparse.Namespace], str], options: argparse.Namespace) -> int:
    from scalerl_operator.forecast import FitError

    try:
        _say(command(options))
    except FitError as error:
        raise UsageError(str(error)) from error
    return EXIT_FINISHED


def _operator(options: argparse.Namespace) -> int:
    from scalerl_operator.controller.manager import main

    return main(options)


RunLocation = Literal["cluster", "machine", "either"]


def choose_location(options: argparse.Namespace) -> RunLocation:
    """Return where `options` ask to look. Raises UsageError for those that exclude each other.

    `either`: on this machine if it has such a run, else on the cluster that kubectl would use.
    """
    all_namespaces = getattr(options, "all_namespaces", False)
    named = options.namespace is not None or options.context is not None or all_namespaces
    if named and options.runs is not None:
        raise UsageError("--runs is about this machine, -n, -A and --context are about a cluster: choose one")
    if all_namespaces and (options.namespace is not None or options.target is not None):
        raise UsageError("-A is about all runs of all namespaces: no name and no -n with it")
    if named:
        return "cluster"
    return "machine" if options.runs is not None or options.target is None else "either"
