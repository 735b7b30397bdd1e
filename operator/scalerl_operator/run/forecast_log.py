"""The forecasts of a run, one per evaluation, and their lines in forecasts.jsonl. PURE.

A forecast is an object in memory and becomes JSON only where it is stored: its draws make 23 KB of text.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from scalerl_api.evaluations import surviving
from scalerl_api.wire import HELD_OUT, EvalPoint
from scalerl_operator.forecast import FitError, Forecast, from_json, to_json
from scalerl_operator.run.evals import EvalKey, eval_key


@dataclass(frozen=True)
class ForecastLine:
    """A forecast, the evaluation that it follows and when it was made: a line of forecasts.jsonl."""

    time: float
    """Unix seconds."""
    step: int
    """Of the newest evaluation in the fit."""
    compute_gpu_hours: float
    """Of that evaluation."""
    budget_gpu_hours: float | None
    """Compute at which the run will end, as estimated at that time."""
    forecast: Forecast
    attempt: int | None = None
    """The attempt that measured the evaluation; None in lines of older versions."""

    def to_line(self) -> str:
        """Return one line of JSON, without its end."""
        head = {
            "time": self.time,
            "step": self.step,
            "computeGpuHours": self.compute_gpu_hours,
            "budgetGpuHours": self.budget_gpu_hours,
            "attempt": self.attempt,
        }
        return json.dumps({**head, "forecast": to_json(self.forecast)})

    def without_draws(self) -> "ForecastLine":
        """Return the line without the forecast's draws: 2 KB in place of 100, enough for a status and stop policies."""
        rivals = tuple(replace(rival, draws=()) for rival in self.forecast.rivals)
        return replace(self, forecast=replace(self.forecast, draws=(), rivals=rivals))


def parse_forecasts(lines: Iterable[str]) -> list[ForecastLine]:
    """Return the readable forecasts in order of steps; of two lines for one evaluation the later wins.

    A line that was cut by a crash, or whose forecast has the fields of another version, is left out.
    """
    kept: dict[tuple[int, int, float], ForecastLine] = {}
    for line in lines:
        try:
            data = json.loads(line)
            found = ForecastLine(
                time=float(data["time"]),
                step=int(data["step"]),
                compute_gpu_hours=float(data["computeGpuHours"]),
                budget_gpu_hours=data["budgetGpuHours"],
                forecast=from_json(data["forecast"]),
                attempt=int(data["attempt"]) if data.get("attempt") is not None else None,
            )
        except (ValueError, KeyError, TypeError, FitError):
            continue
        kept[found.step, found.attempt or 0, found.compute_gpu_hours] = found
    return [kept[key] for key in sorted(kept)]


def match_forecasts(
    forecasts: Iterable[ForecastLine], evals: Iterable[EvalPoint], dataset: str = HELD_OUT
) -> dict[EvalKey, ForecastLine]:
    """Return the forecasts that were made after points of `evals`, by `eval_key`; both are of one test set.

    Where a line says no attempt, the point's compute tells which of them it is.
    """
    points = [point for point in evals if point.dataset == dataset]
    attempts = {(point.step, point.compute_gpu_hours): point.attempt for point in points}
    known = {eval_key(point) for point in points}
    found: dict[EvalKey, ForecastLine] = {}
    for line in forecasts:
        attempt = line.attempt if line.attempt is not None else attempts.get((line.step, line.compute_gpu_hours))
        if attempt is not None and (line.step, attempt) in known:
            found[line.step, attempt] = line
    return found


def living_forecasts(
    forecasts: Sequence[ForecastLine], evals: Sequence[EvalPoint], dataset: str = HELD_OUT
) -> list[ForecastLine]:
    """Return the forecasts of the weights that went on, the newest last; all where none is of a known point."""
    keys = [eval_key(point) for point in surviving(evals, dataset)]
    made = match_forecasts(forecasts, evals, dataset)
    return [made[key] for key in keys if key in made] or list(forecasts)


def find_halfway(forecasts: Sequence[ForecastLine], final_gpu_hours: float) -> ForecastLine | None:
    """Return the last forecast that had seen at most half of the compute; None if there is none."""
    half = final_gpu_hours / 2 * (1 + 1e-9)
    early = [each for each in forecasts if each.compute_gpu_hours <= half]
    return max(early, key=lambda each: each.compute_gpu_hours, default=None)
