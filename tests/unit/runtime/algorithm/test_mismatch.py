import math

import numpy as np
import pytest

from scalerl_runtime.algorithm.mismatch import Mismatch, measure_mismatch

LOG2 = math.log(2)


def measure(difference, lag, keep=None):
    """Measure tokens whose logp - logp_gen is `difference`, at arbitrary log-probabilities, in float64."""
    logp_gen = -np.arange(1.0, len(difference) + 1)
    keep = np.ones(len(lag), bool) if keep is None else np.array(keep)
    return measure_mismatch(logp_gen + np.array(difference, float), logp_gen, np.array(lag), keep)


def test_by_hand():
    # d = log 2, -2 log 2, 0, 0: r = 2, 1/4, 1, 1
    got = measure([LOG2, -2 * LOG2, 0, 0], [0, 0, 0, 0])["all"]
    assert got.tokens == 4
    assert got.kl_k3 == pytest.approx(((2 - 1 - LOG2) + (0.25 - 1 + 2 * LOG2)) / 4)
    assert got.abs_mean == pytest.approx(3 * LOG2 / 4)
    assert got.abs_max == pytest.approx(2 * LOG2)
    assert got.tmpe == pytest.approx((2 + 4 + 1 + 1) / 4)
    assert got.outside == 0.5
    assert got.ess == pytest.approx(4.25**2 / (4 * 6.0625))  # sum 4 1/4, squares 4 + 1/16 + 1 + 1


def test_p95_by_hand():
    # |d| = 0, 0.01, ..., 1.00: the 95th percentile is 0.95
    signs = np.where(np.arange(101) % 2, -1, 1)
    assert measure(signs * np.arange(101) / 100, [3] * 101)["all"].abs_p95 == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("ratio", "outside"),
    [(0.89, 1.0), (0.91, 0.0), (1.0, 0.0), (1.09, 0.0), (1.11, 1.0)],
)
def test_outside_bounds(ratio, outside):
    assert measure([math.log(ratio)], [0])["all"].outside == outside


def test_split_by_lag():
    # lags 0, 1, 2, 4, 5, 40 with |d| = 1, 2, 3, 4, 5, 6 tenths
    got = measure([0.1, -0.2, 0.3, -0.4, 0.5, 0.6], [0, 1, 2, 4, 5, 40])
    assert {name: (m.tokens, pytest.approx(m.abs_mean)) for name, m in got.items()} == {
        "all": (6, 0.35),
        "0": (1, 0.1),
        "1": (1, 0.2),
        "2-4": (2, 0.35),
        "5+": (2, 0.55),
    }


def test_empty_buckets_are_absent():
    assert list(measure([0.1, 0.2], [0, 3])) == ["all", "0", "2-4"]
    assert measure([], []) == {}
    assert measure([0.1], [0], keep=[False]) == {}


def test_forced_tokens_are_excluded_whatever_they_hold():
    got = measure([0.1, math.inf, math.nan, 0.3], [0, 0, 1, 2], keep=[True, False, False, True])
    assert set(got) == {"all", "0", "2-4"}
    assert got["all"].tokens == 2
    assert got["all"].abs_mean == pytest.approx(0.2)


def test_equal_log_probabilities_are_perfect():
    want = Mismatch(tokens=2, kl_k3=0.0, abs_mean=0.0, abs_p95=0.0, abs_max=0.0, tmpe=1.0, outside=0.0, ess=1.0)
    assert measure([0.0, 0.0], [0, 0])["0"] == want


def test_extreme_differences_stay_finite():
    got = measure([5000.0, -5000.0], [0, 0])["all"]
    assert all(math.isfinite(value) for value in (got.kl_k3, got.tmpe, got.ess, got.abs_max))


def test_float32_input_is_measured_in_float64():
    logp, logp_gen = np.full(3, -1.0, np.float32), np.full(3, -1.0 - 2**-23, np.float32)
    got = measure_mismatch(logp, logp_gen, np.zeros(3, np.int32), np.ones(3, bool))["all"]
    assert got.kl_k3 == pytest.approx(2**-47, rel=1e-5, abs=0)  # d^2 / 2; r - 1 - d in float32 would be 0
