"""A forecast's values at any compute, from draws that the test sets."""

import math

import numpy as np
import pytest

from scalerl_operator.forecast import (
    FitError,
    Forecast,
    Rival,
    arrival,
    ceiling_interval,
    curve_band,
    gain_between,
    marginal_gain,
    point_band,
    shape_interval,
)

SIGMOIDS = tuple((0.5 + 0.01 * i, 1.0, 10.0, 0.2) for i in range(21))  # A from .5 to .7, all else alike


def _forecast(draws=SIGMOIDS, **values):
    known = {"law": "sigmoid", "last_compute": 10.0, **values}
    return Forecast("Weak", "why", points=8, burn_in=0.0, unit="GPU-h", draws=draws, **known)


def _rival(weight, draws, name="exponential"):
    return Rival(name, (), draws[0][0], 0.01, 0.01, weight, draws)


def test_quantiles_of_the_ceiling_by_hand():
    assert ceiling_interval(_forecast()) == pytest.approx((0.6, 0.51, 0.69))  # the 2nd and the 20th of 21
    assert ceiling_interval(_forecast(), level=0.8) == pytest.approx((0.6, 0.52, 0.68))


def test_a_rival_has_its_weight_in_the_interval_but_not_in_the_middle():
    """Ten per cent of the weight at .9: the upper 5 % are there, the middle is the sigmoid's."""
    mixed = _forecast(weight=0.9, rivals=(_rival(0.1, ((0.9, 5.0, 0.0, 0.2),)),))
    middle, low, high = ceiling_interval(mixed)
    assert (middle, high) == pytest.approx((0.6, 0.9))
    assert low == pytest.approx(0.51)  # .9 of the weight over 21: the 2nd draw passes 5 %
    light = _forecast(weight=0.96, rivals=(_rival(0.04, ((0.9, 5.0, 0.0, 0.2),)),))
    assert ceiling_interval(light)[2] == pytest.approx(0.7)


def test_the_middle_is_that_of_the_law_with_the_most_weight():
    other = _forecast(
        law="exponential",
        weight=0.3,
        rivals=(_rival(0.7, ((0.64, 5.0, 0.0, 0.2), (0.65, 5.0, 0.0, 0.2), (0.66, 5, 0, 0.2))),),
    )
    assert ceiling_interval(other)[0] == pytest.approx(0.65)
    # its curve too: .2 + .45 (1 - e^-2) at two time constants
    assert curve_band(other, [10.0])[0] == pytest.approx([0.2 + 0.45 * (1 - math.exp(-2.0))])


def test_drift_widens_the_band_only_past_the_last_point_and_for_two_doublings():
    one = _forecast(draws=((0.6, 1.0, 10.0, 0.2),), drift=0.01)
    middle, low, high = curve_band(one, [5.0, 10.0, 20.0, 40.0, 1e6])
    z = 1.6449
    assert (high - middle) == pytest.approx([0.0, 0.0, 0.01 * z, 0.02 * z, 0.02 * z], abs=1e-6)
    assert (middle - low) == pytest.approx(high - middle)


def test_a_measurement_scatters_about_the_curve():
    one = _forecast(draws=((0.6, 1.0, 10.0, 0.2),), sigma=0.03)
    middle, low, high = point_band(one, [10.0])
    assert (middle[0], low[0], high[0]) == pytest.approx((0.4, 0.4 - 1.6449 * 0.03, 0.4 + 1.6449 * 0.03), abs=1e-5)
    assert point_band(one, [10.0], 0.05)[2] == pytest.approx(0.4 + 1.6449 * 0.05, abs=1e-5)  # its own error is larger
    assert point_band(one, [10.0], 0.01, level=0.8)[2] == pytest.approx(0.4 + 1.2816 * 0.03, abs=1e-5)


def test_a_pass_rate_stays_between_zero_and_one():
    edge = _forecast(draws=((0.99, 1.0, 10.0, 0.0),), sigma=0.1)
    _, low, high = point_band(edge, [0.0, 1e6])
    assert low[0] == 0.0
    assert high[1] == 1.0


