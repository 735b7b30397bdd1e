"""Keeps a run's `model-final` and `model-best` equal to its checkpoints and evaluations. I/O.

Both are made from a checkpoint, in a thread beside the loop, so the trainer is not involved. The thread has the usual
priority: one that waits for a core while it holds the interpreter's lock would stop the coordinator.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from scalerl_api.evaluations import find_best
from scalerl_api.wire import BEST_MODEL, FINAL_MODEL, EvalPoint
from scalerl_runtime.deadlines import DeadlineExceeded, within
from scalerl_runtime.export.checkpoint_weights import ExportError
from scalerl_runtime.export.convert import (
    ExportOptions,
    ExportStopped,
    describe_best,
    export_checkpoint,
    read_exported,
    read_identity,
)
from scalerl_runtime.export.model_target import FolderTarget, restore
from scalerl_runtime.storage.checkpoint import CheckpointStore

log = logging.getLogger(__name__)

FAULTS = (ExportError, OSError, RuntimeError, ValueError, KeyError)


class ModelExports:
    """The two model folders of a run. Level-triggered: whatever a killed attempt left undone is done by the next."""

    def __init__(self, folder: Path, store: CheckpointStore, evals: Callable[[], Sequence[EvalPoint]]):
        """`evals` returns every evaluation so far. From now on `store` keeps the checkpoints that are still needed."""
        self.final, self.best = folder / FINAL_MODEL, folder / BEST_MODEL
        self._store = store
        self._evals = evals
        self._changed = asyncio.Event()
        self._one_best = asyncio.Lock()  # `finish` waits for the conversion that `follow` has begun
        self._converting: list[int] = []
        self._failed: set[tuple[int, int]] = set()  # (step, attempt) of evaluations whose weights were not exported
        for each in (self.final, self.best):
            restore(each)
        store.keep_also(self.needed_steps)

    def notice_eval(self) -> None:
        """An evaluation was recorded."""
        self._changed.set()

    def needed_steps(self) -> frozenset[int]:
        """Steps whose checkpoints must stay: the best one until it is a model, and one that is being converted."""
        best = self._missing_best(frozenset())
        return frozenset(self._converting) | ({best.step} if best is not None else frozenset())

    async def follow(self) -> None:
        """Make `model-best` of every better evaluation, until cancelled. A failure is logged and does not end it."""
        while True:
            self._changed.clear()
            await self.update_best()
            await self._changed.wait()

    async def update_best(self) -> str:
        """Make `model-best` of the best evaluation whose weights can be read; return what failed, or an empty text."""
        async with self._one_best:
            return await self._update_best()

    async def _update_best(self) -> str:
        fault = ""
        while (best := self._missing_best(self._failed)) is not None:
            options = ExportOptions(
                why=describe_best(best),
                evals=self._evals(),
                evaluated_by=best.attempt,
                verify=True,
            )
            try:
                await self._convert(self._store.path(best.step), self.best, options)
            except FAULTS as error:
                self._failed.add((best.step, best.attempt))
                fault = f"{BEST_MODEL} of step {best.step} was not written: {error}"
                log.error("%s", fault)
        return fault

    def _missing_best(self, failed: frozenset[tuple[int, int]] | set[tuple[int, int]]) -> EvalPoint | None:
        """Return the best evaluation if `model-best` is not of its weights and their checkpoint exists."""
        best = find_best(point for point in self._evals() if (point.step, point.attempt) not in failed)
        if best is None or not (self._store.path(best.step)).is_dir():
            return None
        made = read_exported(self.best)
        return None if made is not None and (made.step, made.attempt) == (best.step, best.attempt) else best

    async def update_final(self) -> str:
        """Make `model-final` of the newest checkpoint; return what failed, or an empty text."""
        steps = self._store.steps()
        if not steps:
            return ""
        checkpoint = self._store.path(steps[-1])
        try:
            made = read_exported(self.final)
            if made is None or made.digest != read_identity(checkpoint, verify=False)[0]:
                options = ExportOptions(why="the newest at the run's end", evals=self._evals())
                await self._convert(checkpoint, self.final, options)
        except FAULTS as error:
            fault = f"{FINAL_MODEL} of step {steps[-1]} was not written: {error}"
            log.error("%s", fault)
            return fault
        return ""

    async def finish(self, seconds: float) -> str:
        """Bring both up to date within `seconds`; return what failed, or an empty text. The checkpoints stay."""
        self._failed.clear()

        async def both() -> str:
            return "; ".join(each for each in (await self.update_final(), await self.update_best()) if each)

        try:
            return await within(seconds, "exporting the models", both())
        except DeadlineExceeded as error:
            log.error("%s", error)
            return str(error)

    async def _convert(self, checkpoint: Path, folder: Path, options: ExportOptions) -> None:
        stopping = threading.Event()
        watched = replace(options, is_stopping=stopping.is_set)
        step = int(checkpoint.name.rpartition("-")[2])
        self._converting.append(step)
        try:
            await asyncio.to_thread(_write, checkpoint, folder, watched)
        finally:
            stopping.set()  # also when the wait was cancelled: the thread ends at the next tensor
            self._converting.remove(step)


def _write(checkpoint: Path, folder: Path, options: ExportOptions) -> None:
    target = FolderTarget(folder)
    try:
        step = export_checkpoint(checkpoint, target, options)
    except ExportStopped:
        log.warning("the export of %s to %s was stopped", checkpoint.name, folder.name)
    else:
        log.info("%s is of step %d", folder.name, step)
    finally:
        target.discard()
