"""A forecast as a few numbers that a dashboard can draw: the curve now, and on a small grid up to the end. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalerl_api.evaluations import surviving
from scalerl_api.wire import EvalPoint
from scalerl_operator.decide.assessment import scatter_of
from scalerl_operator.forecast import FitError, Forecast, point_band
from scalerl_operator.run.forecast_log import ForecastLine

GRID_POINTS = 12  # 48 series a run; denser at the start, where the curve bends


@dataclass(frozen=True)
class Band:
    """The fitted curve and the 90 % band of a measurement, at one compute."""

    gpu_hours: float
    middle: float
    low: float
    high: float


@dataclass(frozen=True)
class CurveSamples:
    """Where a run's curve lies."""

    now: Band
    """At the last evaluation, so that it can be laid over what was measured there."""
    grid: tuple[Band, ...]
    """From 0 to the end of the budget; only up to the last evaluation where the forecast is refused."""
    budget_gpu_hours: float | None
    """Compute at which the run will end, if that is known."""


def sample_curve(line: ForecastLine, evals: Sequence[EvalPoint]) -> CurveSamples | None:
    """Return where the curve of `line` lies; None where it has none, or no evaluation is known.

    Args:
        line: the newest forecast.
        evals: of the run, in order.
    """
    measured = surviving(evals)
    found = line.forecast
    if not measured or not found.draws:
        return None
    last = measured[-1]
    end = last.compute_gpu_hours
    if found.verdict != "NotIdentified":
        end = max(end, line.budget_gpu_hours or 0.0)
    at = [last.compute_gpu_hours, *(end * np.linspace(0.0, 1.0, GRID_POINTS) ** 2).tolist()]
    try:
        bands = _bands(found, at, scatter_of(last))
    except FitError:
        return None
    return CurveSamples(bands[0], bands[1:], line.budget_gpu_hours)


def _bands(found: Forecast, at: Sequence[float], scatter: float) -> tuple[Band, ...]:
    middle, low, high = point_band(found, list(at), scatter)
    return tuple(Band(*map(float, each)) for each in zip(at, middle, low, high, strict=True))
