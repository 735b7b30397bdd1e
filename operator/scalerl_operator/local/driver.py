"""The actuator for one machine: looks, decides by `plan_run`, and carries it out as processes. I/O.

Everything that must outlive this process is in the run's folder before it is acted on, so that a killed driver is
replaced by `scalerl run --resume`.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

from scalerl_api import InvalidRun, RLRun, RLRunStatus
from scalerl_api.status import AttemptStatus, StopCause
from scalerl_api.wire import EvalPoint, Progress, Termination
from scalerl_operator.decide.assessment import forecast_points, summarize
from scalerl_operator.decide.events import list_events
from scalerl_operator.decide.failure_policy import Ending, find_rule
from scalerl_operator.decide.lifecycle import Done, Kill, Limits, Start, Terminate, Wait, plan_run
from scalerl_operator.local import run_folder as records
from scalerl_operator.local.coordinator_process import COORDINATOR_COMMAND, CoordinatorProcess
from scalerl_operator.local.durable_files import append_line, save_text
from scalerl_operator.local.run_folder import RunFolder
from scalerl_operator.local.signals import Interrupts
from scalerl_operator.render.text import ProgressView, describe_eval
from scalerl_operator.run.attempts import describe_exit, start_attempt, termination_fields
from scalerl_operator.run.evals import EvalKey, eval_key, merge_evals, next_index, surviving
from scalerl_operator.run.forecast_log import ForecastLine, match_forecasts
from scalerl_operator.run.immutable_fields import find_fixed_changes
from scalerl_operator.run.observed import Assessment, ObservedState
from scalerl_operator.run.progress import budget_gpu_hours, close_progress, eta_seconds
from scalerl_operator.telemetry.progress_client import TelemetryError, fetch_progress

PACE_SAMPLES = 1000


class FolderInUse(Exception):
    """The folder holds the records of a run, and nobody said that it is to go on."""


class Display(Protocol):
    """Shows a run while it goes on."""

    def update(self, view: ProgressView) -> None:
        """Show the newest state; called at every poll."""

    def event(self, text: str) -> None:
        """Say one line that stays."""


@dataclass(frozen=True)
class DriverDeps:
    """Everything from outside that the loop needs."""

    interrupts: Interrupts
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    command: Sequence[str] = COORDINATOR_COMMAND
    limits: Limits = Limits()
    poll_seconds: float = 1.0
    answer_seconds: float = 5.0
    """Longest wait for one answer of the coordinator."""
    inherit: tuple[int, ...] = ()
    """Files that the run's processes hold open: the folder's lock lasts until the last of them is gone."""


def prepare_folder(folder: RunFolder, run: RLRun, text: str, *, resume: bool) -> None:
    """Make the folder ready for `run`, whose YAML is `text`.

    Raises FolderInUse if a run's records are there and `resume` is false, InvalidRun if a fixed part of the spec
    differs from the records'.
    """
    if folder.has_records():
        if not resume:
            raise FolderInUse(
                f"{folder.path} holds the records of a run: --resume goes on with it, another --folder starts anew"
            )
        faults = find_fixed_changes(records.load_run(folder), run)
        if faults:
            raise InvalidRun(faults)
    folder.path.mkdir(parents=True, exist_ok=True)
    save_text(folder.spec, text)


def drive(run: RLRun, folder: RunFolder, display: Display, deps: DriverDeps) -> Done:
    """Bring the run to its end; return how it ended. Nothing of it is alive when this returns or raises."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="forecast") as pool:
        driver = _Driver(run, folder, display, deps, pool)
        try:
            while True:
                driver.look()
                action = driver.decide()
                if isinstance(action, Done):
                    return action
                deps.interrupts.wait(driver.act(action))
        finally:
            driver.close()


