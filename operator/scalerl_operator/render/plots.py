"""A run's plots as PNG bytes: values in, image out. PURE (matplotlib is used without its global state).

Colours are Okabe and Ito's, safe for colour-blind readers; line style and marker carry the same information.
"""

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from scalerl_api.wire import StepRecord
from scalerl_operator.forecast import Comparison, Forecast, Points, curve_band, linearised, point_band
from scalerl_operator.forecast.laws import LAWS, curves_of
from scalerl_operator.forecast.points import Array
from scalerl_operator.run.step_panels import PANELS, StepPanel

BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC3311", "#AA4499", "#6B7280"
SERIES_COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
SERIES_MARKERS = ("o", "s", "^", "D")
RIVAL_STYLES = ((PURPLE, "-."), (GREEN, (0, (5, 3))), (RED, ":"))  # power law, exponential, logistic
DPI = 140
CURVE_POINTS = 300
START_SHARE = 1e-3  # of the compute shown; points before it are the start, and are not drawn on a logarithmic axis


@dataclass(frozen=True)
class CurvePicture:
    """The content of a plot of a learning curve."""

    points: Points
    title: str
    y_label: str
    end: float
    """Right end of the plot, in the points' unit: the budget."""
    forecast: Forecast | None = None
    halfway: Forecast | None = None
    halfway_at: float | None = None
    """Compute of the newest point that `halfway` is fitted to."""
    halfway_line: str = "last point of that forecast"
    halfway_label: str = "forecast made at half of the compute"
    with_rivals: bool = False
    """Also draw the other laws' curves and the band of a measurement."""


def draw_curve(picture: CurvePicture) -> bytes:
    """Return a PNG of `build_figure`."""
    return png_of(build_figure(picture))


@dataclass(frozen=True)
class CurveFrame:
    """The axes of learning curves: linear compute, and beside it logarithmic."""

    title: str
    y_label: str
    y_limits: tuple[float, float]
    end: float
    """Right end of the compute."""
    low: float | None
    """Left end of the logarithmic axis; None leaves it out."""
    columns: int
    """Of the legend."""


def build_figure(picture: CurvePicture) -> Figure:
    """Return the learning curve over linear and, once there is a point after 0, over logarithmic compute."""
    low = find_low_end(picture.points.compute, picture.end)
    frame = CurveFrame(picture.title, picture.y_label, _y_limits(picture), picture.end, low, columns=4)
    return draw_in_frame(frame, lambda axes, start: _draw_all(axes, picture, start))


def draw_in_frame(frame: CurveFrame, draw: Callable[[Axes, float], None]) -> Figure:
    """Return the figure of what `draw(axes, start)` draws from compute `start` on."""
    figure = Figure(figsize=(12.5, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, 1 if frame.low is None else 2, sharey=True, squeeze=False)
    linear: Axes = grid[0][0]
    draw(linear, 0.0)
    linear.set_xlim(-0.015 * frame.end, frame.end * 1.02)
    linear.set_ylabel(frame.y_label)
    linear.set_ylim(*frame.y_limits)
    linear.set_title("linear compute", fontsize=10, color=GREY, loc="left")
    if frame.low is not None:
        draw(grid[0][1], frame.low)
        _style_log(grid[0][1], frame.low, frame.end * 1.05)
        grid[0][1].set_title("the same, logarithmic compute", fontsize=10, color=GREY, loc="left")
    figure.suptitle(frame.title, fontsize=13, x=0.01, ha="left")
    handles, labels = linear.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=frame.columns, frameon=False, fontsize=9)
    return figure


def _draw_all(axes: Axes, picture: CurvePicture, start: float) -> None:
    """Draw all parts of the plot from compute `start` on."""
    _draw_forecast(axes, picture, start)
    _draw_halfway(axes, picture, start)
    if picture.with_rivals:
        _draw_rivals(axes, picture, start)
    _draw_points(axes, picture, start)
    axes.set_xlabel(f"compute ({picture.points.unit})")
    clean_axes(axes)


