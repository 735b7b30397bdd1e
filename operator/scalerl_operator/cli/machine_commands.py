"""`scalerl status`, `report`, `rollouts`, `logs` of a run on this machine: reads its folder. I/O."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from scalerl_api import InvalidRun, RLRun
from scalerl_api.rollouts import ROLLOUTS
from scalerl_operator.cli.exit_codes import EXIT_FINISHED, EXIT_INTERRUPTED, UsageError
from scalerl_operator.cli.options import LogsOptions, ReportOptions, RolloutsOptions, RunQueryOptions, StatusOptions
from scalerl_operator.cli.output import write_out
from scalerl_operator.local import run_folder as records
from scalerl_operator.local.run_folder import RunFolder


def run_command(options: RunQueryOptions, folders: Sequence[RunFolder]) -> int:
    """Run the command on `folders`, of which all but status read the first; return the exit code."""
    match options:
        case StatusOptions():
            return _status(options, folders)
        case ReportOptions():
            return _report(options, folders[0])
        case RolloutsOptions():
            return _rollouts(options, folders[0])
        case LogsOptions():
            return _logs(options, folders[0])


def find_folders(runs: Path, target: str | None) -> list[RunFolder]:
    """Return the folders of the runs: all below `runs`, or the one that `target` names or is."""
    if target is None:
        return [RunFolder(path.parent) for path in sorted(runs.glob("*/status.yaml"))]
    for path in (runs / target, Path(target)):
        if (path / "status.yaml").exists() or (path / ROLLOUTS).is_dir():  # of a cluster's run, only its files
            return [RunFolder(path)]
    raise UsageError(f"no run {target!r} on this machine: neither {runs / target} nor {target} holds a status.yaml")


def _status(options: StatusOptions, folders: Sequence[RunFolder]) -> int:
    if options.watch:
        raise UsageError("--watch is for runs on a cluster; `scalerl run` shows its own progress")
    if options.output == "yaml":
        for folder in folders:
            text = folder.status.read_text(encoding="utf-8")
            write_out(text if len(folders) == 1 else f"---\n{text}")
        return EXIT_FINISHED
    if options.target is not None:
        write_out(_describe(folders[0]))
        return EXIT_FINISHED

    from scalerl_operator.render.status_row import HEADER, status_row
    from scalerl_operator.render.text import format_table

    now = datetime.now(UTC)
    rows = []
    for folder in folders:
        attempts = records.load_attempts(folder)
        started = attempts[0].started if attempts else None
        rows.append(status_row(_load_shown(folder), records.is_driven(folder), started, now))
    runs = options.runs or Path("runs")
    write_out(
        format_table(HEADER, rows) if rows else f"no runs in {runs}; for a cluster: scalerl status -n NAMESPACE\n"
    )
    return EXIT_FINISHED


def _describe(folder: RunFolder) -> str:
    """Return all details of one run on this machine."""
    from scalerl_operator.render.describe import Overview, build_overview
    from scalerl_operator.render.status_row import shown_state

    run, attempts = _load_shown(folder), records.load_attempts(folder)
    view = Overview(
        run=run,
        location=f"in {folder.path}",
        now=datetime.now(UTC),
        started=attempts[0].started if attempts else None,
        state=shown_state(run.status, records.is_driven(folder)),
        attempts=attempts,
        evals=records.load_evals(folder),
    )
    return build_overview(view)


def _load_shown(folder: RunFolder) -> RLRun:
    try:
        return records.load_run(folder)
    except InvalidRun as error:
        raise UsageError(f"{folder.path} is no folder of a run: {error}") from error


def _report(options: ReportOptions, folder: RunFolder) -> int:
    from scalerl_operator.cli.report import write_report

    if not records.load_evals(folder):
        raise UsageError(f"{folder.path} has no evaluation yet")
    write_out(f"{write_report(folder, options.folder)}\n")
    return EXIT_FINISHED


def _rollouts(options: RolloutsOptions, folder: RunFolder) -> int:
    from scalerl_operator.cli.rollouts import command
    from scalerl_operator.local.rollout_files import find_file, list_names

    files = command.find_files(list_names(folder.path), options, str(folder.path))
    stored = command.StoredRollouts(folder.path.name, files, lambda name: find_file(folder.path, name))
    return command.show(stored, options)


def _logs(options: LogsOptions, folder: RunFolder) -> int:
    pod_options = {"--role": options.role, "--index": options.index, "--previous": options.previous or None}
    pod_options["--timestamps"] = options.timestamps or None
    given = [name for name, value in pod_options.items() if value is not None]
    if given:
        raise UsageError(f"{', '.join(given)}: for pods only; a run on this machine has one log, {folder.log}")
    if not folder.log.exists():
        raise UsageError(f"{folder.path} has no log yet")
    try:
        for text in records.read_log(folder, tail=options.tail, follow=options.follow):
            write_out(text)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_FINISHED
