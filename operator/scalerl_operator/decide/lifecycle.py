"""The decision: what to do with a run's coordinator now, and what its status says. PURE.

Level-triggered: the same run, snapshots and time give the same plan, so deciding twice or after a crash is harmless.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from scalerl_api import RLRun, RLRunStatus
from scalerl_api.status import AttemptStatus, StopCause
from scalerl_api.wire import EXIT_FINISHED, EXIT_INVALID, EXIT_NON_FINITE
from scalerl_operator.decide.restart_budget import count_failures, is_free
from scalerl_operator.decide.status import Standing, build_status
from scalerl_operator.decide.watchdog import add_alarms
from scalerl_operator.run.attempts import active_seconds, describe_exit
from scalerl_operator.run.conditions import Outcome
from scalerl_operator.run.observed import Assessment, ObservedState

# Who is asked to end for these has nothing to save, or cannot: short patience.
HOPELESS: tuple[StopCause, ...] = ("Stuck", "PendingDeadline")


@dataclass(frozen=True)
class Limits:
    """How patient the operator is; the spec's own deadlines come on top."""

    retries: int = 10
    """Tries in a row that may cost no restart and bring no new checkpoint; with the default backoff, 50 minutes."""
    exit_seconds: float = 30.0
    """From the last checkpoint to the coordinator's exit, once it was asked to end."""
    silence_seconds: float = 600.0
    """Longest time without an answer from a coordinator that has answered before."""


@dataclass(frozen=True)
class Start:
    """Start the coordinator; it goes on from the newest checkpoint."""

    attempt: int


@dataclass(frozen=True)
class Terminate:
    """Ask the coordinator to checkpoint and end (SIGTERM)."""

    cause: StopCause
    message: str = ""
    """What was seen, for a person; empty where the cause says it all."""


@dataclass(frozen=True)
class Kill:
    """End the coordinator and all its processes at once."""

    cause: StopCause


@dataclass(frozen=True)
class Wait:
    """Nothing to do; look again, at `until` at the latest if it is given."""

    until: datetime | None = None


@dataclass(frozen=True)
class Done:
    """The run needs nothing more from this invocation."""

    outcome: Outcome
    message: str


Action = Start | Terminate | Kill | Wait | Done


@dataclass(frozen=True)
class RunPlan:
    """What to do, and what to write down."""

    action: Action
    status: RLRunStatus


def plan_run(
    run: RLRun, seen: ObservedState, judged: Assessment, now: datetime, limits: Limits | None = None
) -> RunPlan:
    """Return the next action and the status that goes with it; `run.status` is the one written last."""
    judged = add_alarms(judged, run, seen)
    action = decide(run, seen, judged, now, limits or Limits())
    return RunPlan(action, build_status(run, seen, judged, describe_standing(action, seen), now))


def decide(run: RLRun, seen: ObservedState, judged: Assessment, now: datetime, limits: Limits) -> Action:
    """Return the next action alone; `judged` has the alarms of `seen`."""
    if seen.running is not None:
        return _while_running(run, seen, judged, now, limits)
    if seen.current:
        return _after_exit(run, seen, judged, now, limits)
    return _before_start(run, seen, judged, now)


def _before_start(run: RLRun, seen: ObservedState, judged: Assessment, now: datetime) -> Action:
    """A run that was over stays over, unless the spec has been changed so that it is not."""
    if seen.attempts:
        last = seen.attempts[-1]
        if last.said == "Finished" and _is_budget_spent(run, seen):
            return Done("Finished", f"budget spent at step {last.step}")
    ending = _ending(run, seen, judged, now)
    if ending is not None:
        return ending
    return Start(seen.attempts[-1].number + 1 if seen.attempts else 1)


def _is_budget_spent(run: RLRun, seen: ObservedState) -> bool:
    """Whether the run is as long as the spec now asks: a larger budget lets a finished run go on."""
    step = seen.attempts[-1].step
    compute = max((point.compute_gpu_hours for point in seen.evals), default=0.0)
    limit = run.spec.budget.gpu_hours
    return step >= run.spec.budget.steps or (limit is not None and compute >= limit)


def _while_running(run: RLRun, seen: ObservedState, judged: Assessment, now: datetime, limits: Limits) -> Action:
    attempt = seen.attempts[-1]
    if attempt.stop_time is not None and attempt.stop_cause is not None:
        patience = limits.exit_seconds
        can_save = seen.members_serve if attempt.stop_cause == "GangBroken" else attempt.stop_cause not in HOPELESS
        if can_save:
            patience += run.spec.deadlines.checkpoint_seconds
        until = attempt.stop_time + timedelta(seconds=patience)
        return Kill(attempt.stop_cause) if seen.interrupts > 1 or now >= until else Wait(until)
    if seen.interrupts:
        return Kill("Interrupted") if seen.interrupts > 1 else Terminate("Interrupted")
    if judged.stop is not None and judged.stop.mode == "Enforce":
        return Terminate("StoppedByPolicy")
    if run.spec.suspend:
        return Terminate("Suspended")
    if _is_overdue(run, seen, now):
        return Terminate("DeadlineExceeded")
    return Terminate("Stuck") if _is_stuck(run, seen, attempt, now, limits) else _heed_watchdog(judged)


