"""The driver of one run on this machine: observes, decides by `plan_run`, and starts and ends processes. I/O.

Everything that must outlive this process is stored in the run's folder first: `scalerl run --resume` replaces a killed
driver.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from scalerl_api import InvalidRun, RLRun, RLRunStatus
from scalerl_api.status import AttemptStatus, StopCause
from scalerl_api.wire import ACCEPT_DATA, ENV_ACCEPT_DATA, EvalPoint, Progress, Termination
from scalerl_operator.decide.assessment import forecast_prefix
from scalerl_operator.decide.events import list_events
from scalerl_operator.decide.failure_policy import Ending, find_rule
from scalerl_operator.decide.lifecycle import Done, Kill, Limits, Start, Terminate, Wait, plan_run
from scalerl_operator.decide.run_tracker import RunTracker
from scalerl_operator.local import run_folder as records
from scalerl_operator.local.coordinator_process import COORDINATOR_COMMAND, CoordinatorProcess
from scalerl_operator.local.durable_files import append_line, save_text
from scalerl_operator.local.run_folder import RunFolder
from scalerl_operator.local.signals import Interrupts
from scalerl_operator.render.text import ProgressView, describe_eval, describe_example
from scalerl_operator.run.attempts import describe_exit, start_attempt, termination_fields
from scalerl_operator.run.evals import EvalKey, eval_key
from scalerl_operator.run.forecast_log import ForecastLine
from scalerl_operator.run.immutable_fields import find_fixed_changes
from scalerl_operator.run.observed import Assessment, ObservedState
from scalerl_operator.run.progress import close_progress
from scalerl_operator.telemetry.progress_client import TelemetryError, fetch_progress


class FolderInUse(Exception):
    """The folder has the records of a run, and `--resume` was not given."""


class Display(Protocol):
    """Shows a run in progress."""

    def update(self, view: ProgressView) -> None:
        """Show the newest state; called at every poll."""

    def event(self, text: str) -> None:
        """Print one line that stays."""


@dataclass(frozen=True)
class DriverDeps:
    """Clock, signals, command and limits of the loop."""

    interrupts: Interrupts
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    command: Sequence[str] = COORDINATOR_COMMAND
    limits: Limits = Limits()
    poll_seconds: float = 1.0
    answer_seconds: float = 5.0
    """Longest wait for one answer of the coordinator."""
    inherit: tuple[int, ...] = ()
    """Files that the run's processes keep open: the folder's lock lasts until the last of them has exited."""
    accept_new_data: bool = False
    """Resume though data, tokenizer or model differ from the checkpoint's."""


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
    """Run to the end; return the outcome. No process of the run is alive when this returns or raises."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="forecast") as pool:
        driver = _Driver(run, folder, display, deps, pool)
        try:
            while True:
                driver.observe()
                action = driver.decide()
                if isinstance(action, Done):
                    return action
                deps.interrupts.wait(driver.act(action))
        finally:
            driver.close()


@dataclass
class _Driver:
    """The loop's state. Everything in it can be rebuilt from the folder and the coordinator."""

    run: RLRun
    folder: RunFolder
    display: Display
    deps: DriverDeps
    pool: ThreadPoolExecutor
    attempts: tuple[AttemptStatus, ...] = ()
    first_attempt: int = 1
    coordinator: CoordinatorProcess | None = None
    tracker: RunTracker = field(init=False)
    fits: dict[EvalKey, Future[ForecastLine]] = field(default_factory=dict)
    """The forecasts under way, oldest first, by the held-out evaluation that they follow."""
    source_fits: dict[str, Future[ForecastLine]] = field(default_factory=dict)
    """The training sources' forecasts under way, by `dataset`; they are not stored, because no record needs them."""
    written: RLRunStatus | None = None
    has_example: bool = False
    """A completion was shown, as an early sign of rewards that are wrong."""
    has_warning: bool = False
    """The attempt's warning was shown."""

    def __post_init__(self) -> None:
        self.attempts = records.load_attempts(self.folder)
        if self.attempts and not self.attempts[-1].over:
            self.attempts = (*self.attempts[:-1], self._close_lost(self.attempts[-1]))
        self.first_attempt = self.attempts[-1].number + 1 if self.attempts else 1
        self.tracker = RunTracker(every_prefix=True, evals=records.load_evals(self.folder))
        self.tracker.add_forecasts(self.run, records.load_forecasts(self.folder))
        self._forecast(wait=True)  # a policy that holds already must hold before anything is started

    def _close_lost(self, attempt: AttemptStatus) -> AttemptStatus:
        """Record the end of an attempt whose driver died: this process has the lock, so its processes are gone."""
        termination = records.load_termination(self.folder)
        started = attempt.started or attempt.created
        newest = records.load_last_sign(self.folder) or started
        ended = {"ended": max(newest, started), "checkpoint_step": _saved_step(termination)}
        closed = attempt.model_copy(update={**ended, **termination_fields(termination)})
        records.append_attempt(self.folder, closed, termination)
        return closed

    def observe(self) -> None:
        """Bring the observed state up to date."""
        if self.coordinator is not None:
            code = self.coordinator.poll()
            if code is None:
                self._poll_progress(self.coordinator)
            else:
                self._note_end(code)
        self._forecast(wait=self.coordinator is None)

    def _observed_state(self) -> ObservedState:
        return ObservedState(
            attempts=self.attempts,
            first_attempt=self.first_attempt,
            progress=self.tracker.progress,
            answered=self.tracker.answered,
            evals=self.tracker.evals,
            eta_seconds=self.tracker.eta_seconds(self.run),
            interrupts=self.deps.interrupts.count,
        )

    def _poll_progress(self, coordinator: CoordinatorProcess) -> None:
        address = coordinator.read_address()
        if address is None:
            return
        timeout = self.deps.answer_seconds
        try:
            progress = fetch_progress(address, coordinator.token, self.tracker.since, timeout_seconds=timeout)
        except TelemetryError:
            self.tracker.count_miss()
            return
        self._show_evals(self.tracker.take_answer(progress, self.deps.now()).new_evals)
        if progress.example is not None and not self.has_example:
            self.display.event(describe_example(progress.example, str(self.folder.path)))
            self.has_example = True
        if progress.warning and not self.has_warning:
            self.display.event(f"warning: {progress.warning}")
            self.has_warning = True

    def _show_evals(self, points: Sequence[EvalPoint]) -> None:
        for point in points:
            self.display.event(describe_eval(point))

    def _note_end(self, code: int) -> None:
        """Store what the coordinator left. Its points come first: the last poll was before its termination message."""
        known = self.tracker.evals
        self._show_evals(self.tracker.add_evals([p for p in records.load_evals(self.folder) if p not in known]))
        termination = records.load_termination(self.folder)
        last = self.tracker.progress
        steps = records.load_steps(self.folder)
        progress = close_progress(self.run, self.attempts[-1].number, last, termination, steps)
        saved = _saved_step(termination)
        rule = find_rule(self.run.spec.failure_policy, Ending(self.attempts[-1].stop_cause, code))
        attempt = self.attempts[-1].model_copy(
            update={
                "ended": self.deps.now(),
                "rule": rule.name if rule is not None else None,
                "ruled": rule.action if rule is not None else None,
                "exit_code": code,
                "checkpoint_step": saved if saved is not None else _saved_step(last),
                **termination_fields(termination),
            }
        )
        self._write_attempt(attempt, termination)
        self.coordinator = None
        self.tracker.end_attempt(progress)
        self.display.event(describe_exit(attempt))

    def _forecast(self, *, wait: bool) -> None:
        """Make every forecast that is missing, in order, in the pool; store and assess those that are finished."""
        self._submit_fits()
        for key in list(self.fits):
            if not wait and not self.fits[key].done():
                break
            line = self.fits.pop(key).result()
            append_line(self.folder.forecasts, line.to_line())
            self.tracker.add_forecasts(self.run, [line])
        self._take_source_fits(wait=wait)
        if wait:  # a fit that was under way had fewer points than there are now
            self._submit_fits()
            self._take_source_fits(wait=True)
        if not self.fits and not self.tracker.is_assessed(0):  # a source's forecast, or another set's evaluation
            self.tracker.add_forecasts(self.run, [])

    def _take_source_fits(self, *, wait: bool) -> None:
        for dataset in [name for name, fit in self.source_fits.items() if wait or fit.done()]:
            self.tracker.add_source_forecasts({dataset: self.source_fits.pop(dataset).result()})

    def _submit_fits(self) -> None:
        for prefix in self.tracker.missing_prefixes(self.run):
            key, now = eval_key(prefix[-1]), self.deps.now().timestamp()
            if key not in self.fits:
                self.fits[key] = self.pool.submit(forecast_prefix, self.run, prefix, now)
        for dataset, prefix in self.tracker.missing_sources().items():
            if dataset not in self.source_fits:
                now = self.deps.now().timestamp()
                self.source_fits[dataset] = self.pool.submit(forecast_prefix, self.run, prefix, now)

    def decide(self) -> Start | Terminate | Kill | Wait | Done:
        """Return the next action; its status is stored."""
        now = self.deps.now()
        assessment = self.tracker.assessment or Assessment()
        plan = plan_run(self.run, self._observed_state(), assessment, now, self.deps.limits)
        for each in list_events(self.run.status, plan.status):
            if each.reason in ("StopRecommended", "Unhealthy"):  # the display itself shows everything else
                self.display.event(each.message)
        self.run = self.run.model_copy(update={"status": plan.status})
        if _worth_writing(plan.status) != self.written:
            records.save_status(self.folder, self.run)
            self.written = _worth_writing(plan.status)
        self.display.update(ProgressView(self.run, self.tracker.progress, self.tracker.evals, self.tracker.missed))
        return plan.action

    def act(self, action: Start | Terminate | Kill | Wait) -> float:
        """Carry out `action`; return the seconds until the next observation."""
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
        grace = self.run.spec.deadlines.stop_seconds + self.deps.limits.exit_seconds
        self.tracker.begin_attempt(number)
        extra = {ENV_ACCEPT_DATA: ACCEPT_DATA} if self.deps.accept_new_data else {}
        self.coordinator = CoordinatorProcess(
            self.folder, number, self.deps.command, grace_seconds=grace, inherit=self.deps.inherit, extra=extra
        )
        self.display.event(f"attempt {number} started" + (", from the newest checkpoint" if number > 1 else ""))

    def _note_stop(self, cause: StopCause, message: str) -> None:
        attempt = self.attempts[-1]
        if attempt.stop_cause is None:
            request = {"stop_cause": cause, "stop_message": message, "stop_time": self.deps.now()}
            self._write_attempt(attempt.model_copy(update=request))

    def _write_attempt(self, attempt: AttemptStatus, termination: Termination | None = None) -> None:
        """Replace or add an attempt, on disk first."""
        records.append_attempt(self.folder, attempt, termination)
        others = tuple(each for each in self.attempts if each.number != attempt.number)
        self.attempts = (*others, attempt)

    def close(self) -> None:
        """End all processes, also after an error."""
        if self.coordinator is not None:
            self.coordinator.kill()
            self._note_end(self.coordinator.poll() or 0)


def _saved_step(source: Progress | Termination | None) -> int | None:
    return source.checkpoint.step if source is not None and source.checkpoint is not None else None


def _worth_writing(status: RLRunStatus) -> RLRunStatus:
    """The status without the numbers that change at every observation."""
    progress = status.progress
    if progress is not None:
        progress = progress.model_copy(update={"eta_seconds": None, "compute_gpu_hours": 0.0, "mismatch": None})
    return status.model_copy(update={"progress": progress, "cost": None})
