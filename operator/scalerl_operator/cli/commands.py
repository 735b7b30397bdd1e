"""Runs the command that the options name, and turns errors into messages and exit codes. I/O."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

from scalerl_api import Fault, InvalidRun, RLRun, parse_run
from scalerl_api.addresses import to_plain_path
from scalerl_api.evaluations import count_eval_prompts, measure_eval_load
from scalerl_api.wire import BEST_MODEL, FINAL_MODEL, RunVerdict
from scalerl_operator.cli.exit_codes import (
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_INTERRUPTED,
    EXIT_INVALID,
    EXIT_RETRY,
    CommandError,
    UsageError,
)
from scalerl_operator.cli.options import (
    CompareOptions,
    CompletionOptions,
    ExportCommandOptions,
    FitOptions,
    LogsOptions,
    LookupOptions,
    Options,
    PlanOptions,
    PreflightOptions,
    ReportOptions,
    RolloutsOptions,
    RunOptions,
    RunQueryOptions,
    StatusOptions,
    ValidateOptions,
)
from scalerl_operator.cli.output import write_error, write_out
from scalerl_operator.controller.options import OperatorOptions
from scalerl_operator.decide.lifecycle import Limits
from scalerl_operator.local import run_folder as records
from scalerl_operator.local.durable_files import save_text
from scalerl_operator.local.run_folder import FolderBusy, RunFolder
from scalerl_operator.local.run_verdicts import CheckScope, fetch_verdicts, run_preflight
from scalerl_operator.local.writable_folder import make_writable
from scalerl_operator.local.yaml_document import load_document
from scalerl_operator.render.source_data import describe_source_data
from scalerl_operator.run.conditions import COMPLETE

_EXIT_CODES = {
    "Finished": EXIT_FINISHED,
    "AllPromptsSolved": EXIT_FINISHED,
    "StoppedByPolicy": EXIT_FINISHED,
    "Suspended": EXIT_FINISHED,
    "InvalidSpec": EXIT_INVALID,
    "RetriesExhausted": EXIT_RETRY,
    "RestartsExhausted": EXIT_FAILED,
    "DeadlineExceeded": EXIT_FAILED,
    "FailedByRule": EXIT_FAILED,
    "StoppedByWatchdog": EXIT_FAILED,
}


RunLocation = Literal["cluster", "machine", "either"]


@dataclass(frozen=True)
class CliDeps:
    """Dependencies of `scalerl run` and `validate`; tests pass their own."""

    coordinator: Sequence[str] | None = None
    """Command that starts a coordinator; None: the runtime's own."""
    poll_seconds: float = 1.0
    limits: Limits = Limits()
    fetch_verdicts: Callable[[Sequence[Path], CheckScope], list[RunVerdict]] = fetch_verdicts
    """Verdicts on models and data of valid files, for `scalerl validate`."""


def run_command(options: Options, deps: CliDeps | None) -> int:
    """Run the command, print its errors, return the exit code."""
    try:
        return _dispatch(options, deps or CliDeps())
    except InvalidRun as error:
        return _fail(str(error), EXIT_INVALID)
    except FolderBusy as error:
        return _fail(f"scalerl: {error}", EXIT_RETRY)
    except CommandError as error:
        return _fail(f"scalerl: {error}", error.code)
    except BrokenPipeError:  # `scalerl status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:  # a disk that is full, a folder that is gone
        if error.filename is None:
            raise
        return _fail(f"scalerl: {error.filename}: {error.strerror}", EXIT_RETRY)


def _dispatch(options: Options, deps: CliDeps) -> int:
    match options:
        case RunOptions():
            return _run(options, deps)
        case ValidateOptions() | PreflightOptions():
            return _validate(options, deps) if isinstance(options, ValidateOptions) else _preflight()
        case StatusOptions() | ReportOptions() | RolloutsOptions() | LogsOptions():
            return _look_up(options)
        case ExportCommandOptions():
            from scalerl_operator.cli.export.command import run_export

            return run_export(options)
        case FitOptions() | CompareOptions() | PlanOptions():
            return _read_curves(options)
        case OperatorOptions():
            from scalerl_operator.controller.manager import main

            return main(options)
        case CompletionOptions():
            return _print_completion(options)
        case _:
            assert_never(options)


def _fail(text: str, code: int) -> int:
    write_error(text)
    return code


