"""The grid posterior against a plain sum over every parameter, and its truncated normals against tables."""

import math

import numpy as np
import pytest

from scalerl_operator.forecast.laws import CURVED_RIVALS, EXPONENTIAL, SIGMOID
from scalerl_operator.forecast.noise import KINDS, Kinds, Noise
from scalerl_operator.forecast.posterior import Cut, fit_posteriors

INDEPENDENT = Kinds(np.zeros(1), np.zeros(1), np.zeros(1))
"""Errors that are known to be drawn anew at every evaluation."""


def _known(sd, size, kinds=INDEPENDENT):
    """Errors whose sd is known."""
    return Noise(np.full(size, sd**2), log_sd=1e-4, smallest=0.5, kinds=kinds)


def _fit(x, y, noise, law=SIGMOID):
    return fit_posteriors([law], x, y, noise, num_draws=[400])[0]


def _plain_posterior(x, y, sd, levels):
    """Weighted quantiles of A by brute force: every (A, R0, log C_mid, log B) of a fine grid, priors as documented."""
    ceilings, starts = np.linspace(0.0, 1.0, 126), np.linspace(0.0, 0.3, 41)
    mass = np.zeros(len(ceilings))
    first = math.log(x[x > 0][0])
    for log_c_mid in np.linspace(first - 1.0, math.log(10.0), 61):
        for log_b in np.linspace(math.log(0.3), math.log(8.0), 31):
            share = np.array(
                [1 / (1 + math.exp(min(math.exp(log_b) * (log_c_mid - math.log(c)), 700))) if c else 0.0 for c in x]
            )
            a, r0 = ceilings[:, None, None], starts[None, :, None]
            residual = (y - r0 - (a - r0) * share) / sd
            weight = np.exp(-0.5 * (residual**2).sum(axis=-1)) * (a >= r0)[..., 0]
            mass += weight.sum(axis=1) * math.exp(-0.5 * ((log_b - math.log(1.7)) / math.log(2.0)) ** 2)
    below = (np.cumsum(mass) - 0.5 * mass) / mass.sum()
    return np.interp(levels, below, ceilings)


WINDOWS = [
    (4.0, 0.2, 0.5, "past the bend: narrow"),
    (1.0, 0.2, 0.5, "at the bend: wide and lopsided"),
    (0.5, 0.2, 0.5, "before it: nearly the whole range"),
    (2.0, 0.005, 0.3, "from next to 0: the bound on R0 cuts"),
    (2.0, 0.2, 0.78, "towards 1: the bound on A cuts"),
]


@pytest.mark.parametrize(("ratio", "r0", "rise"), [row[:3] for row in WINDOWS], ids=[row[3] for row in WINDOWS])
def test_ceiling_has_the_quantiles_of_a_plain_sum_over_all_parameters(ratio, r0, rise):
    sd = 0.02
    c = np.linspace(0.0, ratio, 10)
    wiggle = 0.02 * np.array([0.3, -1.1, 0.8, -0.2, 1.3, -0.9, 0.1, 0.7, -1.2, 0.4])
    y = r0 + rise * c**1.7 / (1 + c**1.7) + wiggle
    levels = [0.05, 0.25, 0.5, 0.75, 0.95]
    found = np.quantile(_fit(c / ratio, y, _known(sd, 10)).ceiling, levels)
    assert found == pytest.approx(_plain_posterior(c / ratio, y, sd, levels), abs=0.012)


def test_the_noise_factor_is_learned_where_there_are_many_points():
    rng = np.random.default_rng(3)
    x = np.linspace(0.01, 1.0, 200)
    y = 0.2 + 0.5 * x / (x + 0.1) + rng.normal(0.0, 0.03, 200)
    found = _fit(x, y, Noise(np.full(200, 0.01**2), log_sd=0.7, smallest=0.5))
    assert found.factor == pytest.approx(3.0, rel=0.12)  # .03 / .01; the sd of an sd of 196 is 5 %


def test_a_shorter_interval_where_a_point_on_the_curve_is_added():
    x = np.linspace(0.1, 1.0, 10)
    y = 0.2 + 0.5 * x**2 / (x**2 + 0.09)
    widths = []
    for size in (8, 9, 10):
        found = _fit(x[:size] / x[size - 1], y[:size], _known(0.02, size, KINDS))
        low, high = np.quantile(found.ceiling, [0.05, 0.95])
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]


