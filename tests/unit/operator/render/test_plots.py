"""The plot of a fit, read from the figure."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer

from scalerl_operator.forecast import Points, fit_forecast, point_band, points
from scalerl_operator.render.plots import build_figure, build_fit_picture

UNTIL = 8.0


@pytest.fixture(scope="module")
def curve() -> Points:
    """0.1 + 0.5 x^2 / (16 + x^2) at 0 .. 12, with noise that leaves rivals a chance."""
    x = np.arange(13.0)
    return points(x, 0.1 + 0.5 * x**2 / (16.0 + x**2) + 0.01 * np.cos(3.0 * x))


def measured(axes: Axes) -> dict[str, list[float]]:
    """The x of measured points, by fill colour."""
    bars = [each for each in axes.containers if isinstance(each, ErrorbarContainer)]
    return {each.lines[0].get_markerfacecolor(): each.lines[0].get_xdata().tolist() for each in bars}


def test_a_fit_is_drawn_with_held_back_points_its_band_and_every_law(curve: Points) -> None:
    found = fit_forecast(curve.until(UNTIL), budget=20.0)
    axes = build_figure(build_fit_picture(curve, found, UNTIL, y_label="rate")).axes[0]
    assert measured(axes) == {"black": list(range(9)), "white": [9.0, 10.0, 11.0, 12.0]}
    labels = axes.get_legend_handles_labels()[1]
    assert f"fitted up to {UNTIL:g}" in labels
    rivals = [f"{rival.name}, weight {rival.weight:.2f}" for rival in found.rivals if rival.draws]
    assert rivals
    assert set(rivals) <= set(labels)
    bands = {each.get_label(): each.get_paths()[0].get_extents() for each in axes.collections}
    band = bands["90 % band of a measurement"]
    assert (band.x0, band.x1) == pytest.approx((UNTIL, 20.4))  # from the last fitted point to a little past the budget
    _, low, high = point_band(found, np.geomspace(UNTIL, 20.4, 300))
    assert (band.y0, band.y1) == pytest.approx((low.min(), high.max()))


def test_a_fit_to_all_points_has_no_hollow_point(curve: Points) -> None:
    found = fit_forecast(curve)
    axes = build_figure(build_fit_picture(curve, found, float("inf"), y_label="rate")).axes[0]
    assert measured(axes) == {"black": list(range(13))}
    assert f"fit to all points ({found.verdict})" in axes.get_legend_handles_labels()[1]
