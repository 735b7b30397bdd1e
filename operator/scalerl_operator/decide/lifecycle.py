"""The decision: the next action for a run's coordinator, and the run's status. PURE.

Level-triggered: the same run, observed state and time give the same plan. A second decision, or one after a crash, is
harmless.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from scalerl_api import RLRun, RLRunStatus
from scalerl_api.status import AttemptStatus, StopCause
from scalerl_api.validation import shorten
from scalerl_api.wire import ANNOTATION_ACCEPT_DATA, EXIT_FINISHED, EXIT_INVALID, EXIT_NON_FINITE
from scalerl_operator.decide.restart_budget import UNCOUNTED, count_failures, is_free
from scalerl_operator.decide.status import Standing, build_status
from scalerl_operator.decide.watchdog import add_alarms
from scalerl_operator.run.attempts import active_seconds, describe_exit
from scalerl_operator.run.conditions import Outcome
from scalerl_operator.run.observed import Assessment, ObservedState

DIGEST_LENGTH = 64  # shown of an annotation's value

# Causes for which no checkpoint can be saved: the grace period is `exit_seconds` alone.
HOPELESS: tuple[StopCause, ...] = ("Stuck", "PendingDeadline", "GangIncomplete")


@dataclass(frozen=True)
class Limits:
    """Limits of the operator; the spec's own deadlines come on top."""

    retries: int = 10
    """Attempts in a row that may cost no restart and leave no new checkpoint; with the default backoff, 50 minutes."""
    exit_seconds: float = 30.0
    """From the last checkpoint to the coordinator's exit, after SIGTERM."""
    silence_seconds: float = 600.0
    """Longest time without an answer from a coordinator that has answered before."""


@dataclass(frozen=True)
class Start:
    """Start the coordinator; it resumes from the newest checkpoint."""

    attempt: int


@dataclass(frozen=True)
class Terminate:
    """Send SIGTERM to the coordinator: it saves a checkpoint and exits."""

    cause: StopCause
    message: str = ""
    """The numbers behind the cause, for a person; empty where the cause suffices."""


@dataclass(frozen=True)
class Kill:
    """End the coordinator and all its processes at once."""

    cause: StopCause


@dataclass(frozen=True)
class Wait:
    """Nothing to do; decide again, at `until` at the latest if it is given."""

    until: datetime | None = None


@dataclass(frozen=True)
class Done:
    """The run needs nothing more from this invocation."""

    outcome: Outcome
    message: str


Action = Start | Terminate | Kill | Wait | Done


@dataclass(frozen=True)
class RunPlan:
    """The next action, and the status to store."""

    action: Action
    status: RLRunStatus


def plan_run(
    run: RLRun, observed: ObservedState, assessment: Assessment, now: datetime, limits: Limits | None = None
) -> RunPlan:
    """Return the next action and the status that goes with it; `run.status` is the one written last."""
    assessment = add_alarms(assessment, run, observed)
    action = decide(run, observed, assessment, now, limits or Limits())
    return RunPlan(action, build_status(run, observed, assessment, describe_standing(action, observed), now))


def decide(run: RLRun, observed: ObservedState, assessment: Assessment, now: datetime, limits: Limits) -> Action:
    """Return the next action alone; `assessment` includes the alarms of `observed`."""
    if observed.running is not None:
        return _while_running(run, observed, assessment, now, limits)
    if observed.current:
        return _after_exit(run, observed, assessment, now, limits)
    return _before_start(run, observed, assessment, now)


def _before_start(run: RLRun, observed: ObservedState, assessment: Assessment, now: datetime) -> Action:
    """A run that was over stays over, unless a change of the spec lets it resume."""
    if observed.attempts:
        last = observed.attempts[-1]
        if last.said == "AllPromptsSolved":
            return _describe_solved(last.step)
        if last.said == "Finished" and _is_budget_spent(run, observed):
            return Done("Finished", f"budget spent at step {last.step}")
    ending = _ending(run, observed, assessment, now)
    if ending is not None:
        return ending
    return Start(observed.attempts[-1].number + 1 if observed.attempts else 1)


