"""`scalerl export`: from this machine's folders, or from a cluster through a short-lived pod. I/O."""

import asyncio
import os
from pathlib import Path

from scalerl_api import InvalidRun, RLRun
from scalerl_api.wire import EXPORT_HUB
from scalerl_operator.cli.cluster_reader import StoredRun, fetch_run, to_command_error
from scalerl_operator.cli.commands import choose_location
from scalerl_operator.cli.exit_codes import (
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_INTERRUPTED,
    EXIT_RETRY,
    CommandError,
    UsageError,
)
from scalerl_operator.cli.options import ExportCommandOptions
from scalerl_operator.cli.output import write_error, write_out
from scalerl_operator.export.machine import ExportChoiceOptions, build_arguments, find_picture, run_runtime
from scalerl_operator.export.model_card import complete_card, describe_for_card
from scalerl_operator.export.model_download import ExportFault, check_target
from scalerl_operator.export.pod_session import PodExport, export_through_pod
from scalerl_operator.kube.client import KubeClient, KubeError
from scalerl_operator.kube.kubeconfig import Access, NoCluster, find_access
from scalerl_operator.local import run_folder as records
from scalerl_operator.local.run_folder import RunFolder


def run_export(options: ExportCommandOptions) -> int:
    """Export what the options name; return the exit code. Raises CommandError."""
    location = choose_location(options)
    source = None if location == "cluster" else find_local(options.runs or Path("runs"), options.target)
    if source is not None:
        return _export_here(options, source)
    if location == "machine":
        raise UsageError(f"no {options.target!r} on this machine: it is neither a folder nor a run in {options.runs}")
    return _export_from_cluster(options)


def find_local(runs: Path, target: str) -> Path | None:
    """Return the folder that `target` is, or the run in `runs` that it names."""
    return next((path for path in (Path(target), runs / target) if path.is_dir()), None)


def _export_here(options: ExportCommandOptions, source: Path) -> int:
    given = {"--hub-token-secret": options.hub_token_secret, "--image": options.image}
    wrong = [name for name, value in given.items() if value is not None]
    if wrong:
        raise UsageError(f"{', '.join(wrong)}: for runs on a cluster only")
    folder, run = _find_run(source)
    forecast = describe_for_card(run, has_picture=False) if run is not None else ""
    choice = ExportChoiceOptions(options.step, options.best, forecast, options.merged)
    code = run_runtime(build_arguments(str(source), options.to, choice))
    if code == EXIT_FINISHED and not options.to.startswith(EXPORT_HUB):
        if run is not None and folder is not None:
            complete_card(Path(options.to), run, find_picture(folder))
        write_out(f"{options.to}\n")
    return code if code in (EXIT_FINISHED, EXIT_RETRY) else EXIT_FAILED


def _find_run(source: Path) -> tuple[Path | None, RLRun | None]:
    """Return the folder and the run that a run's folder, a checkpoint or a model in it belongs to, if it is there."""
    for folder in (source, source.parent, source.parent.parent):
        if (folder / "status.yaml").is_file():
            try:
                return folder, records.load_run(RunFolder(folder))
            except InvalidRun:
                return None, None
    return None, None


def _export_from_cluster(options: ExportCommandOptions) -> int:
    try:
        if not options.to.startswith(EXPORT_HUB):
            check_target(Path(options.to))
        elif options.hub_token_secret is None:
            raise UsageError("--to hub: from a cluster needs --hub-token-secret: a Secret whose key `token` holds it")
        access = find_access(os.environ, context=options.context, namespace=options.namespace)
        return asyncio.run(_through_pod(access, options))
    except NoCluster as error:
        raise UsageError(f"no {options.target!r} on this machine, and no cluster: {error}") from error
    except ExportFault as error:
        raise CommandError(str(error), EXIT_FAILED) from error
    except KubeError as error:
        raise to_command_error(error, access) from error
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


async def _through_pod(access: Access, options: ExportCommandOptions) -> int:
    if options.merged:
        raise UsageError("--merged: for runs on this machine only; export the adapters, and merge them with PEFT")
    kube = KubeClient(access.connection)
    try:
        found: StoredRun = await fetch_run(kube, access, options.target)
        write_error(f"scalerl: {'/'.join(found.key)} on {access.place}")
        forecast = describe_for_card(found.run, has_picture=False)
        wanted = PodExport(
            run=found.run,
            uid=found.observed.uid,
            document=found.document,
            choice=ExportChoiceOptions(options.step, options.best, forecast),
            target=options.to,
            token_secret=options.hub_token_secret,
            image=options.image,
        )
        await export_through_pod(kube, wanted, lambda text: write_error(f"scalerl: {text}"))
    finally:
        await kube.close()
    if not options.to.startswith(EXPORT_HUB):
        complete_card(Path(options.to), found.run, None)
        write_out(f"{options.to}\n")
    return EXIT_FINISHED
