"""Stores the completions of steps and evaluations in a thread, without ending the run when that fails. I/O.

Completions are records for people, so a full disk costs them and not the training. The failure is logged once; later
steps are tried again, as space may be freed.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from scalerl_api.rollouts import Rollout
from scalerl_runtime.algorithm.rollout_rows import RowSource, eval_rows, step_rows
from scalerl_runtime.deadlines import within
from scalerl_runtime.storage.rollout_files import RolloutsNotStored, RolloutStore, RolloutWriter
from scalerl_runtime.types import Completion, Group, Prompt

log = logging.getLogger(__name__)

MAX_WAITING = 4  # steps in memory that are not stored yet; beyond, the loop waits
BUFFER_CHARACTERS = 2_000_000  # of an evaluation, before they are written

T = TypeVar("T")


class RolloutRecorder:
    """Makes one call on the store at a time, in order. Without a store nothing is kept."""

    def __init__(self, store: RolloutStore | None, source: RowSource, seconds: float):
        """`seconds`: the longest wait for the disk."""
        self._store = store
        self._source = source
        self._seconds = seconds
        self._lock = asyncio.Lock()  # of the store
        self._tasks: set[asyncio.Task[bool]] = set()
        self._waiting: deque[asyncio.Task[bool]] = deque()
        self._is_failing = False

    async def record_step(self, groups: Sequence[Group], advantages: Sequence[NDArray[np.float64]], step: int) -> None:
        """Store a step's completions in the background; wait while too many steps are not stored yet."""
        store, source = self._store, self._source
        if store is None:
            return

        def write() -> None:
            store.save_step(step, step_rows(groups, advantages, source, step=step))

        self._waiting.append(self._begin(write))
        await self._wait(MAX_WAITING)

    async def flush(self) -> None:
        """Wait until every step is stored or has failed: a checkpoint must not be ahead of its completions."""
        for task in list(self._waiting):  # `record_step` may go on meanwhile, and removes them
            await within(self._seconds, "storing completions", asyncio.shield(task))

    async def resume(self, step: int, evaluated: Mapping[int, float]) -> None:
        """Remove what the attempt repeats; see `RolloutStore.resume`."""
        store = self._store
        if store is not None:
            removing = self._begin(lambda: store.resume(step, evaluated))
            await within(self._seconds, "removing completions of repeated steps", asyncio.shield(removing))

    @asynccontextmanager
    async def evaluation(self, step: int, dataset: str, num_sets: int) -> AsyncIterator["EvalRecording"]:
        """Record one set's completions. The file appears when the block ends, and not if it raises."""
        recording = EvalRecording(self._store, self._source, self._begin, step, dataset)
        try:
            yield recording
            await recording.finish(num_sets)
        finally:
            recording.close()

    def note_rate(self, step: int, pass_rate: float) -> None:
        """Record the held-out pass rate of an evaluation."""
        if self._store is not None:
            self._store.note_rate(step, pass_rate)

    async def _wait(self, max_waiting: int) -> None:
        while len(self._waiting) > max_waiting:
            await within(self._seconds, "storing completions", asyncio.shield(self._waiting[0]))
            self._waiting.popleft()

    def _begin(self, call: Callable[[], None]) -> "asyncio.Task[bool]":
        """Make a call on the store in a thread; the result is whether it succeeded.

        Nothing cancels the task: its thread would go on, beside the next call.
        """
        task = asyncio.create_task(self._call(call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _call(self, call: Callable[[], None]) -> bool:
        async with self._lock:
            try:
                await asyncio.to_thread(call)
            except RolloutsNotStored as error:
                if not self._is_failing:
                    log.warning("completions are not stored; the run goes on: %s", error)
                self._is_failing = True
                return False
            self._is_failing = False
            return True


class EvalRecording:
    """The completions of one evaluation of one set, written as they come: they may not fit into memory."""

    def __init__(
        self,
        store: RolloutStore | None,
        source: RowSource,
        begin: Callable[[Callable[[], None]], "asyncio.Task[bool]"],
        step: int,
        dataset: str,
    ):
        self._store = store
        self._source = source
        self._begin = begin
        self._step = step
        self._dataset = dataset
        self._writer: RolloutWriter | None = None
        self._rows: list[Rollout] = []
        self._is_lost = store is None

    async def add(self, prompt: Prompt, completions: Sequence[Completion]) -> None:
        """Record one prompt's completions."""
        if self._is_lost:
            return
        self._rows += eval_rows(prompt, completions, self._source, step=self._step, dataset=self._dataset)
        if sum(len(row.completion) for row in self._rows) > BUFFER_CHARACTERS:
            await self._write()

    async def finish(self, num_sets: int) -> None:
        """Complete the file."""
        await self._write()
        store, writer = self._store, self._writer
        if store is not None and writer is not None and not self._is_lost:
            self._writer = None
            await asyncio.shield(self._begin(lambda: store.save_eval(writer, num_sets)))

    def close(self) -> None:
        """Remove the file if it is not finished."""
        writer, self._is_lost = self._writer, True
        if writer is not None:
            self._begin(writer.abort)

    async def _write(self) -> None:
        rows, self._rows = self._rows, []
        if rows and not self._is_lost and not await asyncio.shield(self._begin(lambda: self._append(rows))):
            self._is_lost = True

    def _append(self, rows: Sequence[Rollout]) -> None:
        """Write rows, in the store's thread."""
        assert self._store is not None, "without a store nothing is written"
        if self._writer is None:
            self._writer = self._store.open_eval(self._step, self._dataset)
        self._writer.add(rows)