def _validate(options: ValidateOptions, deps: CliDeps) -> int:
    """Check every file, also after a faulty one; then the models of the valid ones, in one process."""
    code, valid = EXIT_FINISHED, []
    for path in options.files:
        try:
            valid.append((path, parse_run(load_document(path))))
        except InvalidRun as error:
            code = _report_faults(path, error.faults, options.files)
    from scalerl_operator.cli.capacity.validate_fit import make_check

    check_fit = make_check(options)
    scope = CheckScope(not options.no_self_test, options.run_user_code, options.ask_judges)
    for (path, run), verdict in zip(valid, deps.fetch_verdicts([path for path, _ in valid], scope), strict=True):
        faults = [Fault(each.path, each.value, each.allowed) for each in verdict.faults]
        fit = check_fit(run)
        if faults or fit.faults:
            code = _report_faults(path, [*faults, *fit.faults], options.files)
            continue
        write_out(f"{path}: RLRun {run.name} is valid\n")
        if verdict.unchecked:
            write_out(f"{path}: its model was not checked: {verdict.unchecked}\n")
        late = measure_eval_load(run.spec, count_eval_prompts(verdict.sources)).warning
        if late:
            write_out(f"{path}: spec.budget: {late}\n")
        for line in (*fit.lines, *map(describe_source_data, verdict.sources), *verdict.untested):
            write_out(f"{path}: {line}\n")
    return code


def _preflight() -> int:
    code = run_preflight()
    if code is None:
        raise CommandError("the runtime is not installed here: run `scalerl preflight` where runs train", EXIT_RETRY)
    return code


def _report_faults(path: Path, faults: Sequence[Fault], files: Sequence[Path]) -> int:
    return _fail("\n".join(_name_fault(path, fault, files) for fault in faults), EXIT_INVALID)


def _name_fault(path: Path, fault: Fault, files: Sequence[Path]) -> str:
    """Return the fault in one line; with several files, the line starts with the file's path."""
    return f"{fault}" if len(files) == 1 or fault.path.startswith(str(path)) else f"{path}: {fault}"


def _run(options: RunOptions, deps: CliDeps) -> int:
    if options.accept_new_data and not options.resume:
        raise UsageError("--accept-new-data needs --resume: a new run has no checkpoint to compare with")
    run = parse_run(load_document(options.file))
    text = options.file.read_text(encoding="utf-8")
    folder = RunFolder(options.folder or Path("runs") / run.name)

    from scalerl_operator.cli.progress_display import open_display
    from scalerl_operator.local.coordinator_process import COORDINATOR_COMMAND
    from scalerl_operator.local.driver import DriverDeps, FolderInUse, drive, prepare_folder
    from scalerl_operator.local.signals import Interrupts

    _check_folders(folder, run)
    with records.lock_folder(folder) as lock, Interrupts().listening() as interrupts:
        try:
            prepare_folder(folder, run, text, resume=options.resume)
        except FolderInUse as error:
            raise UsageError(str(error)) from error
        if options.resume and folder.status.exists():
            run = run.model_copy(update={"status": records.load_run(folder).status})
        command = deps.coordinator or COORDINATOR_COMMAND
        driver_deps = DriverDeps(
            interrupts,
            command=command,
            limits=deps.limits,
            poll_seconds=deps.poll_seconds,
            inherit=(lock,),
            accept_new_data=options.accept_new_data,
        )
        with open_display(sys.stdout, os.environ, quiet=options.quiet) as display:
            done = drive(run, folder, display, driver_deps)
        _close(folder, done.outcome, done.message)
        if done.outcome == "Interrupted":
            return EXIT_INTERRUPTED if interrupts.last_signal == signal.SIGINT else EXIT_RETRY
        return _EXIT_CODES[done.outcome]


def _check_folders(folder: RunFolder, run: RLRun) -> None:
    """Raise UsageError or InvalidRun unless the run can write where the user says, before any process is started."""
    obstacle = make_writable(folder.path)
    if obstacle is not None:
        raise UsageError(f"--folder cannot be written: {obstacle}")
    path = run.spec.checkpoint.path
    obstacle = make_writable(Path(to_plain_path(path))) if path is not None else None
    if obstacle is not None:
        raise InvalidRun([Fault("spec.checkpoint.path", str(path), f"a folder that can be written ({obstacle})")])


