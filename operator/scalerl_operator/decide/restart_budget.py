"""Which ends of attempts spend the restart budget. PURE."""

from scalerl_api.status import AttemptStatus, StopCause
from scalerl_api.wire import EXIT_FINISHED, EXIT_RETRY, EXIT_UNFIT
from scalerl_operator.run.observed import ObservedState

# These ends count as the run's own failure, whoever requested them.
BLAMED: tuple[StopCause, ...] = ("Stuck", "WatchdogRestart", "WatchdogStop")

# No failure of anything: each is followed by a new attempt at once.
UNCOUNTED: tuple[StopCause, ...] = ("Suspended", "GangIncomplete")


def count_failures(observed: ObservedState, *, every_steps: int = 1) -> tuple[int, int]:
    """Return (failures that cost a restart, retries that cost none) since the last attempt with a new checkpoint.

    That attempt's own failure counts: its checkpoint restores the budget, and its end spends one of it. An attempt that
    the watchdog ended has saved at its end, so its checkpoint restores the budget only if it is `every_steps` further.
    Otherwise a run that makes one step and stalls would be started for ever.
    """
    before = (a.checkpoint_step or 0 for a in observed.attempts if a.number < observed.first_attempt)
    known = max(before, default=observed.earlier.checkpoint_step or 0)
    spent, retries = observed.earlier.failures, observed.earlier.retries
    for attempt in observed.current:
        if not attempt.over:
            continue
        reached = attempt.checkpoint_step or 0
        if reached >= known + (every_steps if attempt.stop_cause == "WatchdogRestart" else 1):
            spent, retries = 0, 0
        known = max(known, reached)
        if attempt.stop_cause in UNCOUNTED:
            continue
        if is_free(attempt):
            retries += 1
        else:
            spent += 1
    return spent, retries


def is_free(attempt: AttemptStatus) -> bool:
    """Whether its end costs no restart: by a rule, by a cause outside the run, or by the exit code for a retry."""
    if attempt.ruled is not None:
        return attempt.ruled == "Ignore"
    if attempt.infrastructure or attempt.stop_cause == "PendingDeadline":
        return True
    return attempt.stop_cause not in BLAMED and attempt.exit_code in (EXIT_RETRY, EXIT_UNFIT, EXIT_FINISHED)