@dataclass
class _Driver:
    """The loop's memory. Everything in it can be rebuilt from the folder and the coordinator."""

    run: RLRun
    folder: RunFolder
    display: Display
    deps: DriverDeps
    pool: ThreadPoolExecutor
    seen: ObservedState = field(init=False)
    coordinator: CoordinatorProcess | None = None
    forecasts: list[ForecastLine] = field(init=False)
    pending: deque[tuple[EvalKey, Future[ForecastLine]]] = field(default_factory=deque)
    """The forecasts that are being made, oldest first."""
    pace: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=PACE_SAMPLES))
    judged: Assessment = Assessment()
    missed: int = 0
    since: int = 0
    """Points that the running coordinator has told; the one before may have counted others by the same numbers."""
    written: RLRunStatus | None = None

    def __post_init__(self) -> None:
        attempts = records.load_attempts(self.folder)
        if attempts and not attempts[-1].over:
            attempts = (*attempts[:-1], self._close_lost(attempts[-1]))
        self.forecasts = records.load_forecasts(self.folder)
        self.seen = ObservedState(
            attempts=attempts,
            first_attempt=attempts[-1].number + 1 if attempts else 1,
            evals=records.load_evals(self.folder),
        )
        self.judged = summarize(self.run, self.forecasts, self.seen.evals)
        self._ask_forecasts()
        self._take_forecasts(wait=True)  # a policy that holds already must hold before anything is started

    def _close_lost(self, attempt: AttemptStatus) -> AttemptStatus:
        """Write down the end of an attempt whose driver died: the lock says that its processes are gone."""
        termination = records.load_termination(self.folder)
        started = attempt.started or attempt.created
        newest = records.load_last_sign(self.folder) or started
        ended = {"ended": max(newest, started), "checkpoint_step": _saved_step(termination)}
        closed = attempt.model_copy(update={**ended, **termination_fields(termination)})
        records.append_attempt(self.folder, closed, termination)
        return closed

    def look(self) -> None:
        """Bring `seen` up to date."""
        if self.coordinator is not None:
            code = self.coordinator.poll()
            if code is None:
                self._poll_progress(self.coordinator)
            else:
                self._note_end(code)
        self._ask_forecasts()
        self._take_forecasts(wait=self.coordinator is None)
        progress = self.seen.progress
        eta = eta_seconds(self.run, self.pace) if progress is not None else None
        self.seen = replace(self.seen, interrupts=self.deps.interrupts.count, eta_seconds=eta)

    def _poll_progress(self, coordinator: CoordinatorProcess) -> None:
        address = coordinator.read_address()
        if address is None:
            return
        try:
            progress = fetch_progress(address, coordinator.token, self.since, timeout_seconds=self.deps.answer_seconds)
        except TelemetryError:
            self.missed += 1
            return
        self.missed = 0
        if not self.pace or progress.step != self.pace[-1][1]:
            self.pace.append((progress.time, progress.step))
        self.since = max(self.since, next_index(progress.evals))
        self._add_evals(progress.evals)
        self.seen = replace(self.seen, progress=progress, heard=self.deps.now())

    def _add_evals(self, points: Sequence[EvalPoint]) -> None:
        before = {(point.dataset, point.step, point.attempt) for point in self.seen.evals}
        self.seen = replace(self.seen, evals=merge_evals(self.seen.evals, points))
        for point in points:
            if (point.dataset, point.step, point.attempt) not in before:
                self.display.event(describe_eval(point))

    def _note_end(self, code: int) -> None:
        """Take in what the coordinator left: its points first, for the last poll was before its last words."""
        self._add_evals([p for p in records.load_evals(self.folder) if p not in self.seen.evals])
        termination = records.load_termination(self.folder)
        last = self.seen.progress
        steps = records.load_steps(self.folder)
        progress = close_progress(self.run, self.seen.attempts[-1].number, last, termination, steps)
        told = _saved_step(termination)
        rule = find_rule(self.run.spec.failure_policy, Ending(self.seen.attempts[-1].stop_cause, code))
        attempt = self.seen.attempts[-1].model_copy(
            update={
                "ended": self.deps.now(),
                "rule": rule.name if rule is not None else None,
                "ruled": rule.action if rule is not None else None,
                "exit_code": code,
                "checkpoint_step": told if told is not None else _saved_step(last),
                **termination_fields(termination),
            }
        )
        self._write_attempt(attempt, termination)
        self.coordinator, self.missed = None, 0
        self.seen = replace(self.seen, progress=progress)
        self.display.event(describe_exit(attempt))

    def _ask_forecasts(self) -> None:
        """Judge every prefix that has not been judged, in order, away from this thread."""
        points = surviving(self.seen.evals)
        known = match_forecasts(self.forecasts, points).keys() | {key for key, _ in self.pending}
        for count, point in enumerate(points, start=1):
            if eval_key(point) not in known:
                budget = budget_gpu_hours(self.run, point.step, point.compute_gpu_hours)
                time = self.deps.now().timestamp()
                future = self.pool.submit(forecast_points, self.run, points[:count], budget, time)
                self.pending.append((eval_key(point), future))

    def _take_forecasts(self, *, wait: bool) -> None:
        while self.pending and (wait or self.pending[0][1].done()):
            line = self.pending.popleft()[1].result()
            append_line(self.folder.forecasts, line.to_line())
            self.forecasts.append(line)
            self.judged = summarize(self.run, self.forecasts, self.seen.evals)

    def decide(self) -> Start | Terminate | Kill | Wait | Done:
        """Return what to do; the status that goes with it is written."""
        now = self.deps.now()
        plan = plan_run(self.run, self.seen, self.judged, now, self.deps.limits)
        for each in list_events(self.run.status, plan.status):
            if each.reason in ("StopRecommended", "Unhealthy"):  # the display itself says all else
                self.display.event(each.message)
        self.run = self.run.model_copy(update={"status": plan.status})
        if _worth_writing(plan.status) != self.written:
            records.save_status(self.folder, self.run)
            self.written = _worth_writing(plan.status)
        self.display.update(ProgressView(self.run, self.seen.progress, self.seen.evals, self.missed))
        return plan.action

    def act(self, action: Start | Terminate | Kill | Wait) -> float:
        """Carry `action` out; return the seconds until the next look."""
        match action:
            case Start(attempt):
                self._start(attempt)
            case Terminate(cause, message):
                self._note_stop(cause, message)
                why = f"{cause}: {message}" if message else cause
                self.display.event(f"asked to end ({why}): saving a checkpoint first")
                if self.coordinator is not None:
                    self.coordinator.terminate()
            case Kill(cause):
                self._note_stop(cause, "")
                self.display.event(f"killed ({cause})")
                if self.coordinator is not None:
                    self.coordinator.kill()
                return 0.0
            case Wait(until) if until is not None:
                return min(self.deps.poll_seconds, max(0.0, (until - self.deps.now()).total_seconds()))
        return self.deps.poll_seconds

    def _start(self, number: int) -> None:
        self._write_attempt(start_attempt(number, self.deps.now()))
        grace = self.run.spec.deadlines.checkpoint_seconds + self.deps.limits.exit_seconds
        self.pace.clear()
        self.missed = self.since = 0
        self.seen = replace(self.seen, heard=None)
        self.coordinator = CoordinatorProcess(
            self.folder, number, self.deps.command, grace_seconds=grace, inherit=self.deps.inherit
        )
        self.display.event(f"attempt {number} started" + (", from the newest checkpoint" if number > 1 else ""))

    def _note_stop(self, cause: StopCause, message: str) -> None:
        attempt = self.seen.attempts[-1]
        if attempt.stop_cause is None:
            asked = {"stop_cause": cause, "stop_message": message, "stop_time": self.deps.now()}
            self._write_attempt(attempt.model_copy(update=asked))

    def _write_attempt(self, attempt: AttemptStatus, termination: Termination | None = None) -> None:
        """Replace or add an attempt, on disk first."""
        records.append_attempt(self.folder, attempt, termination)
        others = tuple(each for each in self.seen.attempts if each.number != attempt.number)
        self.seen = replace(self.seen, attempts=(*others, attempt))

    def close(self) -> None:
        """Leave nothing alive, whatever went wrong."""
        if self.coordinator is not None:
            self.coordinator.kill()
            self._note_end(self.coordinator.poll() or 0)


def _saved_step(told: Progress | Termination | None) -> int | None:
    return told.checkpoint.step if told is not None and told.checkpoint is not None else None


def _worth_writing(status: RLRunStatus) -> RLRunStatus:
    """The status without what moves at every look."""
    progress = status.progress
    if progress is not None:
        progress = progress.model_copy(update={"eta_seconds": None, "compute_gpu_hours": 0.0})
    return status.model_copy(update={"progress": progress, "cost": None})
