"""Recipes compared as the paper does: by ceiling, and where ceilings agree by efficiency under a shared ceiling. PURE.

Source: Khatri et al. 2025, arXiv:2510.13786, A.6 to A.8; its leave-one-out tables are this with the full recipe first.
Runs whose ceilings are within a margin count as equal in it: they get the mean of their ceilings, and B and C_mid are
fitted anew. Only then may B be compared, since any fit trades a higher A for a lower B. The margin is what replicates
of one recipe differ by.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scalerl_operator.forecast.band import arrival, curve_band
from scalerl_operator.forecast.laws import SIGMOID, grid
from scalerl_operator.forecast.noise import noise_of
from scalerl_operator.forecast.points import Array, FitError, Points
from scalerl_operator.forecast.preprocess import condense
from scalerl_operator.forecast.result import Forecast

PAPER_MARGIN = 0.02  # its three replicates differ by up to .015
ROOM = 4.0 / 3.0  # from the largest deviation of replicates to the margin, as the paper goes from .015 to .02
SHARED_NODES = (160, 120)  # along C_mid and B
SAME_EFFICIENCY = 1.1  # compute for the same pass rate; a smaller factor is below what replicates differ by

Kind = Literal["baseline", "ceiling mover", "efficiency shaper", "no difference shown", "not comparable"]


@dataclass(frozen=True)
class SharedFit:
    """A run fitted with its ceiling given."""

    ceiling: float
    b: float
    c_mid: float
    r0: float


@dataclass(frozen=True)
class Arm:
    """One run beside the first of the list, the baseline."""

    name: str
    forecast: Forecast
    shared: SharedFit | None
    """None if the run has no curve."""
    gain_of_ceiling: tuple[float, float, float] | None
    """Ceiling less the baseline's, with its 90 % interval; None if either is refused."""
    compute_ratio: tuple[float, float, float] | None
    """Compute for the pass rate `Comparison.level` over the baseline's, with its interval; below 1 it saves."""
    kind: Kind


@dataclass(frozen=True)
class Comparison:
    """All arms, the best first."""

    arms: tuple[Arm, ...]
    margin: float
    same_ceiling: bool
    """Whether all that can be compared are within the margin of the first."""
    shared_ceiling: float | None
    """Mean ceiling of the runs within the margin of the first; None if the first is refused. `Arm.shared` has all."""
    level: float
    """Pass rate at which computes are compared: the highest that every comparable run's curve has reached."""


def margin_of(replicates: Sequence[Forecast]) -> float:
    """Return the margin that replicates of one recipe show. Raises FitError unless two of them have a ceiling."""
    ceilings = [each.ceiling for each in replicates if each.ceiling is not None and each.verdict != "NotIdentified"]
    if len(ceilings) < 2:
        raise FitError(f"{len(ceilings)} of {len(replicates)} replicates have a ceiling; a margin needs at least 2")
    return float(ROOM * np.abs(np.array(ceilings) - np.mean(ceilings)).max())


def estimate_margin(forecasts: Sequence[Forecast]) -> float:
    """Return the margin where there are no replicates: what two equal ceilings would differ by at most, nine in ten.

    As far as the runs' own intervals tell, and at least the paper's: seeds differ by more than one run can know.
    """
    halves = [0.5 * (_known(each.ceiling_high) - _known(each.ceiling_low)) for each in forecasts if _is_sound(each)]
    return max(PAPER_MARGIN, float(np.sqrt(2.0) * np.median(halves))) if halves else PAPER_MARGIN


def compare(
    names: Sequence[str], curves: Sequence[Points], forecasts: Sequence[Forecast], *, margin: float = PAPER_MARGIN
) -> Comparison:
    """Compare runs with the first of them.

    Args:
        names, curves, forecasts: one for each run, in order; the same unit of compute.
        margin: ceilings closer than this are the same, > 0.

    A run whose forecast is NotIdentified is listed and not compared. Raises FitError if no run can be compared.
    """
    sound = [each for each in forecasts if _is_sound(each)]
    if not sound:
        raise FitError(f"none of the {len(names)} runs has a ceiling: {forecasts[0].reason}")
    first = forecasts[0]
    shared = _shared_ceilings([each.ceiling if _is_sound(each) else None for each in forecasts], margin)
    level = min(float(curve_band(each, [_known(each.last_compute)])[0][0]) for each in sound)
    arms = []
    for name, curve, found, ceiling in zip(names, curves, forecasts, shared, strict=True):
        fitted = None if ceiling is None else fit_shared(condense(found.kept(curve)), ceiling)
        gain = _difference(found, first) if _is_sound(found) and _is_sound(first) else None
        ratio = _ratio(found, first, level) if gain is not None else None
        kind = "baseline" if found is first else _kind(gain, ratio, margin)
        arms.append(Arm(name, found, fitted, gain, ratio, kind))
    arms.sort(key=_rank)
    same = shared[0] is not None and all(each in (shared[0], None) for each in shared)
    return Comparison(tuple(arms), margin, same, shared[0], level)