def _is_budget_spent(run: RLRun, observed: ObservedState) -> bool:
    """Whether the run has reached the spec's present budget: a larger one lets a finished run resume."""
    step = observed.attempts[-1].step
    compute = max((point.compute_gpu_hours for point in observed.evals), default=0.0)
    limit = run.spec.budget.gpu_hours
    return step >= run.spec.budget.steps or (limit is not None and compute >= limit)


def _while_running(
    run: RLRun, observed: ObservedState, assessment: Assessment, now: datetime, limits: Limits
) -> Action:
    attempt = observed.attempts[-1]
    if attempt.stop_time is not None and attempt.stop_cause is not None:
        patience = limits.exit_seconds + _saving_seconds(run, observed, attempt)
        until = attempt.stop_time + timedelta(seconds=patience)
        return Kill(attempt.stop_cause) if observed.interrupts > 1 or now >= until else Wait(until)
    if observed.interrupts:
        return Kill("Interrupted") if observed.interrupts > 1 else Terminate("Interrupted")
    if assessment.stop is not None and assessment.stop.mode == "Enforce":
        return Terminate("StoppedByPolicy")
    if run.spec.suspend:
        return Terminate("Suspended")
    if _is_overdue(run, observed, now):
        return Terminate("DeadlineExceeded")
    return Terminate("Stuck") if _is_stuck(run, observed, attempt, now, limits) else _obey_watchdog(assessment)


def _saving_seconds(run: RLRun, observed: ObservedState, attempt: AttemptStatus) -> int:
    """Return how long an attempt that is to end may save, counted from the request."""
    can_save = observed.members_serve if attempt.stop_cause == "GangBroken" else attempt.stop_cause not in HOPELESS
    if not can_save:
        return 0
    # Without all members the models of the last checkpoint can still be written.
    return run.spec.deadlines.checkpoint_seconds if observed.member_ended else run.spec.deadlines.stop_seconds


def _obey_watchdog(assessment: Assessment) -> Terminate | Wait:
    """Return the action of the most severe violated rule. The coordinator answers, so it can save."""
    for alarm in assessment.alarms:
        if alarm.action != "Warn":
            cause: StopCause = "WatchdogStop" if alarm.action == "Stop" else "WatchdogRestart"
            return Terminate(cause, f"{alarm.rule}: {alarm.message}")
    return Wait()


def _is_stuck(run: RLRun, observed: ObservedState, attempt: AttemptStatus, now: datetime, limits: Limits) -> bool:
    """Whether the coordinator has not answered for too long. A few missed polls are tolerated."""
    if observed.answered is None:
        started = attempt.started or now
        return now - max(started, observed.watched or started) > timedelta(seconds=run.spec.deadlines.start_seconds)
    return now - observed.answered > timedelta(seconds=limits.silence_seconds)


def _is_overdue(run: RLRun, observed: ObservedState, now: datetime) -> bool:
    """Whether `deadlines.activeSeconds` is used up. Time between attempts does not count."""
    limit = run.spec.deadlines.active_seconds
    if limit is None:
        return False
    return observed.earlier.active_seconds + active_seconds(observed.attempts, now) >= limit


def _ending(run: RLRun, observed: ObservedState, assessment: Assessment, now: datetime) -> Done | None:
    """Return the outcome that forbids a start, regardless of how the last attempt ended."""
    if observed.interrupts:
        return Done("Interrupted", "ended on request; --resume goes on from the checkpoint")
    if assessment.stop is not None and assessment.stop.mode == "Enforce":
        return Done("StoppedByPolicy", f"policy {assessment.stop.policy}: {assessment.stop.reason}")
    if _is_overdue(run, observed, now):
        return Done("DeadlineExceeded", f"active for longer than {run.spec.deadlines.active_seconds} s")
    if run.spec.suspend:
        return Done("Suspended", "spec.suspend is true; false goes on from the checkpoint")
    return None


