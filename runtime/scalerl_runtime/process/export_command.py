"""`python -m scalerl_runtime export`: a checkpoint as a Hugging Face folder, a tar stream or a hub repository. I/O."""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import yaml

from scalerl_api.evaluations import find_best, merge_evals
from scalerl_api.wire import (
    BEST_MODEL,
    CHECKPOINTS,
    ENV_SPEC,
    EVALS_FILE,
    EXIT_EXPORT_REFUSED,
    EXIT_FINISHED,
    EXIT_RETRY,
    EXPORT_HUB,
    EXPORT_STREAM,
    EvalPoint,
)
from scalerl_runtime.export.checkpoint_weights import ExportError
from scalerl_runtime.export.convert import ExportOptions, describe_best, export_checkpoint, read_exported
from scalerl_runtime.export.hub import HubError, HubUnavailable, upload_folder
from scalerl_runtime.export.model_target import FolderTarget, ModelTarget, TarTarget, copy_exported, link_exported
from scalerl_runtime.storage.checkpoint import MANIFEST, CheckpointStore
from scalerl_runtime.storage.journal import Journal


@dataclass(frozen=True)
class ExportSource:
    """The folder to export: a checkpoint, or a model folder that was made of one."""

    path: Path
    is_model: bool
    why: str
    evals: Sequence[EvalPoint]
    evaluated_by: int | None = None


@dataclass(frozen=True)
class ExportChoice:
    """Which checkpoint of a run: the newest unless a step, or the best evaluation's, is chosen."""

    step: int | None = None
    best: bool = False


def run_export(arguments: argparse.Namespace, variables: Mapping[str, str], stdout: BinaryIO) -> int:
    """Export; return the exit code: EXIT_EXPORT_REFUSED for what a repetition will not mend. Messages go to stderr."""
    try:
        source = find_source(arguments.source, ExportChoice(arguments.step, arguments.best), variables)
        if source.is_model and arguments.merged:
            raise ExportError(f"{source.path} is an exported model; --merged needs a checkpoint, chosen by --step")
        _notify(f"exporting {source.path} ({source.why})")
        if arguments.to == EXPORT_STREAM:
            _write(source, TarTarget(stdout), arguments.forecast, merged=arguments.merged)
        elif arguments.to.startswith(EXPORT_HUB):
            _upload(source, arguments, variables)
        else:
            target = open_folder(Path(arguments.to))
            try:
                _write(source, target, arguments.forecast, merged=arguments.merged)
            finally:
                target.discard()
    except (ExportError, HubError) as error:
        _notify(str(error))
        return EXIT_EXPORT_REFUSED
    except (HubUnavailable, OSError) as error:
        _notify(f"{type(error).__name__}: {error}" if isinstance(error, OSError) else str(error))
        return EXIT_RETRY
    return EXIT_FINISHED


def open_folder(folder: Path) -> FolderTarget:
    """Return the target; a folder with other content than an older export is refused. Raises ExportError."""
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"--to {folder} is no folder")
    if folder.is_dir() and any(folder.iterdir()) and read_exported(folder) is None:
        raise ExportError(f"--to {folder} is not empty and holds no earlier export: choose another folder")
    return FolderTarget(folder.absolute())


def find_source(path: Path, choice: ExportChoice, variables: Mapping[str, str]) -> ExportSource:
    """Return what `path` and `choice` name. Raises ExportError that names what is missing."""
    if not path.is_dir():
        raise ExportError(f"{path} is no folder")
    is_chosen = choice.step is not None or choice.best
    if read_exported(path) is not None and not is_chosen:
        return ExportSource(path, is_model=True, why="an exported model", evals=())
    if (path / MANIFEST).is_file() or path.name.startswith("step-"):
        if is_chosen:
            raise ExportError(f"{path} is one checkpoint; --step and --best choose among those of a run's folder")
        return ExportSource(path, is_model=False, why="a chosen checkpoint", evals=_load_evals(path.parent.parent))
    return _find_in_run(path, choice, variables)


def _find_in_run(run: Path, choice: ExportChoice, variables: Mapping[str, str]) -> ExportSource:
    evals = _load_evals(run)
    store = CheckpointStore(_checkpoints(run, variables), keep=2)
    steps = store.steps()
    if choice.best:
        return _find_best(run, store, evals)
    step = choice.step if choice.step is not None else steps[-1] if steps else None
    if step is None:
        raise ExportError(f"{run} has no checkpoint in {store.folder}")
    if step not in steps:
        raise ExportError(f"{store.folder} has no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
    why = "a chosen step" if choice.step is not None else "the newest checkpoint"
    return ExportSource(store.path(step), is_model=False, why=why, evals=evals)


def _find_best(run: Path, store: CheckpointStore, evals: Sequence[EvalPoint]) -> ExportSource:
    best = find_best(evals)
    if best is None:
        raise ExportError(f"{run} has no evaluation, so no best one")
    made = read_exported(run / BEST_MODEL)
    why = describe_best(best)
    if made is not None and (made.step, made.attempt) == (best.step, best.attempt):
        return ExportSource(run / BEST_MODEL, is_model=True, why=why, evals=evals)
    if best.step not in store.steps():
        raise ExportError(f"step {best.step} has the best pass rate, and its checkpoint is gone from {store.folder}")
    return ExportSource(store.path(best.step), False, why, evals, evaluated_by=best.attempt)


def _checkpoints(run: Path, variables: Mapping[str, str]) -> Path:
    """The run's checkpoint folder: what its spec says, else the one in its own folder."""
    for spec in (run / "run.yaml", Path(variables.get(ENV_SPEC, ""))):
        if spec.is_file():
            document = yaml.safe_load(spec.read_text())
            path = document.get("spec", {}).get("checkpoint", {}).get("path") if isinstance(document, dict) else None
            return Path(path) if path else run / CHECKPOINTS
    return run / CHECKPOINTS


def _load_evals(run: Path) -> tuple[EvalPoint, ...]:
    return merge_evals(EvalPoint.model_validate(line) for line in Journal(run / EVALS_FILE).read())


def _write(source: ExportSource, target: ModelTarget, forecast: str, *, merged: bool = False) -> None:
    if source.is_model:
        copy_exported(source.path, target, forecast)
        return
    options = ExportOptions(
        why=source.why,
        evals=source.evals,
        evaluated_by=source.evaluated_by,
        forecast=forecast,
        merged=merged,
        verify=True,
        notify=_notify,
    )
    export_checkpoint(source.path, target, options)


def _upload(source: ExportSource, arguments: argparse.Namespace, variables: Mapping[str, str]) -> None:
    name, forecast = arguments.to.removeprefix(EXPORT_HUB), arguments.forecast
    folder = Path(tempfile.mkdtemp(prefix="scalerl-export-"))
    try:
        if source.is_model:
            link_exported(source.path, folder / "model", forecast)
        else:
            _write(source, FolderTarget(folder / "model"), forecast, merged=arguments.merged)
        _notify(upload_folder(folder / "model", name, token=variables.get("HF_TOKEN"), notify=_notify))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def claim_stdout() -> BinaryIO:
    """Return the real stdout; whatever a library prints from now on goes to stderr."""
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return stream


def _notify(text: str) -> None:
    sys.stderr.write(f"scalerl export: {text}\n")
    sys.stderr.flush()
