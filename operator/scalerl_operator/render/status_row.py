"""One run as a row of `scalerl status`, in the columns of `kubectl get rlruns`. PURE."""

from datetime import datetime

from scalerl_api import RLRun, RLRunStatus
from scalerl_operator.render.text import format_duration
from scalerl_operator.run.state import format_ceiling, is_over, state_word

HEADER = ("NAME", "STATE", "STEP", "PASS", "CEILING", "GPU-H", "AGE")


def shown_state(status: RLRunStatus | None, driven: bool) -> str:
    """Return the run's state: Interrupted for a run that is neither over nor `driven` by a process."""
    state = state_word(status)
    is_interrupted = not driven and not is_over(status) and state not in ("Pending", "Suspended")
    return "Interrupted" if is_interrupted else state


def status_row(run: RLRun, driven: bool, started: datetime | None, now: datetime) -> tuple[str, ...]:
    """Return the cells of `run`.

    Args:
        driven: whether a process drives it; on a cluster the operator does.
        started: start of its first attempt, or creation on a cluster.
    """
    status = run.status
    progress = status.progress if status is not None else None
    rate = progress.pass_rate if progress is not None else None
    return (
        run.name,
        shown_state(status, driven),
        f"{progress.step}/{run.spec.budget.steps}" if progress is not None else "-",
        f"{rate:.3f}" if rate is not None else "-",
        format_ceiling(status.forecast if status is not None else None),
        f"{progress.compute_gpu_hours:.4g}" if progress is not None else "-",
        format_duration((now - started).total_seconds()) if started is not None else "-",
    )