ARRIVALS = [
    ("sigmoid", (0.6, 2.0, 10.0, 0.2), 0.52, 20.0, "four fifths of the gain with B = 2 at twice C_mid"),
    ("exponential", (0.6, 50.0, 0.0, 0.2), 0.4, 50.0 * math.log(2.0), "half after ln 2 time constants"),
    ("logistic", (0.6, 30.0, 5.0, 0.2), 0.5, 30.0 + 5.0 * math.log(3.0), "odds of 3"),
    ("power law", (0.6, 0.5, 10.0, 0.2), 0.4, 40.0, "half of the gain at four times the first compute"),
    ("power law", (0.6, 0.5, 10.0, 0.2), 0.6, math.inf, "no curve reaches its ceiling"),
    ("exponential", (0.6, 50.0, 0.0, 0.2), 0.1, 0.0, "it began above"),
]


@pytest.mark.parametrize(("law", "draw", "target", "compute"), [r[:4] for r in ARRIVALS], ids=[r[4] for r in ARRIVALS])
def test_arrival_by_hand(law, draw, target, compute):
    rival = _forecast(weight=0.0, rivals=(_rival(1.0, (draw,), law),)) if law != "sigmoid" else None
    found = rival or _forecast(draws=(draw,))
    assert arrival(found, target) == pytest.approx((compute,) * 3, rel=1e-6)


def test_an_interval_of_arrivals_may_end_at_never():
    middle, low, high = arrival(_forecast(), 0.55)  # the lowest six ceilings never reach it
    assert middle == pytest.approx(10.0 * 0.35 / 0.05)  # A = .6: odds of .35 to .05
    assert low == pytest.approx(10.0 * 0.35 / 0.14)  # A = .69
    assert high == math.inf


def test_gains_by_hand():
    one = _forecast(draws=((0.6, 1.0, 10.0, 0.2),))
    assert gain_between(one, 10.0, 30.0) == pytest.approx((0.1,) * 3)  # from half to three quarters of .4
    wandering = _forecast(draws=((0.6, 1.0, 10.0, 0.2),), drift=0.02)  # sd .02 at one doubling past the last point, 10
    middle, low, high = gain_between(wandering, 10.0, 20.0)
    assert middle == pytest.approx(0.4 / 6)
    assert (low, high) == pytest.approx((0.4 / 6 - 1.6449 * 0.02, 0.4 / 6 + 1.6449 * 0.02), abs=1e-5)
    assert marginal_gain(one, 10.0) == pytest.approx((0.4 / 40.0,) * 3)  # B / (4 C_mid) of the gain


def test_shape_intervals_are_the_sigmoids_own():
    draws = tuple((0.6, 2.0**i, 10.0**i, 0.2) for i in (-1, 0, 1))
    found = shape_interval(_forecast(draws=draws), level=0.5)
    # the masses of -1, 0 and 1 have their middles at 1/6, 1/2 and 5/6: a quarter is a quarter of the way from -1 to 0
    assert found["b"] == pytest.approx((1.0, 2**-0.75, 2**0.75))
    assert found["c_mid"] == pytest.approx((1.0, 10**-0.75, 10**0.75))


@pytest.mark.parametrize(
    "ask", [lambda f: curve_band(f, [1.0]), ceiling_interval, shape_interval, lambda f: arrival(f, 0.5)]
)
def test_a_refusal_without_draws_has_no_numbers(ask):
    with pytest.raises(FitError, match="has no curve: why"):
        ask(_forecast(draws=(), last_compute=None))


def test_the_band_of_many_computes_is_that_of_each():
    compute = np.array([1.0, 7.0, 300.0])
    together = curve_band(_forecast(), compute)
    for i, each in enumerate(compute):
        assert [row[0] for row in curve_band(_forecast(), [each])] == pytest.approx([row[i] for row in together])


def test_shape_intervals_lie_between_the_grids_nodes_by_hand():
    """Ten draws of B on the nodes 1, 2 and 4: their masses .2, .6 and .2 have their middles at .1, .5 and .9."""
    draws = tuple((0.6, b, 10.0, 0.2) for b in (1.0, 1.0, *[2.0] * 6, 4.0, 4.0))
    found = Forecast("Weak", "", "sigmoid", 8, 0.0, "GPU-h", draws=draws)
    middle, low, high = shape_interval(found, level=0.6)["b"]  # .2 and .8: a quarter from .1 to .5, three from .5 to .9
    assert (middle, low, high) == pytest.approx((2.0, 2**0.25, 2**1.75))
    assert shape_interval(found, level=0.9)["b"][1:] == pytest.approx((1.0, 4.0))
    assert shape_interval(found)["c_mid"] == pytest.approx((10.0, 10.0, 10.0))
