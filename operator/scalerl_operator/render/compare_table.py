"""A comparison of runs as rows, lines and JSON. PURE."""

import math

from scalerl_operator.forecast import Comparison
from scalerl_operator.forecast.compare import Arm
from scalerl_operator.forecast.result import Json


def comparison_rows(found: Comparison) -> list[tuple[str, ...]]:
    """Return one row for each run, the best first. B and C_mid are those of `Arm.shared`."""
    return [_row(arm) for arm in found.arms]


def _row(arm: Arm) -> tuple[str, ...]:
    forecast, shared = arm.forecast, arm.shared
    ceiling = "-"
    if shared is not None and forecast.ceiling is not None:
        ceiling = _interval((forecast.ceiling, forecast.ceiling_low or 0.0, forecast.ceiling_high or 1.0), "")
    return (
        arm.name,
        forecast.verdict,
        ceiling,
        "-" if arm.gain_of_ceiling is None else _interval(arm.gain_of_ceiling, "+"),
        "-" if shared is None else f"{shared.b:.2f}",
        "-" if shared is None else f"{shared.c_mid:.4g}",
        "-" if arm.compute_ratio is None else _ratio(arm.compute_ratio),
        arm.kind,
    )


def _interval(values: tuple[float, float, float], sign: str) -> str:
    value, low, high = values
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _ratio(values: tuple[float, float, float]) -> str:
    value, low, high = ("?" if each is None else f"{each:.2f}" for each in _ends(values))
    return f"{value}x [{low}, {high}]"


def _ends(ratio: tuple[float, float, float]) -> list[float | None]:
    """Return a ratio and its interval; an end at 0 or infinity is None."""
    return [each if 0.0 < each < math.inf else None for each in ratio]


def comparison_lines(found: Comparison, source: str) -> str:
    """Return the notes below the table; `source` is the origin of the margin."""
    mean = "" if found.shared_ceiling is None else f", {found.shared_ceiling:.3f}"
    order = (
        f"All ceilings agree with the first within {found.margin:.3f} ({source}): ordered by B under their mean{mean}."
        if found.same_ceiling
        else f"Ordered by ceiling. Those within {found.margin:.3f} ({source}) of the first count as equal and are "
        f"ordered by B, fitted under their mean{mean}; the others' B is under the mean of those equal to them."
    )
    refused = [arm for arm in found.arms if arm.shared is None]
    lines = [order, f"COMPUTE: compute for a pass rate of {found.level:.3f}, relative to the first run."]
    lines += [f"{arm.name} is not compared: {arm.forecast.reason}." for arm in refused]
    return "\n".join(lines) + "\n"


def comparison_json(found: Comparison) -> dict[str, Json]:
    """Return the comparison as plain JSON values."""
    arms: list[Json] = []
    for arm in found.arms:
        shared = arm.shared
        arms.append(
            {
                "name": arm.name,
                "verdict": arm.forecast.verdict,
                "ceiling": arm.forecast.ceiling,
                "ceiling_low": arm.forecast.ceiling_low,
                "ceiling_high": arm.forecast.ceiling_high,
                "gain_of_ceiling": None if arm.gain_of_ceiling is None else list(arm.gain_of_ceiling),
                "compute_ratio": None if arm.compute_ratio is None else [*_ends(arm.compute_ratio)],
                "shared": None
                if shared is None
                else {"ceiling": shared.ceiling, "b": shared.b, "c_mid": shared.c_mid, "r0": shared.r0},
                "kind": arm.kind,
            }
        )
    return {
        "margin": found.margin,
        "same_ceiling": found.same_ceiling,
        "shared_ceiling": found.shared_ceiling,
        "level": found.level,
        "arms": arms,
    }