def _after_exit(run: RLRun, observed: ObservedState, assessment: Assessment, now: datetime, limits: Limits) -> Action:
    last = observed.attempts[-1]
    error = last.error if last.said is not None else ""
    if last.exit_code == EXIT_FINISHED and last.said == "AllPromptsSolved":
        return _describe_solved(last.step)
    is_unrequested = last.said is None and last.stop_cause is None and not last.infrastructure
    if last.exit_code == EXIT_FINISHED and (last.said == "Finished" or is_unrequested):
        step = last.step if last.said is not None else run.spec.budget.steps
        return Done("Finished", f"budget spent at step {step}")
    if observed.is_data_accepted:
        return _ending(run, observed, assessment, now) or Start(last.number + 1)
    ending = _verdict(run, last, _describe_other(observed) + error) or _ending(run, observed, assessment, now)
    if ending is not None:
        return ending
    if last.stop_cause == "StoppedByPolicy":  # the policy no longer holds, but its request was carried out
        return Done("StoppedByPolicy", "stopped by a policy")
    return _plan_restart(run, observed, now, limits)


def _describe_other(observed: ObservedState) -> str:
    """Return that the annotation accepts other data than the last attempt has refused; empty if it does not."""
    last = observed.attempts[-1]
    if not last.refused_data or not observed.accepted_data:
        return ""
    given = shorten(observed.accepted_data, DIGEST_LENGTH)
    return f"{ANNOTATION_ACCEPT_DATA} is {given}, and the refused data is {last.refused_data}; "


def _describe_solved(step: int) -> Done:
    return Done(
        "AllPromptsSolved", f"finished at step {step}: every training prompt is solved, none is left to train on"
    )


def _verdict(run: RLRun, last: AttemptStatus, error: str) -> Done | None:
    """Return the outcome if the last attempt's end makes the run terminal."""
    if last.exit_code == EXIT_INVALID:
        return Done("InvalidSpec", error or "the runtime refused the spec")
    if last.ruled == "FailRun":
        return Done("FailedByRule", describe_exit(last))
    if last.stop_cause == "WatchdogStop":
        return Done("StoppedByWatchdog", last.stop_message)
    if last.exit_code == EXIT_NON_FINITE and run.spec.watchdog.non_finite.action == "Stop":
        return Done("StoppedByWatchdog", error or "loss or gradient was no number")
    return None


def _plan_restart(run: RLRun, observed: ObservedState, now: datetime, limits: Limits) -> Action:
    """Restart now, later or never, by the failures and retries since the last new checkpoint."""
    last, policy = observed.attempts[-1], run.spec.failure_policy
    if last.stop_cause in UNCOUNTED:
        return Start(last.number + 1)
    spent, retries = count_failures(observed, every_steps=run.spec.checkpoint.every_steps)
    why = describe_exit(last)
    if spent > policy.max_restarts:
        allowed = policy.max_restarts
        return Done(
            "RestartsExhausted", f"{why}; {spent} failures without a new checkpoint, {allowed} restarts allowed"
        )
    if retries > limits.retries:
        return Done("RetriesExhausted", f"{why}; {retries} tries without a new checkpoint, {limits.retries} allowed")
    # A first failure is often transient: no delay. A failure outside the run (node, network) needs time to pass.
    doublings = retries - 1 if is_free(last) else spent - 2
    delay = min(policy.backoff_max_seconds, policy.backoff_seconds * 2.0**doublings) if doublings >= 0 else 0.0
    ended = last.ended or now
    due = ended + timedelta(seconds=delay)
    return Start(last.number + 1) if now >= due else Wait(due)


def describe_standing(action: Action, observed: ObservedState) -> Standing:
    """Return (reason, message) of the run's standing, from which its conditions are built."""
    running = observed.running
    match action:
        case Done(outcome, message):
            return outcome, message
        case Terminate(cause, message):
            return "Stopping", _describe_asked(cause, message)
        case Kill(cause):
            return "Stopping", _describe_asked(cause, running.stop_message if running is not None else "")
        case Start(number) if number > 1:
            accepted = f", with the changed data {observed.accepted_data}" if observed.is_data_accepted else ""
            return "Restarting", f"attempt {number}, from the newest checkpoint{accepted}"
        case Wait(until) if running is None and until is not None:
            return "BackingOff", f"{describe_exit(observed.attempts[-1])}; next try at {until:%H:%M:%S}"
        case Wait() if running is not None and running.stop_cause is not None:
            return "Stopping", _describe_asked(running.stop_cause, running.stop_message)
    return "Running", ""


def _describe_asked(cause: StopCause, message: str) -> str:
    return f"asked to end: {cause}" + (f" ({message})" if message else "")
