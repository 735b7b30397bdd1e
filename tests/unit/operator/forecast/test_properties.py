"""Properties of every curve: units, order, more evidence, bounds."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl_operator.cli.csv_curve import parse_curve
from scalerl_operator.cli.options import Columns
from scalerl_operator.forecast import (
    FitError,
    arrival,
    ceiling_interval,
    curve_band,
    fit_forecast,
    from_json,
    point_band,
    points,
    to_json,
)

few = settings(max_examples=8, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)


def _run(seed, *, scale=1.0, size=24, sd=0.01):
    """A sigmoid with random parameters, measured with noise to between one and six times its midpoint."""
    rng = np.random.default_rng(seed)
    x = np.linspace(1.0 / size, 1.0, size)
    gain, low = rng.uniform(0.2, 0.6), rng.uniform(0.05, 0.35)
    y = low + gain / (1.0 + (1.0 / (x * rng.uniform(1.0, 6.0))) ** rng.uniform(0.9, 2.6)) + rng.normal(0.0, sd, size)
    return x * scale, np.clip(y, 0.0, 1.0), np.full(size, sd)


@few
@given(seeds, st.floats(-9.0, 12.0))
def test_another_unit_of_compute_scales_computes_and_nothing_else(seed, decades):
    scale = 10.0**decades
    one, other = (fit_forecast(points(*_run(seed, scale=each))) for each in (1.0, scale))
    assert other.verdict == one.verdict
    assert other.law == one.law
    for name in ("ceiling", "ceiling_low", "ceiling_high", "b", "r0", "sigma", "correlation"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-3, abs=1e-4), name
    for name in ("c_mid", "c_mid_low", "c_mid_high", "last_compute"):
        assert getattr(other, name) == pytest.approx(scale * getattr(one, name), rel=1e-3), name


@few
@given(seeds)
def test_the_name_of_the_unit_is_only_for_sentences(seed):
    one, other = (fit_forecast(points(*_run(seed), unit=unit)) for unit in ("GPU-h", "tokens"))
    assert other.unit == "tokens"
    assert (other.ceiling, other.ceiling_low, other.ceiling_high) == (one.ceiling, one.ceiling_low, one.ceiling_high)
    assert other.reason == one.reason.replace("GPU-h", "tokens")


@few
@given(seeds, st.randoms(use_true_random=False))
def test_the_order_of_points_is_checked_and_that_of_rows_is_free(seed, random):
    x, y, error = _run(seed)
    order = list(range(len(x)))
    random.shuffle(order)
    if order != sorted(order):
        with pytest.raises(FitError, match="sort the points"):
            points(x[order], y[order], error[order])
    rows = "".join(f"{x[i]!r},{y[i]!r},{error[i]!r}\n".replace("np.float64(", "").replace(")", "") for i in order)
    read = parse_curve(f"x,y,e\n{rows}", Columns("x", "y", "e"), "shuffled.csv")
    assert (read.compute == x).all()
    assert (read.pass_rate == y).all()


@few
@given(seeds)
def test_points_on_the_curve_narrow_the_interval(seed):
    """The same curve without noise, measured twice as densely and twice as far."""
    rng = np.random.default_rng(seed)
    gain, low, b = rng.uniform(0.2, 0.6), rng.uniform(0.05, 0.35), rng.uniform(0.9, 2.6)

    def width(end, size):
        x = np.linspace(end / size, end, size)
        y = low + gain / (1.0 + (1.0 / x) ** b)
        found = ceiling_interval(fit_forecast(points(x, y, np.full(size, 0.01)), law="sigmoid"))
        return found[2] - found[1]

    shorter, denser, longer = width(2.0, 12), width(2.0, 24), width(4.0, 24)
    assert denser < shorter
    assert longer < denser


@few
@given(seeds, st.floats(4.0, 8.0))
def test_larger_errors_are_less_certain(seed, times):
    """Residuals may lower the stated errors to a half, not further."""
    x, y, error = _run(seed, sd=0.004)
    one, other = (fit_forecast(points(x, y, error * each), law="sigmoid") for each in (1.0, times))
    widths = [high - low for _, low, high in (ceiling_interval(each) for each in (one, other))]
    assert widths[1] > widths[0]
    assert other.sigma > one.sigma


curves = st.lists(
    st.tuples(st.floats(1e-9, 1e9), st.floats(0.0, 1.0)), min_size=0, max_size=30, unique_by=lambda p: p[0]
)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(curves, st.sampled_from([None, 0.0, 1e-6, 0.02, 0.5]))
def test_any_curve_has_a_verdict_and_intervals_within_bounds(rows, error):
    rows = sorted(rows)
    x, y = [row[0] for row in rows], [row[1] for row in rows]
    found = fit_forecast(points(x, y, None if error is None else [error] * len(x)), budget=1e10, target=0.5)
    assert found.verdict in ("Identified", "Weak", "NotIdentified")
    assert found.reason
    assert from_json(json.loads(json.dumps(to_json(found)))) == found
    if not found.draws:
        return
    assert found.verdict == "NotIdentified" or len(x) >= 4
    at = [0.0, x[0], x[-1], 2.0 * x[-1]]
    for found_band in (ceiling_interval(found), curve_band(found, at), point_band(found, at)):
        middle, low, high = (np.asarray(each) for each in found_band)
        assert ((low >= 0.0) & (low <= middle) & (middle <= high) & (high <= 1.0)).all()
    inner, outer = ceiling_interval(found, level=0.8), ceiling_interval(found, level=0.9)
    assert outer[1] <= inner[1] <= inner[2] <= outer[2]
    weights = [found.weight, *(rival.weight for rival in found.rivals)]
    assert math.isclose(sum(weights), 1.0, rel_tol=1e-9)
    assert all(weight >= 0.0 for weight in weights)


@few
@given(seeds)
def test_a_curve_never_falls_and_arrives_at_its_stated_compute(seed):
    found = fit_forecast(points(*_run(seed)), law="sigmoid")
    at = np.geomspace(0.01, 100.0, 60)
    middle = curve_band(found, at)[0]
    assert (np.diff(middle) >= -1e-9).all()
    assert middle[-1] <= found.ceiling + 1e-6
    level = float(np.interp(0.8, at, middle))
    assert arrival(found, level)[0] == pytest.approx(0.8, rel=0.15)  # medians of two different things
