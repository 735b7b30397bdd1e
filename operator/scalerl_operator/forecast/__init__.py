"""The forecast of a run: points in, ceiling with interval and verdict out. numpy and scipy only. PURE."""

from scalerl_operator.forecast.band import (
    arrival,
    ceiling_interval,
    curve_band,
    gain_between,
    marginal_gain,
    point_band,
    shape_interval,
)
from scalerl_operator.forecast.compare import Comparison, compare, estimate_margin, linearised, margin_of
from scalerl_operator.forecast.entropy import EntropyForecast, forecast_entropy
from scalerl_operator.forecast.fit import BurnInFit, fit_forecast, try_burn_ins
from scalerl_operator.forecast.pilot import Share, expected_width, identified_at, split_budget, stop_point
from scalerl_operator.forecast.points import FitError, Points, binomial_standard_error, points
from scalerl_operator.forecast.result import Forecast, from_json, to_json
from scalerl_operator.forecast.rivals import Rival

__all__ = [
    "BurnInFit",
    "Comparison",
    "EntropyForecast",
    "FitError",
    "Forecast",
    "Points",
    "Rival",
    "Share",
    "arrival",
    "binomial_standard_error",
    "ceiling_interval",
    "compare",
    "curve_band",
    "estimate_margin",
    "expected_width",
    "fit_forecast",
    "forecast_entropy",
    "from_json",
    "gain_between",
    "identified_at",
    "linearised",
    "margin_of",
    "marginal_gain",
    "point_band",
    "points",
    "shape_interval",
    "split_budget",
    "stop_point",
    "to_json",
    "try_burn_ins",
]
