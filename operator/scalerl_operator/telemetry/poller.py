"""Polls the running coordinators and assesses their evaluations, both outside the event loop's thread. I/O.

All state is rebuilt from the coordinators when an operator starts: `since=0` returns the full history. A Prometheus
server, if the user names one, is queried about coordinators that do not answer.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from scalerl_api import RLRun
from scalerl_api.wire import PORT_HTTP, Progress
from scalerl_operator.decide.assessment import forecast_prefixes
from scalerl_operator.decide.curve_samples import CurveSamples, sample_curve
from scalerl_operator.decide.run_tracker import RunTracker
from scalerl_operator.reconcile.cache import InformerCache
from scalerl_operator.reconcile.observed_pod import ObservedPod, last_evals
from scalerl_operator.reconcile.observed_run import Key, ObservedRun
from scalerl_operator.reconcile.snapshot import PollResult
from scalerl_operator.telemetry.metrics import OperatorMetrics
from scalerl_operator.telemetry.progress_client import TelemetryError, fetch_progress
from scalerl_operator.telemetry.promql import Question, Reading

log = logging.getLogger(__name__)

POLL_SECONDS = 10.0
ANSWER_SECONDS = 3.0
PARALLEL = 32  # polls at a time: 1,000 coordinators that answer in 50 ms take 2 s; 32 dead ones delay others by 3 s
MISSES = 3  # missed polls in a row before the Prometheus server is queried about a coordinator
READ_SECONDS = 30.0  # between two queries about one run: scrapes are hardly more frequent
ASSESS_SECONDS = 30.0  # for the point in a termination message; after that the run ends with the forecast it has
READERS = 4  # queries at a time, so that an overloaded server is not loaded further

FetchProgress = Callable[[str, str, int], Progress]
"""(host:port, token, since) -> the answer. Raises TelemetryError."""
FetchReading = Callable[[Question], Reading]
"""Returns the Prometheus server's data of a run. Raises TelemetryError."""


@dataclass(frozen=True)
class PollerDeps:
    """Clock, tokens, queue and clients of the poller."""

    now: Callable[[], datetime]
    token: Callable[[str], str]
    """From a run's uid to its coordinator's token."""
    enqueue: Callable[[Key], None]
    """Called with a run's key when something about it has changed."""
    fetch_progress: FetchProgress = lambda address, token, since: fetch_progress(
        address, token, since, timeout_seconds=ANSWER_SECONDS
    )
    poll_seconds: float = POLL_SECONDS
    fetch_reading: FetchReading | None = None
    """None without a Prometheus server."""
    read_seconds: float = READ_SECONDS


@dataclass
class _PolledRun:
    """The poller's state of one run."""

    uid: str
    tracker: RunTracker = field(default_factory=RunTracker)
    pod: str = ""
    """uid of the coordinator's pod."""
    watched: datetime | None = None
    """Since when this coordinator is polled."""
    is_final: bool = False
    """Whether the point in the coordinator's termination message is assessed, or was given up."""
    curve: CurveSamples | None = None
    read: datetime | None = None
    """Up to when the Prometheus server was read."""
    read_due: float = 0.0
    due: float = 0.0
    busy: bool = False


