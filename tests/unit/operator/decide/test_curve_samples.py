"""A forecast as a dashboard draws it."""

from collections.abc import Callable

import pytest

from scalerl_api import RLRun
from scalerl_api.wire import EvalPoint
from scalerl_operator.decide.assessment import forecast_points, scatter_of
from scalerl_operator.decide.curve_samples import GRID_POINTS, sample_curve
from scalerl_operator.forecast import point_band
from scalerl_operator.run.forecast_log import ForecastLine

Point = Callable[..., EvalPoint]
BUDGET = 0.9


def curve(point: Point, count: int) -> list[EvalPoint]:
    """Points of 0.2 + 0.5 / (1 + (0.1/C)^2), exactly."""
    found = []
    for index in range(count):
        compute = 0.02 * index
        rate = 0.2 + 0.5 / (1 + (0.1 / compute) ** 2) if compute else 0.2
        found.append(point(index, compute_gpu_hours=compute, pass_rate=rate))
    return found


@pytest.fixture
def forecasted(make_run: Callable[..., RLRun], point: Point) -> tuple[ForecastLine, list[EvalPoint]]:
    points = curve(point, 25)
    return forecast_points(make_run(), points, BUDGET, 0.0), points


def test_curve_now_and_up_to_the_budget(forecasted: tuple[ForecastLine, list[EvalPoint]]) -> None:
    line, points = forecasted
    found = sample_curve(line, points)
    assert found is not None
    assert line.forecast.verdict != "NotIdentified"
    assert found.budget_gpu_hours == BUDGET
    assert len(found.grid) == GRID_POINTS
    assert (found.grid[0].gpu_hours, found.grid[-1].gpu_hours) == (0.0, BUDGET)
    assert found.now.gpu_hours == points[-1].compute_gpu_hours
    assert found.now.middle == pytest.approx(points[-1].pass_rate, abs=0.01)
    assert found.now.low < points[-1].pass_rate < found.now.high
    for before, after in zip(found.grid, found.grid[1:], strict=False):
        assert before.gpu_hours < after.gpu_hours
        assert before.middle < after.middle
        assert before.low < before.middle < before.high


def test_the_band_is_that_of_a_measurement(forecasted: tuple[ForecastLine, list[EvalPoint]]) -> None:
    line, points = forecasted
    found = sample_curve(line, points)
    assert found is not None
    middle, low, high = point_band(line.forecast, [found.now.gpu_hours], scatter_of(points[-1]))
    assert (found.now.middle, found.now.low, found.now.high) == (middle[0], low[0], high[0])


def test_now_is_where_the_weights_that_went_on_are(
    forecasted: tuple[ForecastLine, list[EvalPoint]], point: Point
) -> None:
    line, points = forecasted
    again = [each.model_copy(update={"attempt": 2}) for each in points]
    found = sample_curve(line, [*again, point(25, compute_gpu_hours=0.6)])
    assert found is not None
    assert found.now.gpu_hours == points[-1].compute_gpu_hours


def test_a_refused_forecast_is_drawn_no_further_than_it_was_measured(
    make_run: Callable[..., RLRun], point: Point
) -> None:
    points = curve(point, 5)
    line = forecast_points(make_run(), points, BUDGET, 0.0)
    assert line.forecast.verdict == "NotIdentified"
    found = sample_curve(line, points)
    assert found is not None
    assert found.grid[-1].gpu_hours == points[-1].compute_gpu_hours


def test_nothing_is_drawn_of_too_few_points(make_run: Callable[..., RLRun], point: Point) -> None:
    points = curve(point, 2)
    assert sample_curve(forecast_points(make_run(), points, BUDGET, 0.0), points) is None


def test_nothing_is_drawn_of_points_that_are_no_longer_known(forecasted: tuple[ForecastLine, list[EvalPoint]]) -> None:
    assert sample_curve(forecasted[0], []) is None
