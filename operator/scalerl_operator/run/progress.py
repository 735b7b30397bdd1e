"""A run's progress: compute, budget, time left. PURE."""

from collections.abc import Sequence

from scalerl_api import RLRun
from scalerl_api.wire import Phase, Progress, StepRecord, Termination

RATE_STEPS = 50  # the last so many steps give the pace: the first ones compile and warm caches


def compute_unit(run: RLRun) -> str:
    """Return the unit of the run's compute: a CPU is a device as well."""
    return "GPU-h" if run.spec.trainer.gpus_per_replica else "device-h"


def budget_gpu_hours(run: RLRun, step: int, compute_gpu_hours: float) -> float | None:
    """Return the compute at which the run will end; None until a step has been measured.

    The steps' share is extrapolated at the mean cost so far; `budget.gpuHours` ends the run if it comes first.
    """
    limit = run.spec.budget.gpu_hours
    if step <= 0 or compute_gpu_hours <= 0:
        return limit
    by_steps = compute_gpu_hours * max(1.0, run.spec.budget.steps / step)
    return by_steps if limit is None else min(limit, by_steps)


def eta_seconds(run: RLRun, pace: Sequence[tuple[float, int]]) -> float | None:
    """Return the seconds left at the pace of the last steps; None until two different steps were seen.

    Args:
        pace: (Unix seconds, step), oldest first, of one attempt.
    """
    recent = [each for each in pace if each[1] > (pace[-1][1] - RATE_STEPS)] if pace else []
    if len(recent) < 2 or recent[-1][1] <= recent[0][1]:
        return None
    (begin, first), (end, last) = recent[0], recent[-1]
    return max(0.0, run.spec.budget.steps - last) * (end - begin) / (last - first)


def last_mismatch(progress: Progress) -> float | None:
    """Return the last mean difference of log-probability at lag 0 (nats): a step's, else the self-check's."""
    by_steps = [each.mismatch for each in progress.vitals if each.mismatch is not None]
    if by_steps:
        return by_steps[-1]
    return progress.self_check.mean if progress.self_check is not None else None


def close_progress(
    run: RLRun, attempt: int, last: Progress | None, termination: Termination | None, steps: Sequence[StepRecord]
) -> Progress | None:
    """Return the progress of an ended attempt: the last answer, corrected by the coordinator's files.

    None if it neither answered nor left a step.
    """
    newest = steps[-1] if steps else None
    if last is None and newest is None:
        return None
    ended = termination is not None and termination.reason in ("Finished", "AllPromptsSolved")
    phase: Phase = "finished" if ended else "stopping"
    step = max(termination.step if termination is not None else 0, newest.step if newest is not None else 0)
    if last is None and newest is not None:
        return Progress(
            run=run.name,
            attempt=attempt,
            phase=phase,
            step=step,
            version=step,
            compute_gpu_hours=newest.compute_gpu_hours,
            latest=newest,
            time=newest.time,
        )
    update: dict[str, object] = {"phase": phase, "detail": "", "evals": []}
    if termination is not None and termination.checkpoint is not None:
        update["checkpoint"] = termination.checkpoint
    if last is not None and newest is not None and step >= last.step:
        update |= {"step": step, "compute_gpu_hours": newest.compute_gpu_hours, "latest": newest}
    return last.model_copy(update=update) if last is not None else None
