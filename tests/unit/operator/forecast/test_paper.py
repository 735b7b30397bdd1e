"""The paper's digitised 8B curve, as shipped with the benchmarks: docs/forecast.md must stay true of it."""

import csv
from pathlib import Path

import numpy as np
import pytest

from scalerl_operator.forecast import binomial_standard_error, curve_band, fit_forecast, point_band, points
from scalerl_operator.forecast.laws import POWER_LAW
from scalerl_operator.forecast.linear import Target, solve

CURVE = Path(__file__).parents[4] / "bench" / "forecast" / "curves" / "scalerl_8b_dense.csv"
COMPLETIONS = 16_000  # 1,000 prompts of 16 samples


def _points(rows):
    y = [float(row["pass_rate_mean16"]) for row in rows]
    return points([float(row["gpu_hours"]) for row in rows], y, [binomial_standard_error(p, COMPLETIONS) for p in y])


@pytest.fixture(scope="module")
def rows():
    return list(csv.DictReader(CURVE.read_text(encoding="utf-8").splitlines()))


@pytest.fixture(scope="module")
def fitted(rows):
    return _points([row for row in rows if row["split"] == "fit"])


@pytest.fixture(scope="module")
def later(rows):
    return _points([row for row in rows if row["split"] != "fit"])


def test_the_papers_points_give_the_papers_parameters(fitted):
    found = fit_forecast(fitted, burn_in=1500.0)  # the paper's own
    assert found.verdict == "Identified"
    assert 0.6345 <= found.ceiling <= 0.6455  # .635 to .645, in the three digits that are published
    assert 1.5 <= found.b <= 1.9
    assert 9500.0 <= found.c_mid <= 10_900.0


def test_the_later_points_were_forecast(fitted, later):
    found = fit_forecast(fitted, burn_in=1500.0)
    middle, _, _ = curve_band(found, later.compute)
    _, low, high = point_band(found, later.compute)
    assert np.abs(middle - later.pass_rate).mean() <= 0.012
    inside = (low <= later.pass_rate) & (later.pass_rate <= high)
    assert inside.mean() >= 0.9


@pytest.mark.parametrize(("start", "ceiling"), [(1500.0, 1.0), (5000.0, 0.74)], ids=["from 1,500", "from 5,000"])
def test_the_power_law_depends_on_where_the_fit_begins(fitted, start, ceiling):
    """A.4 of the paper; from 1,500 on its ceiling is the bound, 1."""
    used = fitted.starting_at(start)
    x, exponents = used.compute / used.compute[-1], np.log(np.geomspace(0.02, 5.0, 2000))
    one = np.ones(len(used))
    gain = POWER_LAW.gain(x, exponents, np.full_like(exponents, np.log(x[0])))
    best = solve(gain, Target(one, used.pass_rate, one[:, None]))
    assert best.ceiling[int(np.argmin(best.chi2[:, 0])), 0] == pytest.approx(ceiling, abs=0.01)
