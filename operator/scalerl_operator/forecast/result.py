"""The forecast as a value: its fields and its JSON. PURE."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal, cast

import numpy as np

from scalerl_operator.forecast.points import FitError, Points
from scalerl_operator.forecast.rivals import Draw, Rival

Verdict = Literal["Identified", "Weak", "NotIdentified"]
_TUPLES = ("rivals", "draws", "outliers")
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True)
class Forecast:
    """The forecast of a run; compute in `unit`. A number that is not known is None."""

    verdict: Verdict
    reason: str
    """One sentence: why, and what would settle it."""
    law: str
    """The one that leads: the sigmoid, unless a rival is twice as likely. Ceiling, curve, gain, target: its medians."""
    points: int
    """How many were used, after burn-in."""
    burn_in: float
    """Compute before which points were left out; 0 if none was."""
    unit: str
    last_compute: float | None = None
    outliers: tuple[float, ...] = ()
    """Compute of single evaluations that were set aside, far from all of their neighbours."""
    sigma: float | None = None
    """Estimated sd of a point about the curve."""
    correlation: float | None = None
    """Of neighbouring points' errors, estimated."""
    drift: float | None = None
    """Sd by which a run leaves its law per doubling of compute past the last point; in the band, not in the ceiling."""
    weight: float | None = None
    """Of the sigmoid among the laws."""
    ceiling: float | None = None
    """Of `law`."""
    ceiling_low: float | None = None
    ceiling_high: float | None = None
    """90 % interval over the laws by their weights, as all low and high below but those of C_mid and B."""
    c_mid: float | None = None
    """Of the sigmoid, as are B and R0; geometric means."""
    c_mid_low: float | None = None
    c_mid_high: float | None = None
    b: float | None = None
    b_low: float | None = None
    b_high: float | None = None
    r0: float | None = None
    budget: float | None = None
    predicted_at_budget: float | None = None
    """Of the curve, without the noise of an evaluation."""
    low: float | None = None
    high: float | None = None
    """Of the run's pass rate: with the drift, without the noise of an evaluation."""
    gain_left: float | None = None
    """Rise of the curve from the last point to the budget; low and high with the drift."""
    gain_left_low: float | None = None
    gain_left_high: float | None = None
    marginal_gain: float | None = None
    """Rise of the curve per unit of compute at the last point."""
    marginal_gain_low: float | None = None
    marginal_gain_high: float | None = None
    target: float | None = None
    target_compute: float | None = None
    """Compute at which the curve reaches the target; None if in most draws of `law` it never does."""
    target_low: float | None = None
    target_high: float | None = None
    """None if in 5 % of the draws or more it is never reached."""
    rmse: float | None = None
    """Of the best curve, unweighted."""
    backtest_error: float | None = None
    """Of the sigmoid, as the rivals' own."""
    rivals: tuple[Rival, ...] = ()
    draws: tuple[Draw, ...] = ()
    """The sigmoid's, equally likely (A, B, C_mid, R0): with the rivals' they determine every number above."""

    def kept(self, curve: Points) -> Points:
        """Return those points of the run's curve that were fitted: from the burn-in on, without the outliers."""
        return curve.where(~np.isin(curve.compute, self.outliers)).starting_at(self.burn_in)


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
            "weight": rival.weight,
            "draws": [list(draw) for draw in rival.draws],
        }
        for rival in forecast.rivals
    ]
    plain["draws"] = [list(draw) for draw in forecast.draws]
    plain["outliers"] = list(forecast.outliers)
    return plain


def from_json(data: Mapping[str, Json]) -> Forecast:
    """Return the forecast that `to_json` wrote, also after a trip through text. Raises FitError for anything else."""
    known = {each.name for each in fields(Forecast)}
    missing = [name for name in ("verdict", "reason", *_TUPLES) if name not in data]
    unknown = sorted(set(data) - known)
    if missing or unknown:
        raise FitError(f"this is not a forecast: missing {missing}, unknown {unknown}")
    rivals = cast(list[dict[str, Json]], data["rivals"])
    scalars = cast(dict[str, float], {name: value for name, value in data.items() if name not in _TUPLES})
    plain = Forecast(**scalars)  # type: ignore[arg-type]  # our own document, checked by name above
    return replace(
        plain,
        rivals=tuple(_parse_rival(each) for each in rivals),
        draws=_parse_draws(data["draws"]),
        outliers=tuple(cast(list[float], data["outliers"])),
    )


def _parse_draws(rows: Json) -> tuple[Draw, ...]:
    return tuple((a, b, c, r) for a, b, c, r in cast(list[list[float]], rows))


def _parse_rival(data: dict[str, Json]) -> Rival:
    parameters = cast(dict[str, float], data["parameters"])
    return Rival(
        name=cast(str, data["name"]),
        parameters=tuple(parameters.items()),
        ceiling=cast(float, data["ceiling"]),
        rmse=cast(float, data["rmse"]),
        backtest_error=cast(float | None, data["backtest_error"]),
        weight=cast(float, data["weight"]),
        draws=_parse_draws(data["draws"]),
    )
