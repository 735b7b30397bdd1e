"""Saves checkpoints beside training, which waits only for the copy to host memory. I/O.

    begin: every rank copies its share; the coordinator's state of the same step
      └──> in the background: every rank writes its copy ──> the store seals it ──> on_saved

One checkpoint is written at a time. Until it is sealed, the one before is the newest.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

from scalerl_runtime.deadlines import within
from scalerl_runtime.storage.checkpoint import CheckpointError, CheckpointStore, RunState
from scalerl_runtime.storage.trainer_state import RankPart
from scalerl_runtime.types import Group

log = logging.getLogger(__name__)


class SavingFleet(Protocol):
    """The trainer's calls for a checkpoint."""

    async def copy_state(self) -> float:
        """Copy the state of all ranks to host memory; return the seconds."""
        ...

    async def write_copy(self, folder: Path) -> Sequence[RankPart]:
        """Write the copies; training goes on."""
        ...

    async def find_damage(self, folder: Path) -> str | None:
        """Compare the trainer's part of a checkpoint with its manifest; return what differs."""
        ...

    async def load(self, folder: Path, version: int) -> None:
        """Load the trainer's part of a checkpoint."""
        ...


class Saver:
    """Writes checkpoints while the run goes on."""

    def __init__(
        self,
        store: CheckpointStore,
        fleet: SavingFleet,
        seconds: float,
        on_saved: Callable[[int, Path], None],
        before_sealing: Callable[[], Awaitable[None]] | None = None,
    ):
        """Args:
        seconds: deadline of each part: copy, writing, sealing.
        on_saved: called with step and folder of a checkpoint that is sealed.
        before_sealing: what must be stored before the checkpoint is.
        """
        self._store = store
        self._fleet = fleet
        self._seconds = seconds
        self._on_saved = on_saved
        self._before_sealing = before_sealing
        self._step = -1
        self._writing: asyncio.Task[None] | None = None
        self._failed = asyncio.Event()

    async def begin(
        self,
        step: int,
        take: Callable[[], tuple[RunState, list[Group]]],
        *,
        protect: Callable[[], frozenset[int]],
        why: str,
    ) -> None:
        """Copy the state of `step`, and write it in the background. Raises the fault of the checkpoint before.

        Args:
            take: the coordinator's part, called once when the copy is there; the trainer has made no step since.
            protect: steps whose checkpoints must stay, when this one is sealed.
        """
        if self._writing is not None and not self._writing.done():
            log.warning("the checkpoint of step %d waits until that of step %d is written", step, self._step)
        await self.settle()
        unfinished = await asyncio.to_thread(self._store.begin, step)
        await within(self._seconds, f"copying a checkpoint ({why})", self._fleet.copy_state())
        state, buffer = take()
        self._step = step
        self._writing = asyncio.create_task(self._write(unfinished, state, buffer, protect, why))
        self._writing.add_done_callback(self._note_failure)

    async def _write(
        self,
        unfinished: Path,
        state: RunState,
        buffer: Sequence[Group],
        protect: Callable[[], frozenset[int]],
        why: str,
    ) -> None:
        parts = await within(self._seconds, f"writing a checkpoint ({why})", self._fleet.write_copy(unfinished))
        if self._before_sealing is not None:
            await self._before_sealing()
        kept = protect() | {state.step}
        sealing = asyncio.to_thread(self._store.commit, unfinished, parts, state, buffer, kept)
        path = await within(self._seconds, f"sealing a checkpoint ({why})", sealing)
        self._on_saved(state.step, path)

    def _note_failure(self, writing: "asyncio.Task[None]") -> None:
        if writing.cancelled() or writing.exception() is not None:
            self._failed.set()

    async def settle(self, step: int | None = None) -> None:
        """Wait until no checkpoint (or that of `step`) is being written. Raises its fault; its waits have deadlines."""
        if self._writing is not None and step in (None, self._step):
            await asyncio.shield(self._writing)

    async def watch(self) -> None:
        """Raise the fault of a checkpoint as soon as there is one; never returns."""
        await self._failed.wait()
        await self.settle()

    async def close(self) -> None:
        """Let a checkpoint that is being written be completed; its fault is logged: the run ends for another reason."""
        if self._writing is not None:
            (fault,) = await asyncio.gather(asyncio.shield(self._writing), return_exceptions=True)
            if fault is not None:
                log.warning("the checkpoint of step %d was not written: %s", self._step, fault)

    async def load(self, step: int) -> None:
        """Load the trainer's part of a checkpoint. Raises CheckpointError if it is damaged."""
        path = self._store.path(step)
        damage = await within(self._seconds, f"verifying {path.name}", self._fleet.find_damage(path))
        if damage is not None:
            raise CheckpointError(f"{path} is damaged: {damage}")
        await within(self._seconds, f"loading {path.name}", self._fleet.load(path, step))
