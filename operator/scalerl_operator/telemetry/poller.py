"""Asks the running coordinators how far they are, and judges their points, both away from the event loop. I/O.

Everything here is rebuilt from the coordinators when an operator starts: who asks since 0 is told the whole history.
Where the user names a Prometheus server, that is asked about coordinators that do not answer.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from scalerl_api import RLRun
from scalerl_api.wire import PORT_HTTP, EvalPoint, Progress
from scalerl_operator.decide.assessment import forecast_missing, summarize
from scalerl_operator.decide.curve_samples import CurveSamples, sample_curve
from scalerl_operator.reconcile.cache import InformerCache
from scalerl_operator.reconcile.snapshot import Key, ObservedPod, ObservedRun, PollResult, last_evals
from scalerl_operator.run.evals import merge_evals, next_index, surviving
from scalerl_operator.run.forecast_log import ForecastLine, match_forecasts
from scalerl_operator.run.observed import Assessment
from scalerl_operator.run.progress import eta_seconds
from scalerl_operator.telemetry.metrics import OperatorMetrics
from scalerl_operator.telemetry.progress_client import TelemetryError, fetch_progress
from scalerl_operator.telemetry.promql import Question, Reading

log = logging.getLogger(__name__)

POLL_SECONDS = 10.0
ANSWER_SECONDS = 3.0
PARALLEL = 32  # questions at a time: 1,000 coordinators that answer in 50 ms take 2 s; 32 dead ones delay others 3 s
PACE_SAMPLES = 1000
MISSES = 3  # answers in a row that a coordinator owes before a Prometheus server is asked about it
READ_SECONDS = 30.0  # between two such readings of one run: nothing is scraped much oftener
JUDGE_SECONDS = 30.0  # for a coordinator's last words; then its run ends with the forecast that it has
READERS = 4  # at a time: a server that labours under its own load must not get ours on top

Ask = Callable[[str, str, int], Progress]
"""(host:port, token, since) -> the answer. Raises TelemetryError."""
Read = Callable[[Question], Reading]
"""What a Prometheus server has of a run. Raises TelemetryError."""


@dataclass(frozen=True)
class PollerDeps:
    """What the poller needs from outside."""

    now: Callable[[], datetime]
    token: Callable[[str], str]
    """From a run's uid to its coordinator's token."""
    dirty: Callable[[Key], None]
    """Told of a run about which something is news."""
    ask: Ask = lambda address, token, since: fetch_progress(address, token, since, timeout_seconds=ANSWER_SECONDS)
    poll_seconds: float = POLL_SECONDS
    read: Read | None = None
    """None: no server is named."""
    read_seconds: float = READ_SECONDS


@dataclass
class _Memory:
    """What is remembered of one run."""

    uid: str
    pod: str = ""
    attempt: int = 0
    watched: datetime | None = None
    asked: bool = False
    heard: datetime | None = None
    heard_out: bool = False
    missed: int = 0
    """Answers in a row that this coordinator did not give."""
    read: datetime | None = None
    """Up to when the Prometheus server was read."""
    read_due: float = 0.0
    progress: Progress | None = None
    evals: tuple[EvalPoint, ...] = ()
    since: int = 0
    pace: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=PACE_SAMPLES))
    forecasts: list[ForecastLine] = field(default_factory=list)
    judged: Assessment | None = None
    trace: CurveSamples | None = None
    judged_by: int = 0
    """Generation of the spec that it was judged by: policies may change."""
    due: float = 0.0
    busy: bool = False


class ProgressPoller:
    """The poller."""

    def __init__(self, store: InformerCache, gauges: OperatorMetrics, deps: PollerDeps):
        self._store = store
        self._gauges = gauges
        self._deps = deps
        self._memories: dict[Key, _Memory] = {}
        self._askers: Executor = ThreadPoolExecutor(max_workers=PARALLEL, thread_name_prefix="ask")
        self._readers: Executor = ThreadPoolExecutor(max_workers=READERS, thread_name_prefix="read")
        self._fitters: Executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fit")
        self._tasks: set[asyncio.Task[None]] = set()

    def told(self, run: ObservedRun) -> PollResult:
        """Return what is known of `run` now."""
        memory = self._memories.get(run.key)
        if memory is None or memory.uid != run.uid:
            return PollResult()
        eta = eta_seconds(run.run, memory.pace) if run.run is not None else None
        return PollResult(
            watched=memory.watched,
            asked=memory.asked,
            attempt=memory.attempt,
            progress=memory.progress,
            heard=memory.heard,
            heard_out=memory.heard_out,
            evals=memory.evals,
            eta_seconds=eta,
            judged=memory.judged,
            trace=memory.trace,
        )

    def forget(self, key: Key) -> None:
        """Drop a run that is deleted."""
        self._memories.pop(key, None)
        self._gauges.forget_run(key)

    async def poll_forever(self) -> None:
        """Ask every running coordinator every POLL_SECONDS."""
        while True:
            for run, pod in self._store.coordinators():
                memory = self._memories.get(run.key) if pod.over else self._memory(run, pod)
                if memory is None or memory.busy:
                    continue
                if not pod.over and time.monotonic() >= memory.due:
                    self._begin(memory, self._visit(run, pod, memory))
                elif pod.over and memory.pod == pod.uid and not memory.heard_out:
                    self._begin(memory, self._hear_out(run, pod, memory))
            await asyncio.sleep(min(1.0, self._deps.poll_seconds / 4))

    def _begin(self, memory: _Memory, work: Coroutine[None, None, None]) -> None:
        memory.busy = True
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait for nothing: answers under way are for nobody."""
        for task in list(self._tasks):
            task.cancel()
        for pool in (self._askers, self._readers, self._fitters):
            pool.shutdown(wait=False, cancel_futures=True)

    def _memory(self, run: ObservedRun, pod: ObservedPod) -> _Memory:
        memory = self._memories.get(run.key)
        if memory is None or memory.uid != run.uid:
            memory = self._memories[run.key] = _Memory(run.uid)
        if memory.pod != pod.uid:  # another coordinator: it counts its points by its own numbers
            memory.pod, memory.attempt, memory.since = pod.uid, pod.attempt or 0, 0
            memory.watched, memory.heard, memory.asked, memory.missed = self._deps.now(), None, False, 0
            memory.heard_out = False
            memory.pace.clear()
        return memory

    async def _visit(self, run: ObservedRun, pod: ObservedPod, memory: _Memory) -> None:
        try:
            await self._ask(run, pod, memory)
            latest = self._store.run(run.key)
            if latest is not None and latest.run is not None:
                await self._judge(latest, latest.run, memory)
        finally:
            memory.due = time.monotonic() + self._deps.poll_seconds
            memory.busy = False
        if self._memories.get(run.key) is memory:  # else it was deleted meanwhile, and its series with it
            self._gauges.show_told(run.key, self.told(run))

    async def _hear_out(self, run: ObservedRun, pod: ObservedPod, memory: _Memory) -> None:
        """Take in what a coordinator said last. Whatever comes of it, nobody waits for more.

        Of one that has not answered the points before are not known: a forecast without them is worse than the last.
        """
        try:
            if run.run is not None and memory.heard is not None:
                memory.evals = merge_evals(memory.evals, last_evals([pod]))
                async with asyncio.timeout(JUDGE_SECONDS):
                    await self._judge(run, run.run, memory)
        except TimeoutError:
            log.error("%s/%s: its last point was not judged in %g s", *run.key, JUDGE_SECONDS)
        finally:
            memory.heard_out, memory.busy = True, False
            self._deps.dirty(run.key)

    async def _ask(self, run: ObservedRun, pod: ObservedPod, memory: _Memory) -> None:
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        question = (f"{host}:{PORT_HTTP}", self._deps.token(run.uid), memory.since)
        try:
            progress = await asyncio.get_running_loop().run_in_executor(self._askers, self._deps.ask, *question)
        except TelemetryError:
            self._gauges.polls.labels("missed").inc()
            memory.missed += 1
            if not memory.asked:
                memory.asked = True
                self._deps.dirty(run.key)
            await self._read(run, pod, memory)
            return
        self._gauges.polls.labels("answered").inc()
        memory.missed = 0
        if memory.pod == pod.uid:
            self._take(run, progress, memory)

    async def _read(self, run: ObservedRun, pod: ObservedPod, memory: _Memory) -> None:
        """Ask the Prometheus server, where there is one, about a coordinator that does not answer."""
        read = self._deps.read
        if read is None or memory.missed < MISSES or time.monotonic() < memory.read_due:
            return
        now = self._deps.now()
        question = Question(run.key[1], run.uid, memory.attempt, memory.read or run.created or now, now)
        try:
            reading = await asyncio.get_running_loop().run_in_executor(self._readers, read, question)
        except TelemetryError as error:
            self._gauges.readings.labels("failed").inc()
            log.warning("%s/%s: its coordinator does not answer, nor does Prometheus: %s", *run.key, error)
        else:
            self._gauges.readings.labels("scraped" if reading.progress is not None else "not_scraped").inc()
            memory.read = now
            if memory.pod == pod.uid:
                self._take_reading(run, reading, memory)
        finally:
            memory.read_due = time.monotonic() + self._deps.read_seconds

    def _take_reading(self, run: ObservedRun, reading: Reading, memory: _Memory) -> None:
        """Take in what was scraped. `since` stays: the coordinator may know more once it answers again."""
        before = (memory.evals, memory.progress)
        memory.evals = merge_evals(reading.evals, memory.evals)
        found = reading.progress
        if found is not None:
            scraped = self._deps.now() - timedelta(seconds=reading.age_seconds)
            if memory.heard is None or scraped > memory.heard:
                memory.heard, memory.progress = scraped, _carry_over(memory.progress, found)
        if (memory.evals, memory.progress) != before:
            self._deps.dirty(run.key)

    def _take(self, run: ObservedRun, progress: Progress, memory: _Memory) -> None:
        if not memory.pace or progress.step != memory.pace[-1][1]:
            memory.pace.append((progress.time, progress.step))
        news = memory.progress is None or _still(memory.progress) != _still(progress) or not memory.asked
        memory.since = max(memory.since, next_index(progress.evals))
        memory.evals = merge_evals(memory.evals, progress.evals)
        memory.progress, memory.heard, memory.asked = progress, self._deps.now(), True
        if news:
            self._deps.dirty(run.key)

    async def _judge(self, seen: ObservedRun, run: RLRun, memory: _Memory) -> None:
        """Judge the points that have not been, once each; and anew what policies say when the spec has changed."""
        measured = surviving(memory.evals)
        known = match_forecasts(memory.forecasts, measured[-1:])
        if not measured or (known and memory.judged_by == seen.generation):
            return
        loop, began = asyncio.get_running_loop(), time.monotonic()
        when = self._deps.now().timestamp()
        before, evals = list(memory.forecasts), memory.evals
        lines = await loop.run_in_executor(self._fitters, forecast_missing, run, evals, before, when)
        memory.judged = await loop.run_in_executor(self._fitters, summarize, run, lines, evals)
        memory.trace = await loop.run_in_executor(self._fitters, sample_curve, lines[-1], evals)
        memory.forecasts, memory.judged_by = lines, seen.generation
        self._gauges.fits.inc(sum(line not in before for line in lines))
        self._gauges.fit_seconds.observe(time.monotonic() - began)
        self._deps.dirty(seen.key)


def _carry_over(told: Progress | None, scraped: Progress) -> Progress:
    """What was scraped, with what the same coordinator has told before and no metric says."""
    if told is None or told.attempt != scraped.attempt:
        return scraped
    return scraped.model_copy(update={"checkpoint": told.checkpoint, "latest": told.latest})


def _still(progress: Progress) -> Progress:
    """What an answer says, without the coordinator's clock."""
    clock = {"time": 0.0, "gpu_seconds": {}, "idle_fraction": {}, "compute_gpu_hours": 0.0, "still_seconds": None}
    return progress.model_copy(update=clock)