def _heed_watchdog(judged: Assessment) -> Terminate | Wait:
    """What the gravest broken rule asks for. The coordinator answers, so it can save."""
    for alarm in judged.alarms:
        if alarm.action != "Warn":
            cause: StopCause = "WatchdogStop" if alarm.action == "Stop" else "WatchdogRestart"
            return Terminate(cause, f"{alarm.rule}: {alarm.message}")
    return Wait()


def _is_stuck(run: RLRun, seen: ObservedState, attempt: AttemptStatus, now: datetime, limits: Limits) -> bool:
    """Whether the coordinator has not answered for too long. A few missed polls are nothing."""
    if seen.heard is None:
        started = attempt.started or now
        return now - max(started, seen.watched or started) > timedelta(seconds=run.spec.deadlines.start_seconds)
    return now - seen.heard > timedelta(seconds=limits.silence_seconds)


def _is_overdue(run: RLRun, seen: ObservedState, now: datetime) -> bool:
    """Whether `deadlines.activeSeconds` is used up. Time between attempts does not count."""
    limit = run.spec.deadlines.active_seconds
    if limit is None:
        return False
    return seen.earlier.active_seconds + active_seconds(seen.attempts, now) >= limit


def _ending(run: RLRun, seen: ObservedState, judged: Assessment, now: datetime) -> Done | None:
    """What forbids a start, whatever the last attempt said."""
    if seen.interrupts:
        return Done("Interrupted", "ended on request; --resume goes on from the checkpoint")
    if judged.stop is not None and judged.stop.mode == "Enforce":
        return Done("StoppedByPolicy", f"policy {judged.stop.policy}: {judged.stop.reason}")
    if _is_overdue(run, seen, now):
        return Done("DeadlineExceeded", f"active for longer than {run.spec.deadlines.active_seconds} s")
    if run.spec.suspend:
        return Done("Suspended", "spec.suspend is true; false goes on from the checkpoint")
    return None


def _after_exit(run: RLRun, seen: ObservedState, judged: Assessment, now: datetime, limits: Limits) -> Action:
    last = seen.attempts[-1]
    error = last.error if last.said is not None else ""
    unasked = last.said is None and last.stop_cause is None and not last.infrastructure
    if last.exit_code == EXIT_FINISHED and (last.said == "Finished" or unasked):
        step = last.step if last.said is not None else run.spec.budget.steps
        return Done("Finished", f"budget spent at step {step}")
    ending = _verdict(run, last, error) or _ending(run, seen, judged, now)
    if ending is not None:
        return ending
    if last.stop_cause == "StoppedByPolicy":  # asked, and the policy no longer holds: what was asked is done
        return Done("StoppedByPolicy", "stopped by a policy")
    return _again(run, seen, now, limits)


def _verdict(run: RLRun, last: AttemptStatus, error: str) -> Done | None:
    """How the last attempt's end ended the run for good."""
    if last.exit_code == EXIT_INVALID:
        return Done("Invalid", error or "the runtime refused the spec")
    if last.ruled == "FailRun":
        return Done("FailedByRule", describe_exit(last))
    if last.stop_cause == "WatchdogStop":
        return Done("StoppedByWatchdog", last.stop_message)
    if last.exit_code == EXIT_NON_FINITE and run.spec.watchdog.non_finite.action == "Stop":
        return Done("StoppedByWatchdog", error or "loss or gradient was no number")
    return None


def _again(run: RLRun, seen: ObservedState, now: datetime, limits: Limits) -> Action:
    """Start again, later or never, by what the attempts since the last new checkpoint have cost."""
    last, policy = seen.attempts[-1], run.spec.failure_policy
    if last.stop_cause == "Suspended":
        return Start(last.number + 1)
    spent, retries = count_failures(seen, every_steps=run.spec.checkpoint.every_steps)
    why = describe_exit(last)
    if spent > policy.max_restarts:
        allowed = policy.max_restarts
        return Done(
            "RestartsExhausted", f"{why}; {spent} failures without a new checkpoint, {allowed} restarts allowed"
        )
    if retries > limits.retries:
        return Done("RetriesExhausted", f"{why}; {retries} tries without a new checkpoint, {limits.retries} allowed")
    # A first fault is often a passing one, so it is not waited on; a fault of the surroundings needs time to pass.
    doublings = retries - 1 if is_free(last) else spent - 2
    delay = min(policy.backoff_max_seconds, policy.backoff_seconds * 2.0**doublings) if doublings >= 0 else 0.0
    ended = last.ended or now
    due = ended + timedelta(seconds=delay)
    return Start(last.number + 1) if now >= due else Wait(due)


def describe_standing(action: Action, seen: ObservedState) -> Standing:
    """Return (reason, message) of the run's standing: the one word that its conditions are built from."""
    running = seen.running
    match action:
        case Done(outcome, message):
            return outcome, message
        case Terminate(cause, message):
            return "Stopping", _describe_asked(cause, message)
        case Kill(cause):
            return "Stopping", _describe_asked(cause, running.stop_message if running is not None else "")
        case Start(number) if number > 1:
            return "Restarting", f"attempt {number}, from the newest checkpoint"
        case Wait(until) if running is None and until is not None:
            return "BackingOff", f"{describe_exit(seen.attempts[-1])}; next try at {until:%H:%M:%S}"
        case Wait() if running is not None and running.stop_cause is not None:
            return "Stopping", _describe_asked(running.stop_cause, running.stop_message)
    return "Running", ""


def _describe_asked(cause: StopCause, message: str) -> str:
    return f"asked to end: {cause}" + (f" ({message})" if message else "")
