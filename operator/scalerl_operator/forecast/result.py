"""The forecast as a value: its fields, its curve at any compute, its JSON. PURE."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal, cast

import numpy as np
from scipy.special import expit

from scalerl_operator.forecast.laws import log_compute
from scalerl_operator.forecast.points import Array, FitError, Numbers
from scalerl_operator.forecast.rivals import Rival

Verdict = Literal["Identified", "Weak", "NotIdentified"]
LEVELS = (0.05, 0.95)  # of the 90 % interval
Draw = tuple[float, float, float, float]
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True)
class Forecast:
    """What the points say about the run's end; compute in `unit`. A number that is not known is None."""

    verdict: Verdict
    reason: str
    """One sentence: why, and what would settle it."""
    law: str
    points: int
    """How many were used, after burn-in."""
    burn_in: float
    """Compute before which points were left out; 0 if none was."""
    unit: str
    last_compute: float | None = None
    sigma: float | None = None
    """Estimated sd of a point about the curve."""
    ceiling: float | None = None
    """Posterior mean of A."""
    ceiling_low: float | None = None
    ceiling_high: float | None = None
    """90 % interval, as all low and high below."""
    c_mid: float | None = None
    c_mid_low: float | None = None
    c_mid_high: float | None = None
    b: float | None = None
    b_low: float | None = None
    b_high: float | None = None
    r0: float | None = None
    budget: float | None = None
    predicted_at_budget: float | None = None
    """Of the curve, without the noise of an evaluation; so are low and high."""
    low: float | None = None
    high: float | None = None
    gain_left: float | None = None
    """Rise of the curve from the last point to the budget."""
    gain_left_low: float | None = None
    gain_left_high: float | None = None
    target: float | None = None
    target_compute: float | None = None
    """Median compute at which the curve reaches the target; None if in most draws it never does."""
    target_low: float | None = None
    target_high: float | None = None
    """None if 5 % of the draws or more never reach it."""
    rmse: float | None = None
    """Of the best curve, unweighted."""
    backtest_error: float | None = None
    """Of the sigmoid, as the rivals' own."""
    rivals: tuple[Rival, ...] = ()
    draws: tuple[Draw, ...] = ()
    """Equally likely (A, B, C_mid, R0): everything above but rmse, sigma and rivals can be had from them."""


def curve_band(forecast: Forecast, compute: Numbers) -> tuple[Array, Array, Array]:
    """Return the mean curve and its 90 % band at each compute, three arrays [n].

    Args:
        forecast: with draws. Raises FitError without, as after a refusal for too few points.
        compute: [n], >= 0.
    """
    if not forecast.draws:
        raise FitError(f"the forecast has no curve: {forecast.reason}")
    curves = curves_of(np.array(forecast.draws), np.asarray(compute, dtype=np.float64))
    low, high = np.quantile(curves, LEVELS, axis=0)
    return curves.mean(axis=0), low, high


def curves_of(draws: Array, compute: Array) -> Array:
    """Return the pass rates of draws [d, 4] at compute [n], [d, n]."""
    ceiling, b, c_mid, r0 = (draws[:, i, None] for i in range(4))
    curves: Array = r0 + (ceiling - r0) * expit(b * (log_compute(compute)[None, :] - np.log(c_mid)))
    return curves


def to_json(forecast: Forecast) -> dict[str, Json]:
    """Return the forecast as plain JSON values; `from_json` gives an equal forecast back."""
    plain: dict[str, Json] = {each.name: getattr(forecast, each.name) for each in fields(forecast)}
    plain["rivals"] = [
        {
            "name": rival.name,
            "parameters": dict(rival.parameters),
            "ceiling": rival.ceiling,
            "rmse": rival.rmse,
            "backtest_error": rival.backtest_error,
        }
        for rival in forecast.rivals
    ]
    plain["draws"] = [list(draw) for draw in forecast.draws]
    return plain


def from_json(data: Mapping[str, Json]) -> Forecast:
    """Return the forecast that `to_json` wrote, also after a trip through text. Raises FitError for anything else."""
    known = {each.name for each in fields(Forecast)}
    missing = [name for name in ("verdict", "reason", "rivals", "draws") if name not in data]
    unknown = sorted(set(data) - known)
    if missing or unknown:
        raise FitError(f"this is not a forecast: missing {missing}, unknown {unknown}")
    rivals, draws = cast(list[dict[str, Json]], data["rivals"]), cast(list[list[float]], data["draws"])
    scalars = cast(dict[str, float], {name: value for name, value in data.items() if name not in ("rivals", "draws")})
    plain = Forecast(**scalars)  # type: ignore[arg-type]  # our own document, checked by name above
    return replace(
        plain,
        rivals=tuple(_parse_rival(each) for each in rivals),
        draws=tuple((a, b, c, r) for a, b, c, r in draws),
    )


def _parse_rival(data: dict[str, Json]) -> Rival:
    parameters = cast(dict[str, float], data["parameters"])
    return Rival(
        name=cast(str, data["name"]),
        parameters=tuple(parameters.items()),
        ceiling=cast(float, data["ceiling"]),
        rmse=cast(float, data["rmse"]),
        backtest_error=cast(float | None, data["backtest_error"]),
    )
