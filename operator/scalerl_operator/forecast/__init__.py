"""The forecast of a run: points in, ceiling with interval and verdict out. numpy and scipy only. PURE."""

from scalerl_operator.forecast.fit import fit_forecast
from scalerl_operator.forecast.points import FitError, Points, binomial_standard_error, points
from scalerl_operator.forecast.result import Forecast, curve_band, from_json, to_json
from scalerl_operator.forecast.rivals import Rival

__all__ = [
    "FitError",
    "Forecast",
    "Points",
    "Rival",
    "binomial_standard_error",
    "curve_band",
    "fit_forecast",
    "from_json",
    "points",
    "to_json",
]
