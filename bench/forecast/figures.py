"""The figures of docs/forecast.md as PNG bytes. PURE."""

import io
from collections.abc import Sequence

import numpy as np
from held_back import Assessment, HeldBack
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from simulated_curves import Array

from scalerl_operator.forecast import Forecast, Points, point_band
from scalerl_operator.forecast.laws import LAWS, curves_of
from scalerl_operator.render.plots import BLUE, GREEN, GREY, ORANGE, PURPLE

VERDICT_COLOURS = {"Identified": GREEN, "Weak": ORANGE, "NotIdentified": GREY}
RIVAL_STYLES = {"power law": (PURPLE, "-."), "exponential": (GREEN, "--"), "logistic": (ORANGE, ":")}
DPI = 110
COLUMNS = 6


def draw_paper(rows: Sequence[tuple[str, Points, Points, Forecast]]) -> bytes:
    """Return the paper's curves, (name, fitted, all, forecast) each, with band, rivals and later points."""
    figure = _figure(12.5, 4.8)
    for axes, (name, fitted, whole, found) in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows, strict=True):
        end = float(whole.compute[-1])
        x = np.linspace(1.0, end * 1.03, 300)
        _band(axes, found, x, BLUE)
        for rival in found.rivals:
            if rival.draws:
                colour, style = RIVAL_STYLES[rival.name]
                curve = np.median(curves_of(LAWS[rival.name], np.array(rival.draws), x), axis=0)
                axes.plot(x, curve, color=colour, ls=style, lw=1.2, label=f"{rival.name}, weight {rival.weight:.2f}")
        later = whole.compute > fitted.compute[-1]
        axes.plot(fitted.compute, fitted.pass_rate, "ko", ms=4, label="fitted")
        axes.plot(whole.compute[later], whole.pass_rate[later], "o", ms=5, mfc="white", mec="black", label="came later")
        axes.axvline(float(fitted.compute[-1]), color=GREY, lw=1, ls=":")
        low, high = found.ceiling_low or 0.0, found.ceiling_high or 0.0
        axes.set_title(
            f"{name}: {found.verdict}, A {found.ceiling:.3f} [{low:.3f}, {high:.3f}]", fontsize=10, loc="left"
        )
        axes.set_xlabel("GPU-hours")
        axes.set_ylabel("held-out pass rate")
        axes.legend(frameon=False, fontsize=8, loc="lower right")
        axes.set_ylim(float(whole.pass_rate.min()) - 0.02, float(whole.pass_rate.max()) + 0.06)
        _style(axes)
    return _png(figure)


def draw_real(rows: Sequence[HeldBack]) -> bytes:
    """Return every real curve, small: fitted points, later ones, the band of a measurement."""
    count = -(-len(rows) // COLUMNS)
    figure = _figure(14.0, 2.0 * count)
    grid = figure.subplots(count, COLUMNS, squeeze=False)
    for axes in list(grid.flat)[len(rows) :]:
        axes.set_visible(False)
    for axes, row in zip(grid.flat, rows, strict=False):
        curve, found = row.points, row.forecast
        until, end = float(curve.compute[-1]) / 2.0, float(curve.compute[-1])
        if found.draws:
            _band(axes, found, np.linspace(until, end, 60), VERDICT_COLOURS[found.verdict])
        fitted = curve.compute <= until
        axes.plot(curve.compute[fitted], curve.pass_rate[fitted], "ko", ms=2)
        axes.plot(curve.compute[~fitted], curve.pass_rate[~fitted], "o", ms=2.6, mfc="white", mec="black", mew=0.6)
        share = "refused" if row.covered is None else f"{row.covered:.0%} inside"
        axes.set_title(f"{row.name.removeprefix('garg ')}\n{found.verdict}, {share}", fontsize=6.5, loc="left")
        _style(axes)
        axes.tick_params(labelsize=6)
    return _png(figure)


def draw_simulated(assessments: Sequence[Assessment]) -> bytes:
    """Return, for simulated sigmoids, the interval's width and the verdict over last C / C_mid."""
    figure = _figure(12.5, 4.4)
    left, right = figure.subplots(1, 2)
    for verdict, colour in VERDICT_COLOURS.items():
        rows = [each for each in assessments if each.forecast.verdict == verdict and each.known]
        for covered, marker in ((True, "o"), (False, "x")):
            found = [each for each in rows if each.covered == covered]
            label = f"{verdict}, {'holds' if covered else 'misses'} A"
            left.plot([e.truth.reach for e in found], [e.width for e in found], marker, color=colour, ms=4, label=label)
    left.set_xscale("log")
    left.set_yscale("log")
    left.axhline(0.10, color=GREY, lw=1, ls=":")
    left.set_ylabel("width of the ceiling's 90 % interval")
    left.legend(frameon=False, fontsize=8)
    edges = np.geomspace(0.5, 10.0, 7)
    bottom: Array = np.zeros(len(edges) - 1)
    for verdict, colour in VERDICT_COLOURS.items():
        shares = []
        for low, high in zip(edges, edges[1:], strict=False):
            inside = [e for e in assessments if low <= e.truth.reach < high]
            shares.append(sum(e.forecast.verdict == verdict for e in inside) / max(len(inside), 1))
        right.bar(range(len(shares)), shares, bottom=bottom, color=colour, label=verdict, width=0.9)
        bottom = bottom + np.array(shares)
    names = [f"{low:.1f} to {high:.1f}" for low, high in zip(edges, edges[1:], strict=False)]
    right.set_xticks(range(len(names)), names, fontsize=8)
    right.set_ylabel("share of runs")
    right.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0.0, 1.1), ncols=3)
    for axes in (left, right):
        axes.set_xlabel("last compute / C_mid")
        _style(axes)
    return _png(figure)


def _band(axes: Axes, found: Forecast, x: Array, colour: str) -> None:
    middle, low, high = point_band(found, x)
    axes.plot(x, middle, color=colour, lw=1.6, label=f"forecast ({found.law})")
    axes.fill_between(x, low, high, color=colour, alpha=0.2, lw=0, label="90 % band of a measurement")


def _style(axes: Axes) -> None:
    axes.grid(True, color="#E5E7EB", lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
