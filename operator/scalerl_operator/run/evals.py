"""A run's records as values: reading lines, dropping doubles, rates, the half-way forecast. PURE."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from scalerl_api import RLRun
from scalerl_api.base import ApiModel
from scalerl_api.wire import HELD_OUT, EvalPoint, Phase, Progress, StepRecord, Termination

Record = TypeVar("Record", bound=ApiModel)

EvalKey = tuple[int, int]
"""(step, attempt)."""

RATE_STEPS = 50  # the last so many steps give the pace: the first ones compile and warm caches


def parse_lines(kind: type[Record], lines: Iterable[str]) -> tuple[list[Record], int]:
    """Return the records of JSON `lines` and how many lines could not be read.

    A line that was cut by a crash is such a line; the records after it are good.
    """
    records, bad = [], 0
    for line in lines:
        if not line.strip():
            continue
        try:
            records.append(kind.model_validate_json(line))
        except ValidationError:
            bad += 1
    return records, bad


def merge_evals(*histories: Iterable[EvalPoint]) -> tuple[EvalPoint, ...]:
    """Return every point once, by (dataset, step); the latest attempt wins, then the later in order.

    Sorted by step, then compute, then dataset name.
    """
    kept: dict[tuple[str, int], EvalPoint] = {}
    for history in histories:
        for point in history:
            key = (point.dataset, point.step)
            if key not in kept or point.attempt >= kept[key].attempt:
                kept[key] = point
    return tuple(sorted(kept.values(), key=lambda point: (point.step, point.compute_gpu_hours, point.dataset)))


def merge_steps(records: Iterable[StepRecord]) -> tuple[StepRecord, ...]:
    """Return every step once, in order; the latest attempt wins, for it is the one whose weights went on."""
    kept: dict[int, StepRecord] = {}
    for record in records:
        if record.step not in kept or record.attempt >= kept[record.step].attempt:
            kept[record.step] = record
    return tuple(kept[step] for step in sorted(kept))


def held_out(evals: Iterable[EvalPoint]) -> tuple[EvalPoint, ...]:
    """Return the points that are fitted."""
    return tuple(point for point in evals if point.dataset == HELD_OUT)


def eval_key(point: EvalPoint) -> EvalKey:
    """Return what tells a held-out point from the run's others: a step that was lost is measured by two attempts."""
    return point.step, point.attempt


def surviving(evals: Iterable[EvalPoint]) -> list[EvalPoint]:
    """Return the held-out points of the weights that went on: those whose compute only grows.

    After a restart the new line of weights has cost more at every step than the lost one, so a lost point of a later
    step is left out until the new line has measured that step too.
    """
    kept: list[EvalPoint] = []
    for point in held_out(evals):
        if not kept or (point.compute_gpu_hours > kept[-1].compute_gpu_hours and point.attempt >= kept[-1].attempt):
            kept.append(point)
    return kept


def next_index(evals: Sequence[EvalPoint]) -> int:
    """Return N for `/v1/progress?since=N`."""
    return max((point.index for point in evals), default=-1) + 1


def compute_unit(run: RLRun) -> str:
    """Return the unit of the run's compute: a CPU is a device as well."""
    return "GPU-h" if run.spec.trainer.gpus_per_replica else "device-h"


def budget_gpu_hours(run: RLRun, step: int, compute_gpu_hours: float) -> float | None:
    """Return the compute at which the run will end; None while no step tells what a step costs.

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


def close_progress(
    run: RLRun, attempt: int, last: Progress | None, termination: Termination | None, steps: Sequence[StepRecord]
) -> Progress | None:
    """Return the progress of an attempt that is over: the last answer, corrected by what the leader left behind.

    None if it neither answered nor left a step.
    """
    newest = steps[-1] if steps else None
    if last is None and newest is None:
        return None
    phase: Phase = "finished" if termination is not None and termination.reason == "Finished" else "stopping"
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


@dataclass(frozen=True)
class ForecastLine:
    """A forecast and the moment it was made: a line of forecasts.jsonl."""

    time: float
    """Unix seconds."""
    step: int
    """Of the newest point it had."""
    compute_gpu_hours: float
    """Of that point."""
    budget_gpu_hours: float | None
    """The run's end as it was estimated then."""
    body: str
    """The forecast, as the forecaster's own JSON."""
    attempt: int | None = None
    """That measured the point; None in lines of older versions."""

    def to_line(self) -> str:
        """Return one line of JSON, without its end."""
        head = {
            "time": self.time,
            "step": self.step,
            "computeGpuHours": self.compute_gpu_hours,
            "budgetGpuHours": self.budget_gpu_hours,
            "attempt": self.attempt,
        }
        return json.dumps(head)[:-1] + ', "forecast": ' + self.body + "}"


def parse_forecasts(lines: Iterable[str]) -> list[ForecastLine]:
    """Return the readable forecasts, one a point (the later), in order of steps."""
    kept: dict[tuple[int, int, float], ForecastLine] = {}
    for line in lines:
        try:
            data = json.loads(line)
            found = ForecastLine(
                time=float(data["time"]),
                step=int(data["step"]),
                compute_gpu_hours=float(data["computeGpuHours"]),
                budget_gpu_hours=data["budgetGpuHours"],
                body=json.dumps(data["forecast"]),
                attempt=int(data["attempt"]) if data.get("attempt") is not None else None,
            )
        except (ValueError, KeyError, TypeError):  # cut by a crash
            continue
        kept[found.step, found.attempt or 0, found.compute_gpu_hours] = found
    return [kept[key] for key in sorted(kept)]


def match_forecasts(forecasts: Iterable[ForecastLine], evals: Iterable[EvalPoint]) -> dict[EvalKey, ForecastLine]:
    """Return the forecasts that were made after held-out points of `evals`, by `eval_key`.

    Where a line says no attempt, the point's compute tells which of them it is.
    """
    points = held_out(evals)
    attempts = {(point.step, point.compute_gpu_hours): point.attempt for point in points}
    known = {eval_key(point) for point in points}
    found: dict[EvalKey, ForecastLine] = {}
    for line in forecasts:
        attempt = line.attempt if line.attempt is not None else attempts.get((line.step, line.compute_gpu_hours))
        if attempt is not None and (line.step, attempt) in known:
            found[line.step, attempt] = line
    return found


def living_forecasts(forecasts: Sequence[ForecastLine], evals: Iterable[EvalPoint]) -> list[ForecastLine]:
    """Return the forecasts of the weights that went on, the newest last; all where none is of a known point."""
    keys = [eval_key(point) for point in surviving(evals)]
    made = match_forecasts(forecasts, evals)
    return [made[key] for key in keys if key in made] or list(forecasts)


def find_halfway(forecasts: Sequence[ForecastLine], final_gpu_hours: float) -> ForecastLine | None:
    """Return the last forecast that had seen at most half of the compute; None if there is none."""
    half = final_gpu_hours / 2 * (1 + 1e-9)
    early = [each for each in forecasts if each.compute_gpu_hours <= half]
    return max(early, key=lambda each: each.compute_gpu_hours, default=None)