def _close(folder: RunFolder, outcome: str, message: str) -> None:
    """Write the half-way comparison and the report; print the summary."""
    from scalerl_operator.decide.halfway import compare_halfway
    from scalerl_operator.render.text import format_rows, summary_rows

    run, evals = records.load_run(folder), records.load_evals(folder)
    comparison = compare_halfway(records.load_forecasts(folder), evals)
    halfway = comparison.summary if comparison is not None else None
    if halfway is not None:
        save_text(folder.halfway, halfway.model_dump_json(by_alias=True, indent=2) + "\n")
    rows = summary_rows(run, outcome, halfway, evals)
    if evals:
        from scalerl_operator.cli.report import write_report

        rows.append(("report", str(write_report(folder))))
    rows += _name_models(folder, run)
    write_out("\n" + format_rows(rows))
    if outcome not in (*COMPLETE, "Suspended"):
        tail = [] if outcome == "Interrupted" else records.load_log_tail(folder, num_lines=15)
        text = "".join(f"  | {line}\n" for line in tail)
        sys.stderr.write(f"{text}scalerl: {outcome}: {message}\nscalerl: the runtime's output is in {folder.log}\n")


def _name_models(folder: RunFolder, run: RLRun) -> list[tuple[str, str]]:
    """Complete the cards of the exported models; return (label, text) of each, and of what was not written."""
    from scalerl_operator.export.machine import find_picture
    from scalerl_operator.export.model_card import complete_card

    rows = []
    for label, name in (("model", FINAL_MODEL), ("best model", BEST_MODEL)):
        path = folder.path / name
        if path.is_dir():
            complete_card(path, run, find_picture(folder.path))
            rows.append((label, str(path)))
    attempts = records.load_attempts(folder)
    if attempts and attempts[-1].said in ("Finished", "Stopped") and attempts[-1].error:
        rows.append(("not written", f"{attempts[-1].error}; the checkpoint is saved: `scalerl export {folder.path}`"))
    return rows


def _look_up(options: RunQueryOptions) -> int:
    """Run a command about existing runs, on this machine or on a cluster."""
    from scalerl_operator.cli import machine_commands

    location = choose_location(options)
    if location == "cluster":
        return _look_up_on_cluster(options, None)
    try:
        folders = machine_commands.find_folders(options.runs or Path("runs"), options.target)
    except UsageError as error:
        if location == "machine":
            raise
        return _look_up_on_cluster(options, error)
    return machine_commands.run_command(options, folders)


def _look_up_on_cluster(options: RunQueryOptions, missing: UsageError | None) -> int:
    """Run it on a cluster; an error starts with `missing`, the reason why this machine was not used."""
    from scalerl_operator.cli import cluster_commands

    try:
        return cluster_commands.run_command(options)
    except CommandError as error:
        if missing is None:
            raise
        raise CommandError(f"{missing}; and on a cluster: {error}", error.code) from error


def _read_curves(options: FitOptions | CompareOptions | PlanOptions) -> int:
    from scalerl_operator.cli.capacity.plan_command import are_runs, plan_runs
    from scalerl_operator.cli.fit_compare import run_compare, run_fit
    from scalerl_operator.cli.plan import run_plan
    from scalerl_operator.forecast import FitError

    try:
        match options:
            case FitOptions():
                write_out(run_fit(options))
            case CompareOptions():
                write_out(run_compare(options))
            case PlanOptions():
                write_out(plan_runs(options) if are_runs(options) else run_plan(options))
    except FitError as error:
        raise UsageError(str(error)) from error
    return EXIT_FINISHED


def _print_completion(options: CompletionOptions) -> int:
    from click.shell_completion import get_completion_class

    from scalerl_operator.cli.parser import COMPLETION_VARIABLE, PROGRAM, build_program

    shell = get_completion_class(options.shell)
    assert shell is not None, "the parser has checked it"
    write_out(shell(build_program(), {}, PROGRAM, COMPLETION_VARIABLE).source())
    return EXIT_FINISHED


def choose_location(options: LookupOptions) -> RunLocation:
    """Return where to look up runs. Raises UsageError for options that exclude each other.

    `either`: this machine if it has the run, otherwise the cluster that kubectl would use.
    """
    named = options.namespace is not None or options.context is not None or options.all_namespaces
    if named and options.runs is not None:
        raise UsageError("--runs selects this machine; -n, -A and --context select a cluster: choose one")
    if options.all_namespaces and (options.namespace is not None or options.target is not None):
        raise UsageError("-A selects all runs of all namespaces; no name and no -n may be given with it")
    if named:
        return "cluster"
    return "machine" if options.runs is not None or options.target is None else "either"