class ProgressPoller:
    """Polls every coordinator of the informer cache and keeps what is known of each run."""

    def __init__(self, store: InformerCache, gauges: OperatorMetrics, deps: PollerDeps):
        self._store = store
        self._gauges = gauges
        self._deps = deps
        self._runs: dict[Key, _PolledRun] = {}
        self._askers: Executor = ThreadPoolExecutor(max_workers=PARALLEL, thread_name_prefix="ask")
        self._readers: Executor = ThreadPoolExecutor(max_workers=READERS, thread_name_prefix="read")
        self._fitters: Executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fit")
        self._tasks: set[asyncio.Task[None]] = set()

    def poll_result(self, run: ObservedRun) -> PollResult:
        """Return what is known of `run` now."""
        polled = self._runs.get(run.key)
        if polled is None or polled.uid != run.uid:
            return PollResult()
        tracker = polled.tracker
        return PollResult(
            watched=polled.watched,
            polled=tracker.polled,
            attempt=tracker.attempt,
            progress=tracker.progress,
            answered=tracker.answered,
            is_final=polled.is_final,
            evals=tracker.evals,
            eta_seconds=tracker.eta_seconds(run.run) if run.run is not None else None,
            assessment=tracker.assessment,
            curve=polled.curve,
        )

    def forget(self, key: Key) -> None:
        """Drop a run that is deleted."""
        self._runs.pop(key, None)
        self._gauges.forget_run(key)

    async def poll_forever(self) -> None:
        """Poll every running coordinator every POLL_SECONDS."""
        while True:
            for run, pod in self._store.coordinators():
                polled = self._runs.get(run.key) if pod.over else self._find(run, pod)
                if polled is None or polled.busy:
                    continue
                if not pod.over and time.monotonic() >= polled.due:
                    self._begin(polled, self._visit(run, pod, polled))
                elif pod.over and polled.pod == pod.uid and not polled.is_final:
                    self._begin(polled, self._finish(run, pod, polled))
            await asyncio.sleep(min(1.0, self._deps.poll_seconds / 4))

    def _begin(self, polled: _PolledRun, work: Coroutine[None, None, None]) -> None:
        polled.busy = True
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel the polls under way; nothing waits for them."""
        for task in list(self._tasks):
            task.cancel()
        for pool in (self._askers, self._readers, self._fitters):
            pool.shutdown(wait=False, cancel_futures=True)

    def _find(self, run: ObservedRun, pod: ObservedPod) -> _PolledRun:
        polled = self._runs.get(run.key)
        if polled is None or polled.uid != run.uid:
            polled = self._runs[run.key] = _PolledRun(run.uid)
        if polled.pod != pod.uid:
            polled.pod, polled.watched, polled.is_final = pod.uid, self._deps.now(), False
            polled.tracker.begin_attempt(pod.attempt or 0)
        return polled

    async def _visit(self, run: ObservedRun, pod: ObservedPod, polled: _PolledRun) -> None:
        try:
            await self._poll(run, pod, polled)
            latest = self._store.run(run.key)
            if latest is not None and latest.run is not None:
                await self._assess(latest, latest.run, polled)
        finally:
            polled.due = time.monotonic() + self._deps.poll_seconds
            polled.busy = False
        if self._runs.get(run.key) is polled:  # else it was deleted meanwhile, and its series with it
            self._gauges.show_poll(run.key, self.poll_result(run))

    async def _finish(self, run: ObservedRun, pod: ObservedPod, polled: _PolledRun) -> None:
        """Assess the point in a coordinator's termination message. In any case, nothing waits for it after this.

        The points before are unknown if this coordinator never answered: a forecast without them would be worse than
        the one in the status.
        """
        try:
            if run.run is not None and polled.tracker.answered is not None:
                polled.tracker.add_evals(last_evals([pod]))
                async with asyncio.timeout(ASSESS_SECONDS):
                    await self._assess(run, run.run, polled)
        except TimeoutError:
            log.error("%s/%s: the last evaluation was not assessed within %g s", *run.key, ASSESS_SECONDS)
        finally:
            polled.is_final, polled.busy = True, False
            self._deps.enqueue(run.key)

    async def _poll(self, run: ObservedRun, pod: ObservedPod, polled: _PolledRun) -> None:
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        question = (f"{host}:{PORT_HTTP}", self._deps.token(run.uid), polled.tracker.since)
        try:
            progress = await asyncio.get_running_loop().run_in_executor(
                self._askers, self._deps.fetch_progress, *question
            )
        except TelemetryError:
            self._gauges.polls.labels("missed").inc()
            if polled.tracker.count_miss():
                self._deps.enqueue(run.key)
            await self._read(run, pod, polled)
            return
        self._gauges.polls.labels("answered").inc()
        if polled.pod == pod.uid and polled.tracker.take_answer(progress, self._deps.now()).changed:
            self._deps.enqueue(run.key)

    async def _read(self, run: ObservedRun, pod: ObservedPod, polled: _PolledRun) -> None:
        """Query the Prometheus server, if one is named, about a coordinator that does not answer."""
        read = self._deps.fetch_reading
        if read is None or polled.tracker.missed < MISSES or time.monotonic() < polled.read_due:
            return
        now = self._deps.now()
        question = Question(run.key[1], run.uid, polled.tracker.attempt, polled.read or run.created or now, now)
        try:
            reading = await asyncio.get_running_loop().run_in_executor(self._readers, read, question)
        except TelemetryError as error:
            self._gauges.readings.labels("failed").inc()
            log.warning("%s/%s: neither its coordinator nor Prometheus answers: %s", *run.key, error)
        else:
            self._gauges.readings.labels("scraped" if reading.progress is not None else "not_scraped").inc()
            polled.read = now
            if polled.pod == pod.uid:
                self._take_reading(run, reading, polled)
        finally:
            polled.read_due = time.monotonic() + self._deps.read_seconds

    def _take_reading(self, run: ObservedRun, reading: Reading, polled: _PolledRun) -> None:
        age = reading.age_seconds if reading.progress is not None else 0.0  # else there is no age
        if polled.tracker.take_scrape(reading.evals, reading.progress, self._deps.now() - timedelta(seconds=age)):
            self._deps.enqueue(run.key)

    async def _assess(self, observed: ObservedRun, run: RLRun, polled: _PolledRun) -> None:
        """Make the forecasts that are missing, each once; assess the run anew if there are any or the spec changed."""
        tracker, generation = polled.tracker, observed.generation
        if tracker.is_assessed(generation):
            return
        loop, began = asyncio.get_running_loop(), time.monotonic()
        prefixes, sources = tracker.missing_prefixes(run), tracker.missing_sources()
        inputs, now = [*prefixes, *sources.values()], self._deps.now().timestamp()
        made = await loop.run_in_executor(self._fitters, forecast_prefixes, run, inputs, now)
        lines, by_source = made[: len(prefixes)], made[len(prefixes) :]
        tracker.add_source_forecasts(dict(zip(sources, by_source, strict=True)))
        tracker.add_forecasts(run, lines, generation=generation)
        if lines and tracker.is_newest(lines[-1]):  # else the curve stays: it is that of the newest evaluation already
            polled.curve = await loop.run_in_executor(self._fitters, sample_curve, lines[-1], tracker.evals)
        self._gauges.fits.inc(len(made))
        self._gauges.fit_seconds.observe(time.monotonic() - began)
        self._deps.enqueue(observed.key)