def find_low_end(compute: Iterable[float], end: float) -> float | None:
    """Return the left end of the logarithmic axis, a little before the first point after the start; None without one.

    The evaluation of step 0 may lie a few microseconds after 0, five decades before the next.
    """
    later = [float(x) for x in compute if x > START_SHARE * end]
    return 0.8 * min(later) if later else None


def reliable_ceiling(found: Forecast) -> tuple[float, float, float] | None:
    """Return a forecast's ceiling and its 90 % interval; None if it is refused.

    A refused forecast's interval may be [0.2, 1.0], which would flatten the points to a line.
    """
    ceiling, low, high = found.ceiling, found.ceiling_low, found.ceiling_high
    if found.verdict == "NotIdentified" or ceiling is None or low is None or high is None:
        return None
    return ceiling, low, high


def _y_limits(picture: CurvePicture) -> tuple[float, float]:
    y = picture.points.pass_rate
    error = picture.points.standard_error if picture.points.standard_error is not None else np.zeros_like(y)
    values = [float((y - error).min()), float((y + error).max())]
    for forecast in (picture.forecast, picture.halfway):
        if forecast is not None:
            values += (reliable_ceiling(forecast) or ())[1:]
    room = 0.08 * max(0.05, max(values) - min(values))
    return max(-0.02, min(values) - room), min(1.02, max(values) + room)


def compute_grid(start: float, end: float) -> Array:
    """Return where a curve is drawn: evenly spaced, on a logarithmic axis (`start` above 0) by ratio."""
    if start > 0.0:
        return np.geomspace(start, end, CURVE_POINTS)
    return np.linspace(0.0, end, CURVE_POINTS)


def _draw_forecast(axes: Axes, picture: CurvePicture, start: float) -> None:
    """Draw the fit to all points with its band, and the ceiling with its interval."""
    found = picture.forecast
    if found is None or not found.draws:
        return
    x = compute_grid(start, picture.end * 1.02)
    mean, low, high = curve_band(found, x)
    axes.plot(x, mean, color=BLUE, lw=2, label=f"fit to all points ({found.verdict})")
    axes.fill_between(x, low, high, color=BLUE, alpha=0.2, lw=0, label="90 % band of the fit")
    reliable = reliable_ceiling(found)
    if reliable is not None:
        ceiling, ceiling_low, ceiling_high = reliable
        text = f"ceiling {ceiling:.3f} [{ceiling_low:.3f}, {ceiling_high:.3f}]"
        axes.axhspan(ceiling_low, ceiling_high, color=GREEN, alpha=0.13, lw=0)
        axes.axhline(ceiling, color=GREEN, lw=1.4, ls=(0, (6, 2, 1, 2)), label=text)


def _draw_halfway(axes: Axes, picture: CurvePicture, start: float) -> None:
    """Draw the half-way forecast; a vertical line marks the last point that it is fitted to."""
    found, at = picture.halfway, picture.halfway_at
    if found is None or at is None:
        return
    axes.axvline(at, color=ORANGE, lw=1.2, ls=":", label=picture.halfway_line)
    if not found.draws:
        return
    x = compute_grid(max(at, start), picture.end * 1.02)
    mean, low, high = curve_band(found, x)
    axes.plot(x, mean, color=ORANGE, lw=2, ls="--", label=picture.halfway_label)
    axes.fill_between(
        x,
        low,
        high,
        facecolor="none",
        edgecolor=ORANGE,
        alpha=0.45,
        lw=0,
        hatch="////",
        label="90 % band of the forecast",
    )
    axes.plot(x, low, color=ORANGE, lw=0.8, alpha=0.7)
    axes.plot(x, high, color=ORANGE, lw=0.8, alpha=0.7)


def _draw_rivals(axes: Axes, picture: CurvePicture, start: float) -> None:
    """Draw every law with a weight, and the band that should hold nine of ten measurements."""
    found = picture.halfway or picture.forecast
    if found is None or not found.draws:
        return
    x = compute_grid(max(start, picture.halfway_at or 0.0), picture.end * 1.02)
    _, low, high = point_band(found, x)
    if picture.halfway_at is not None:
        before = compute_grid(start, picture.halfway_at)
        axes.plot(before, curve_band(found, before)[0], color=ORANGE, lw=1.2)
    axes.fill_between(x, low, high, color=GREY, alpha=0.12, lw=0, label="90 % band of a measurement")
    for rival, (colour, line) in zip(found.rivals, RIVAL_STYLES, strict=False):
        if rival.draws:
            curve = np.median(curves_of(LAWS[rival.name], np.array(rival.draws), x), axis=0)
            label = f"{rival.name}, weight {rival.weight:.2f}"
            axes.plot(x, curve, color=colour, lw=1.2, ls=line, label=label)


