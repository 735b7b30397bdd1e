"""The forecasts that a run was given, one per evaluation. PURE."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scalerl_api.wire import EvalPoint
from scalerl_operator.run.evals import EvalKey, eval_key, held_out, surviving


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
