"""Plots of the test sets beside the pooled held-out prompts: training sources, downstream sets. PURE.

matplotlib is used without its global state; colours, markers and line styles are those of `plots`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scalerl_api.evaluations import list_downstream_sets
from scalerl_api.wire import HELD_OUT, EvalPoint
from scalerl_operator.forecast import Forecast, Points, curve_band
from scalerl_operator.render.plots import (
    COMPARISON_LINES,
    GREY,
    SERIES_COLOURS,
    SERIES_MARKERS,
    CurveFrame,
    clean_axes,
    compute_grid,
    draw_in_frame,
    find_low_end,
    png_of,
    reliable_ceiling,
)


@dataclass(frozen=True)
class SourceCurve:
    """One training source: its measured points and the forecast from them."""

    name: str
    points: Points
    forecast: Forecast


def draw_sources(curves: Sequence[SourceCurve], end: float, title: str) -> bytes:
    """Return a PNG of each source's points, fitted curve with its band, and ceiling; `end` is the right end."""
    low = find_low_end((x for each in curves for x in each.points.compute), end)
    frame = CurveFrame(title, "held-out pass rate", _y_limits(curves), end, low, columns=2)
    return png_of(draw_in_frame(frame, lambda axes, start: _draw_curves(axes, curves, (start, end))))


def _draw_curves(axes: Axes, curves: Sequence[SourceCurve], ends: tuple[float, float]) -> None:
    for index, each in enumerate(curves):
        colour, marker = _style(index)
        kept = each.points.compute >= ends[0]
        error = each.points.standard_error
        axes.errorbar(
            each.points.compute[kept],
            each.points.pass_rate[kept],
            yerr=error[kept] if error is not None else None,
            fmt=marker,
            color=colour,
            ms=4,
            mfc="white",
            elinewidth=1,
            capsize=2,
            zorder=5,
            label=f"{each.name}: measured{', ± 1 standard error' if error is not None else ''}",
        )
        _draw_fit(axes, each.name, each.forecast, (colour, COMPARISON_LINES[index % len(COMPARISON_LINES)]), ends)
    axes.set_xlabel(f"compute ({curves[0].points.unit})")
    clean_axes(axes)


def _draw_fit(axes: Axes, name: str, found: Forecast, style: tuple[str, str], ends: tuple[float, float]) -> None:
    """Draw a fitted curve with its band; the ceiling too if the forecast is not refused."""
    if not found.draws:
        return
    colour, line = style
    x = compute_grid(ends[0], ends[1] * 1.02)
    mean, low, high = curve_band(found, x)
    label = f"{name}: fit with its 90 % band ({found.verdict})"
    ceiling = reliable_ceiling(found)
    if ceiling is not None:
        label += f", ceiling {ceiling[0]:.3f} [{ceiling[1]:.3f}, {ceiling[2]:.3f}]"
        axes.axhline(ceiling[0], color=colour, lw=1, ls=(0, (6, 2, 1, 2)), alpha=0.8)
    axes.plot(x, mean, color=colour, lw=2, ls=line, label=label)
    axes.fill_between(x, low, high, color=colour, alpha=0.16, lw=0)


def _y_limits(curves: Sequence[SourceCurve]) -> tuple[float, float]:
    values = [float(y) for each in curves for y in each.points.pass_rate]
    for each in curves:
        values += (reliable_ceiling(each.forecast) or ())[1:]
    room = 0.1 * max(0.05, max(values) - min(values))
    return max(-0.02, min(values) - room), min(1.02, max(values) + room)


def _style(index: int) -> tuple[str, str]:
    return SERIES_COLOURS[index % len(SERIES_COLOURS)], SERIES_MARKERS[
        (index + index // len(SERIES_COLOURS)) % len(SERIES_MARKERS)
    ]


def draw_downstream(evals: Sequence[EvalPoint], unit: str) -> bytes | None:
    """Return a PNG of every downstream set over compute, beside the held-out prompts; None without a downstream set."""
    names = list_downstream_sets(evals)
    if not names:
        return None
    figure = Figure(figsize=(12.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for index, name in enumerate([HELD_OUT, *names]):
        found = [point for point in evals if point.dataset == name]
        colour = GREY if name == HELD_OUT else SERIES_COLOURS[(index - 1) % len(SERIES_COLOURS)]
        axes.errorbar(
            [point.compute_gpu_hours for point in found],
            [point.pass_rate for point in found],
            yerr=[point.standard_error for point in found],
            fmt=SERIES_MARKERS[index % len(SERIES_MARKERS)] + "-",
            color=colour,
            ms=4,
            lw=1.4,
            capsize=2,
            label=f"{name.replace('_', ' ')}, mean@{found[-1].samples}" if found else name,
        )
    axes.set_xlabel(f"compute ({unit})")
    axes.set_ylabel("pass rate")
    axes.set_title("Downstream sets, ± 1 standard error (with the sampling of prompts)", loc="left", fontsize=11)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    clean_axes(axes)
    return png_of(figure)
