"""`scalerl status`, `report`, `rollouts`, `logs` of runs on a cluster: reads the API server. I/O."""

import asyncio
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import yaml

from scalerl_operator.cli.cluster_reader import (
    fetch_overview,
    fetch_report_data,
    fetch_run,
    fetch_runs,
    to_command_error,
)
from scalerl_operator.cli.exit_codes import EXIT_FAILED, EXIT_FINISHED, EXIT_INTERRUPTED, CommandError, UsageError
from scalerl_operator.cli.log_lines import LogOptions
from scalerl_operator.cli.options import LogsOptions, ReportOptions, RolloutsOptions, RunQueryOptions, StatusOptions
from scalerl_operator.cli.output import write_error, write_out
from scalerl_operator.cli.pod_logs import MAX_FOLLOWED, LogSink, PodSelection, follow_logs, show_logs
from scalerl_operator.cli.rollouts.pod_files import MAX_FETCHED, PodRollouts, find_coordinator
from scalerl_operator.kube.client import AWAY_SECONDS, KubeClient, KubeError
from scalerl_operator.kube.kubeconfig import Access, NoCluster, find_access
from scalerl_operator.render.describe import build_overview
from scalerl_operator.render.status_row import HEADER, status_row
from scalerl_operator.render.text import format_table
from scalerl_operator.run.rollout_selection import choose_evenly
from scalerl_operator.run.state import is_over

WATCH_SECONDS = 3.0
CLEAR = "\x1b[H\x1b[2J"  # clears a terminal


def run_command(options: RunQueryOptions) -> int:
    """Run the command on the cluster that `options` name; return the exit code. Raises CommandError."""
    try:
        access = find_access(os.environ, context=options.context, namespace=options.namespace)
    except NoCluster as error:
        raise UsageError(str(error)) from error
    try:
        return asyncio.run(_run(access, options))
    except KubeError as error:
        raise to_command_error(error, access) from error
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


async def _run(access: Access, options: RunQueryOptions) -> int:
    kube = KubeClient(access.connection, parallel=MAX_FOLLOWED + 8)
    try:
        match options:
            case StatusOptions():
                return await _status(kube, access, options)
            case ReportOptions():
                return await _report(kube, access, options)
            case RolloutsOptions():
                return await _rollouts(kube, access, options)
            case LogsOptions():
                return await _logs(kube, access, options)
    finally:
        await kube.close()


def _notify(text: str) -> None:
    write_error(f"scalerl: {text}")


async def _status(kube: KubeClient, access: Access, options: StatusOptions) -> int:
    if options.target is None:
        return await _list(kube, access, options)
    if options.output == "yaml":
        found = await fetch_run(kube, access, options.target)
        write_out(yaml.safe_dump(found.document, sort_keys=False, allow_unicode=True, width=120))
        return EXIT_FINISHED
    if options.watch:
        return await _watch(kube, access, options.target)
    write_out(build_overview(await fetch_overview(kube, access, options.target, datetime.now(UTC))))
    return EXIT_FINISHED


async def _list(kube: KubeClient, access: Access, options: StatusOptions) -> int:
    """Print the runs of one namespace or of all namespaces, one line each."""
    if options.watch:
        raise UsageError("--watch needs the name of one run")
    runs = await fetch_runs(kube, None if options.all_namespaces else access.namespace)
    if options.output == "yaml":
        documents = [each.document for each in runs]
        write_out(yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True, width=120) if documents else "")
        return EXIT_FINISHED
    where = f"all namespaces of {access.place}" if options.all_namespaces else f"{access.namespace} of {access.place}"
    if not runs:
        write_out(f"no runs in {where}\n")
        return EXIT_FINISHED
    now = datetime.now(UTC)
    rows = [(each.key[0], *status_row(each.run, True, each.created, now)) for each in runs]
    named = options.all_namespaces
    write_out(format_table(("NAMESPACE", *HEADER) if named else HEADER, rows if named else [row[1:] for row in rows]))
    return EXIT_FINISHED


async def _watch(kube: KubeClient, access: Access, name: str) -> int:
    """Show the run until it is over: on a terminal in place, elsewhere again after a change of more than the time."""
    in_place = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    shown, last_answer = None, time.monotonic()
    while True:
        try:
            view = await fetch_overview(kube, access, name, datetime.now(UTC))
        except KubeError as error:
            if not error.is_passing or time.monotonic() - last_answer > AWAY_SECONDS:
                raise
            _notify(f"retry in {WATCH_SECONDS:g} s: {error}")
            await asyncio.sleep(WATCH_SECONDS)
            continue
        last_answer = time.monotonic()
        if in_place:
            write_out(CLEAR + build_overview(view))
        elif (content := (view.run, view.pods, view.events)) != shown:
            write_out(build_overview(view) if shown is None else f"\n---\n{build_overview(view)}")
            shown = content
        if is_over(view.run.status):
            return EXIT_FINISHED
        await asyncio.sleep(WATCH_SECONDS)


async def _report(kube: KubeClient, access: Access, options: ReportOptions) -> int:
    from scalerl_operator.cli.report import write_report_data  # matplotlib

    _notify(f"{access.namespace}/{options.target} on {access.place}")
    data = await fetch_report_data(kube, access, options.target, datetime.now(UTC))
    folder = options.folder or Path("reports") / access.namespace / options.target
    write_out(f"{write_report_data(data, folder)}\n")
    return EXIT_FINISHED


async def _rollouts(kube: KubeClient, access: Access, options: RolloutsOptions) -> int:
    from scalerl_operator.cli.rollouts import command

    found = await fetch_run(kube, access, options.target)
    where = f"{'/'.join(found.key)} on {access.place}"
    _notify(where)
    pod = PodRollouts(kube, await find_coordinator(kube, found, where))
    files = command.find_files(await pod.list_names(), options, where)
    chosen = choose_evenly(files, MAX_FETCHED)
    if len(chosen) < len(files):
        _notify(f"{len(chosen)} of {len(files)} stored steps or evaluations are read, evenly chosen")
    with tempfile.TemporaryDirectory(prefix="scalerl-") as folder:
        paths = {name: await pod.fetch(name, Path(folder)) for name in chosen}
        return command.show(command.StoredRollouts(found.key[1], chosen, paths.__getitem__), options)


async def _logs(kube: KubeClient, access: Access, options: LogsOptions) -> int:
    if options.follow and options.previous:
        raise UsageError("--previous and --follow exclude each other: the log before a restart has ended")
    found = await fetch_run(kube, access, options.target)
    _notify(f"{'/'.join(found.key)} on {access.place}")
    selection = PodSelection(found.key, options.role, options.index)
    log_options = LogOptions(options.follow, options.previous, options.tail, options.timestamps)
    sink = LogSink(lambda line: write_out(f"{line}\n"), _notify)
    if options.follow:
        await follow_logs(kube, selection, log_options, sink)
        return EXIT_FINISHED
    if not await show_logs(kube, selection, log_options, sink):
        where = f"{'/'.join(found.key)} on {access.place}"
        raise CommandError(f"{where} has no such log; the logs of deleted pods are gone", EXIT_FAILED)
    return EXIT_FINISHED