def _draw_points(axes: Axes, picture: CurvePicture, start: float) -> None:
    """Draw the measured points, hollow after the last point of the half-way forecast."""
    points, error = picture.points, picture.points.standard_error
    limit = picture.halfway_at if picture.halfway_at is not None else math.inf
    is_fitted = points.compute <= limit
    groups = (
        (
            is_fitted & (points.compute >= start),
            "black",
            "measured" + (", ± 1 standard error" if error is not None else ""),
        ),
        (~is_fitted & (points.compute >= start), "white", "measured after that forecast"),
    )
    for mask, fill, label in groups:
        if mask.any():
            axes.errorbar(
                points.compute[mask],
                points.pass_rate[mask],
                yerr=error[mask] if error is not None else None,
                fmt="o",
                ms=5,
                mfc=fill,
                mec="black",
                ecolor=GREY,
                elinewidth=1,
                capsize=2,
                zorder=5,
                label=label,
            )


def draw_fit(curve: Points, forecast: Forecast, until: float, *, y_label: str) -> bytes:
    """Return a PNG of `build_fit_picture`."""
    return draw_curve(build_fit_picture(curve, forecast, until, y_label=y_label))


def build_fit_picture(curve: Points, forecast: Forecast, until: float, *, y_label: str) -> CurvePicture:
    """Return the plot of a fit to the points up to `until`; later points are hollow."""
    held_back = bool((curve.compute > until).any())
    return CurvePicture(
        points=curve,
        title=f"{y_label} over {curve.unit}: {forecast.verdict}",
        y_label=y_label,
        end=max(float(curve.compute[-1]), forecast.budget or 0.0),
        forecast=None if held_back else forecast,
        halfway=forecast if held_back else None,
        halfway_at=until if held_back else None,
        halfway_line=f"fitted up to {until:g}",
        halfway_label=f"forecast from the points before ({forecast.verdict})",
        with_rivals=True,
    )


def draw_training(steps: Sequence[StepRecord]) -> bytes | None:
    """Return a PNG with one panel for each recorded quantity; None without a recorded quantity."""
    panels = [found for panel in PANELS if (found := _existing(panel, steps)) is not None]
    if not panels:
        return None
    columns = min(3, len(panels)) if len(panels) != 4 else 2
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(12.5, 2.7 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, panel, steps)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    for column in range(columns):  # the lowest panel of every column has the label
        below = max(row for row in range(rows) if row * columns + column < len(panels))
        grid[below][column].set_xlabel("optimizer step")
    return png_of(figure)


def _existing(panel: StepPanel, steps: Sequence[StepRecord]) -> StepPanel | None:
    """Return the panel with its recorded series; None without one."""
    series = tuple(each for each in panel.series if _series(steps, each[0])[0])
    return replace(panel, series=series) if series else None


def _series(steps: Sequence[StepRecord], name: str) -> tuple[list[int], list[float]]:
    if name == "reward":
        points = [(each.step, each.reward) for each in steps if each.reward is not None]
    else:
        points = [(each.step, each.values[name]) for each in steps if name in each.values]
    return [step for step, _ in points], [value for _, value in points]


