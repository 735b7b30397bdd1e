"""The forecast of half of a run beside what the rest of it brought. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass

from scalerl_api.base import ApiModel
from scalerl_api.evaluations import surviving
from scalerl_api.wire import HELD_OUT, EvalPoint
from scalerl_operator.decide.assessment import scatter_of
from scalerl_operator.forecast import (
    FitError,
    Forecast,
    point_band,
)
from scalerl_operator.run.forecast_log import ForecastLine, find_halfway, living_forecasts


class Halfway(ApiModel):
    """The forecast as it was made at half of the compute, beside what then happened: halfway.json."""

    made_at_step: int
    made_at_gpu_hours: float
    verdict: str
    reason: str
    ceiling: float | None
    ceiling_low: float | None
    ceiling_high: float | None
    final_step: int
    final_gpu_hours: float
    measured: float
    """Pass rate of the last evaluation."""
    measured_error: float
    """Its standard error by chance of sampling; which prompts were drawn moves forecast and measurement alike."""
    predicted: float | None
    """Of the curve at `finalGpuHours`; None where the forecaster had no curve."""
    low: float | None
    high: float | None
    """90 % band of a measurement there: the curve's band and the scatter of measurements together."""

    @property
    def error(self) -> float | None:
        """Predicted less measured."""
        return None if self.predicted is None else self.predicted - self.measured

    @property
    def inside(self) -> bool | None:
        """Whether the measurement lies in its band."""
        if self.low is None or self.high is None:
            return None
        return self.low <= self.measured <= self.high


@dataclass(frozen=True)
class HalfwayCurve:
    """The curve that the report draws."""

    summary: Halfway
    forecast: Forecast


def compare_halfway(
    forecasts: Sequence[ForecastLine], evals: Sequence[EvalPoint], dataset: str = HELD_OUT
) -> HalfwayCurve | None:
    """Return the half-way forecast beside the last evaluation; None without a forecast from the first half.

    The forecasts are of the test set `dataset`.
    A run that was measured before its first step only has no half.
    """
    measured = surviving(evals, dataset)
    if not measured or measured[-1].compute_gpu_hours <= 0.0:
        return None
    last = measured[-1]
    line = find_halfway(living_forecasts(forecasts, evals, dataset), last.compute_gpu_hours)
    if line is None:
        return None
    found = line.forecast
    predicted, low, high = predict(found, last)
    summary = Halfway(
        made_at_step=line.step,
        made_at_gpu_hours=line.compute_gpu_hours,
        verdict=found.verdict,
        reason=found.reason,
        ceiling=found.ceiling,
        ceiling_low=found.ceiling_low,
        ceiling_high=found.ceiling_high,
        final_step=last.step,
        final_gpu_hours=last.compute_gpu_hours,
        measured=last.pass_rate,
        measured_error=scatter_of(last),
        predicted=predicted,
        low=low,
        high=high,
    )
    return HalfwayCurve(summary, found)


def predict(forecast: Forecast, point: EvalPoint) -> tuple[float | None, float | None, float | None]:
    """Return (value, low, high) that `forecast` gives a measurement like `point`, at its compute; 90 %."""
    try:
        value, low, high = point_band(forecast, [point.compute_gpu_hours], scatter_of(point))
    except FitError:
        return None, None, None
    return float(value[0]), float(low[0]), float(high[0])
