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
from scalerl_operator.forecast.fit import fit_forecast
from scalerl_operator.forecast.points import FitError, Points, binomial_standard_error, points
from scalerl_operator.forecast.result import Forecast, from_json, to_json
from scalerl_operator.forecast.rivals import Rival

__all__ = [
    "FitError",
    "Forecast",
    "Points",
    "Rival",
    "arrival",
    "binomial_standard_error",
    "ceiling_interval",
    "curve_band",
    "fit_forecast",
    "from_json",
    "gain_between",
    "marginal_gain",
    "point_band",
    "points",
    "shape_interval",
    "to_json",
]