def _draw_panel(axes: Axes, panel: StepPanel, steps: Sequence[StepRecord]) -> None:
    for (name, label), colour, style in zip(panel.series, SERIES_COLOURS, ("-", "--", "-.", ":"), strict=False):
        x, y = _series(steps, name)
        values = np.array(y) * panel.scale
        axes.plot(x, values, color=colour, lw=0.8, alpha=0.35)
        marker = "o" if len(x) == 1 else ""  # a line needs two points
        axes.plot(x, _smooth(values), color=colour, lw=1.8, ls=style, label=label, marker=marker)
    axes.set_title(panel.title, fontsize=10, loc="left", fontweight="bold")
    axes.set_ylabel(panel.unit, fontsize=9)
    if len(panel.series) > 1:
        # Beside the title: inside the axes it could cover a line.
        axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderpad=0.0)
    if panel.is_log:
        _set_decades(axes, [value for name, _ in panel.series for value in _series(steps, name)[1] if value > 0.0])
    if panel.from_zero:
        axes.set_ylim(bottom=0.0)
    clean_axes(axes)


def _set_decades(axes: Axes, values: Sequence[float]) -> None:
    """Set a logarithmic axis of whole decades, so that noise within one looks as small as it is."""
    if values:
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        axes.set_yscale("log")
        axes.set_ylim(10.0**low, 10.0 ** max(high, low + 1))


def _smooth(values: Array) -> Array:
    """Return the mean over a centred window of a twentieth of the series, shorter at its ends."""
    half = max(1, len(values) // 40)
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    smooth: Array = (total[high] - total[low]) / (high - low)
    return smooth


def clean_axes(axes: Axes) -> None:
    """Draw a light grid and only the left and the lower axis."""
    axes.grid(True, color="#E5E7EB", lw=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=9)


def _style_log(axes: Axes, low: float, high: float) -> None:
    """Label 1, 2 and 5 of each decade over few decades, powers of ten over many, where more labels would overlap."""
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    few = math.log10(high / low) < 2.0
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=12))
    axes.xaxis.set_minor_locator(LogLocator(subs=tuple(range(1, 10)), numticks=60))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def png_of(figure: Figure) -> bytes:
    """Return the figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


COMPARISON_LINES = ("-", "--", "-.", ":")


def draw_comparison(found: Comparison, curves: Mapping[str, Points], *, y_label: str) -> bytes:
    """Return a PNG: the curves with their bands, and the linearised plot."""
    figure = Figure(figsize=(12.5, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for index, arm in enumerate(found.arms):
        curve, colour = curves[arm.name], SERIES_COLOURS[index % len(SERIES_COLOURS)]
        marker, line = SERIES_MARKERS[index % len(SERIES_MARKERS)], COMPARISON_LINES[index % len(COMPARISON_LINES)]
        left.plot(
            curve.compute, curve.pass_rate, marker, color=colour, ms=4, mfc="white", label=f"{arm.name}: {arm.kind}"
        )
        if arm.shared is None:
            continue
        x = np.linspace(float(curve.compute[0]), float(curve.compute[-1]) * 1.5, 200)
        middle, low, high = curve_band(arm.forecast, x)
        left.plot(x, middle, color=colour, ls=line, lw=1.8)
        left.fill_between(x, low, high, color=colour, alpha=0.13, lw=0)
        compute, odds = linearised(curve, arm.shared.ceiling, arm.shared.r0)
        right.plot(compute, odds, marker, color=colour, ms=4, mfc="white")
        ends = np.geomspace(compute[0], compute[-1], 2) if len(compute) else np.ones(2)
        label = f"{arm.name}: B {arm.shared.b:.2f}, C_mid {arm.shared.c_mid:.4g}"
        right.plot(ends, (ends / arm.shared.c_mid) ** arm.shared.b, color=colour, ls=line, lw=1.8, label=label)
    left.set_ylabel(y_label)
    left.set_title("curves and 90 % bands", fontsize=10, color=GREY, loc="left")
    right.set_xscale("log")
    right.set_yscale("log")
    right.axhline(1.0, color=GREY, lw=1, ls=":")
    right.set_ylabel("(R - R0) / (A - R)")
    right.set_title("linearised: slope B, 1 at C_mid; equal ceilings are shared", fontsize=10, color=GREY, loc="left")
    _finish_comparison(left, next(iter(curves.values())).unit)
    _finish_comparison(right, next(iter(curves.values())).unit)
    return png_of(figure)


def _finish_comparison(axes: Axes, unit: str) -> None:
    axes.set_xlabel(f"compute ({unit})")
    axes.legend(frameon=False, fontsize=8, loc="best")
    clean_axes(axes)