def test_errors_that_wander_are_found_and_widen_the_interval():
    """Errors in blocks of five that are all alike, against as many of the same size that alternate."""
    x = np.linspace(0.02, 1.0, 50)
    y = 0.2 + 0.5 * x**2 / (x**2 + 0.09)
    known = Noise(np.full(50, 0.01**2), log_sd=0.5, smallest=0.5)
    blocks = np.repeat([0.02, -0.02, -0.02, 0.02, 0.02, -0.02, 0.02, -0.02, -0.02, 0.02], 5)
    shuffled = blocks[np.random.default_rng(1).permutation(50)]
    wandering, jumping = _fit(x, y + blocks, known), _fit(x, y + shuffled, known)
    assert wandering.correlation > 0.5 > 0.3 > jumping.correlation
    widths = [np.ptp(np.quantile(each.ceiling, [0.05, 0.95])) for each in (wandering, jumping)]
    assert widths[0] > 1.5 * widths[1]


def test_evidence_is_the_density_summed_over_the_priors():
    """Exponential law, everything summed on a plain grid: priors of density 2 over the triangle, uniform in log tau."""
    x, sd = np.linspace(0.0, 1.0, 8), 0.02
    y = 0.2 + 0.4 * (1 - np.exp(-x / 0.3)) + 0.01 * np.array([1, -1, 0.5, -0.2, 1.2, -0.8, 0.3, -0.6])
    found = _fit(x, y, _known(sd, 8), EXPONENTIAL)
    levels = np.linspace(0.0, 1.0, 126)
    axis = EXPONENTIAL.axes(x)[0]
    taus, total = np.linspace(axis[0], axis[-1], 150), 0.0
    for tau in taus:
        share = 1 - np.exp(-x / math.exp(tau))
        curve = levels[:, None, None] * (1 - share) + levels[None, :, None] * share  # start by ceiling
        density = np.exp(-0.5 * (((y - curve) / sd) ** 2).sum(axis=-1))
        total += np.triu(density).sum() * (levels[1] - levels[0]) ** 2 / len(taus)
    # All laws share what is left out there: the determinant of the stated errors, 2 pi of the points and of the
    # linear parameters; and the factor's prior.
    factor = math.log(1e-4 * math.sqrt(2 * math.pi))
    assert found.log_evidence == pytest.approx(math.log(total) - math.log(2 * math.pi) + factor, abs=0.1)


def test_laws_fit_the_same_together_and_alone():
    x = np.linspace(0.0, 1.0, 12)
    y, noise = 0.2 + 0.4 * x / (x + 0.2), Noise(np.full(12, 1e-4), log_sd=0.5, smallest=0.5)
    laws = (SIGMOID, *CURVED_RIVALS)
    for law, found in zip(laws, fit_posteriors(laws, x, y, noise, num_draws=[400] * 4), strict=True):
        alone = _fit(x, y, noise, law)
        assert found.law is law
        assert found.ceiling == pytest.approx(alone.ceiling)
        assert found.curve == pytest.approx(alone.curve)
        assert found.log_evidence == pytest.approx(alone.log_evidence)


def test_the_same_points_give_the_same_draws():
    x, y = np.linspace(0.0, 1.0, 12), np.linspace(0.2, 0.6, 12)
    noise = Noise(np.full(12, 1e-4), log_sd=0.7, smallest=0.5)
    one, two = _fit(x, y, noise), _fit(x, y, noise)
    for name in ("ceiling", "first", "second", "low"):
        assert (getattr(one, name) == getattr(two, name)).all()
    assert (one.low <= one.ceiling).all()
    assert (np.diff(one.ceiling) >= 0.0).all()


def test_cut_normal_has_the_quantiles_of_the_table():
    cut = Cut(np.array([0.5, 0.0, 2.0]), np.array([0.1, 1.0, 0.5]), np.array([1.0, 1.0, 1.0]))
    # symmetric; P(0 < z < 1) = .34134, its middle at P(z) = .67067, z = .4418; far outside: next to the edge
    assert cut.quantile(np.array([0.5, 0.5, 0.5]))[:2] == pytest.approx([0.5, 0.4418], abs=1e-3)
    assert 0.8 < cut.quantile(np.array([0.5, 0.5, 0.5]))[2] < 1.0
    assert np.exp(cut.log_mass()) == pytest.approx([1.0, 0.34134, 0.02275], abs=1e-4)
    # .618 of the way through each half: at P(z) = .309 and .809, z = -.4987 and .8742
    assert cut.slices(2)[0] == pytest.approx([0.5 - 0.04987, 0.5 + 0.08742], abs=1e-3)


def test_cut_normal_without_any_mass_stays_finite():
    far = Cut(np.array([50.0]), np.array([0.1]), np.array([1.0]))
    assert np.isfinite(far.log_mass()).all()
    assert far.quantile(np.array([0.5]))[0] == 1.0