def _shared_ceilings(ceilings: Sequence[float | None], margin: float) -> list[float | None]:
    """Return for each run the mean ceiling of the runs that count as equal to it; None stays None.

    A group is a run and all that are left within the margin of it: the first run's, then the best of the rest.
    """
    shared: list[float | None] = [None] * len(ceilings)
    left = {i: ceiling for i, ceiling in enumerate(ceilings) if ceiling is not None}
    candidates = [0, *sorted(left, key=lambda i: -left[i])]
    for candidate in candidates:
        if candidate in left:
            group = [i for i in left if abs(left[i] - left[candidate]) <= margin]
            mean = float(np.mean([left.pop(i) for i in group]))
            for i in group:
                shared[i] = mean
    return shared


def _is_sound(forecast: Forecast) -> bool:
    """Whether it has a ceiling that may be compared."""
    return forecast.verdict != "NotIdentified" and forecast.ceiling is not None


def fit_shared(curve: Points, ceiling: float) -> SharedFit:
    """Return the best (B, C_mid, R0) with the ceiling given, by weighted least squares on a fine grid.

    Args:
        curve: [n >= 4]; memory grows with it, so a long one is condensed first.
        ceiling: A, in (0, 1].
    """
    last, y = float(curve.compute[-1]), curve.pass_rate
    x, weights = curve.compute / last, 1.0 / noise_of(curve).variance
    axes = SIGMOID.axes(x)
    first, second = grid(
        (np.linspace(axes[0][0], axes[0][-1], SHARED_NODES[0]), np.linspace(axes[1][0], axes[1][-1], SHARED_NODES[1]))
    )
    left = 1.0 - SIGMOID.gain(x, first, second)  # R = A - (A - R0) (1 - g): linear in the gap A - R0
    gap = np.clip((left @ (weights * (ceiling - y))) / np.maximum((left * left) @ weights, 1e-300), 0.0, ceiling)
    chi2 = ((y - ceiling + gap[:, None] * left) ** 2) @ weights
    best = int(np.argmin(chi2))
    return SharedFit(
        ceiling, float(np.exp(second[best])), float(np.exp(first[best])) * last, float(ceiling - gap[best])
    )


def linearised(curve: Points, ceiling: float, r0: float) -> tuple[Array, Array]:
    """Return (compute, odds of the gain) of the points strictly between R0 and A: on log axes a line of slope B.

    (R - R0) / (A - R) = (C / C_mid)^B, the paper's F(R) without the factor C_mid^B. It is 1 at C_mid.
    """
    inside = (curve.pass_rate > r0) & (curve.pass_rate < ceiling) & (curve.compute > 0.0)
    y = curve.pass_rate[inside]
    return curve.compute[inside], (y - r0) / (ceiling - y)


def _rank(arm: Arm) -> tuple[float, float]:
    """The higher ceiling first, equal ones by B; what is refused comes last."""
    return (-arm.shared.ceiling, -arm.shared.b) if arm.shared is not None else (np.inf, 0.0)


def _kind(gain: tuple[float, float, float] | None, ratio: tuple[float, float, float] | None, margin: float) -> Kind:
    if gain is None:
        return "not comparable"
    if abs(gain[0]) > margin and (gain[1] > 0.0 or gain[2] < 0.0):
        return "ceiling mover"
    if (
        ratio is not None
        and abs(gain[0]) <= margin
        and (ratio[2] < 1.0 / SAME_EFFICIENCY or ratio[1] > SAME_EFFICIENCY)
    ):
        return "efficiency shaper"
    return "no difference shown"


def _difference(one: Forecast, other: Forecast) -> tuple[float, float, float]:
    """Return the difference of two independent ceilings; each side's half-widths add in squares."""
    a, low, high = _known(one.ceiling), _known(one.ceiling_low), _known(one.ceiling_high)
    b, b_low, b_high = _known(other.ceiling), _known(other.ceiling_low), _known(other.ceiling_high)
    if one is other:
        return 0.0, 0.0, 0.0
    return a - b, a - b - float(np.hypot(a - low, b_high - b)), a - b + float(np.hypot(high - a, b - b_low))


def _ratio(one: Forecast, other: Forecast, level: float) -> tuple[float, float, float] | None:
    """Return the ratio of the computes at which two independent curves reach a level; in logs half-widths add.

    None where a run began above the level: it needed no compute for it.
    """
    if one is other:
        return 1.0, 1.0, 1.0
    arrivals = arrival(one, level), arrival(other, level)
    if not all(0.0 < each[0] < np.inf for each in arrivals):
        return None
    with np.errstate(divide="ignore"):  # an end at 0 or never is an interval without that end
        a, b = (np.log(each) for each in arrivals)
    up, down = np.hypot(a[2] - a[0], b[0] - b[1]), np.hypot(a[0] - a[1], b[2] - b[0])
    middle = a[0] - b[0]
    return float(np.exp(middle)), float(np.exp(middle - down)), float(np.exp(middle + up))


def _known(value: float | None) -> float:
    assert value is not None  # only called with a forecast that has its numbers
    return value
