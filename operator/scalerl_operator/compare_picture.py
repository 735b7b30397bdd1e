"""The picture of a comparison as PNG bytes. PURE."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scalerl_operator.forecast import Comparison, Points, curve_band, linearised
from scalerl_operator.render.plots import GREY, SERIES_COLOURS, SERIES_MARKERS, clean_axes, png_of

LINES = ("-", "--", "-.", ":")


def draw_comparison(found: Comparison, curves: Mapping[str, Points], *, y_label: str) -> bytes:
    """Return a PNG: the curves with their bands, and the linearised plot."""
    figure = Figure(figsize=(12.5, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for index, arm in enumerate(found.arms):
        curve, colour = curves[arm.name], SERIES_COLOURS[index % len(SERIES_COLOURS)]
        marker, line = SERIES_MARKERS[index % len(SERIES_MARKERS)], LINES[index % len(LINES)]
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
    _finish(left, next(iter(curves.values())).unit)
    _finish(right, next(iter(curves.values())).unit)
    return png_of(figure)


def _finish(axes: Axes, unit: str) -> None:
    axes.set_xlabel(f"compute ({unit})")
    axes.legend(frameon=False, fontsize=8, loc="best")
    clean_axes(axes)
