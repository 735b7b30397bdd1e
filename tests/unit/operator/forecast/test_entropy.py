"""Entropy's floor: the compute that reaches it, and the cases in which that is unknown."""

import math

import numpy as np
import pytest

from scalerl_operator.forecast import FitError
from scalerl_operator.forecast.entropy import forecast_entropy

DECAY = 0.1 + 1.1 * np.exp(-np.arange(40.0) / 8.0)
X = np.arange(20.0)
NOISE = np.random.default_rng(5).normal(size=20)


def test_entropy_reaches_its_floor_at_the_decays_compute():
    found = forecast_entropy(X, DECAY[:20], floor=0.15)
    assert found.compute == pytest.approx(8.0 * math.log(1.1 / 0.05), rel=0.05)  # 24.7, later than the last point
    assert found.low <= found.compute <= found.high
    assert found.asymptote == pytest.approx(0.1, abs=0.02)


def test_the_sentence_has_the_interval():
    found = forecast_entropy(X, DECAY[:20], floor=0.3, unit="steps")
    ends = f"90 % interval [{found.low:.4g}, {found.high:.4g}]"
    assert found.reason.startswith(f"entropy reaches 0.3 near {found.compute:.4g} steps, {ends}; its decay ends near ")


def test_a_floor_below_the_asymptote_is_never_reached():
    found = forecast_entropy(np.arange(40.0), DECAY, floor=0.05)
    assert found.compute is None
    assert found.reason.startswith("entropy never reaches 0.05 in the most likely course; its decay ends near 0.1 nats")
    assert found.asymptote == pytest.approx(0.1, abs=0.02)


UNKNOWN = [
    (np.full(20, 0.7), "no fall beyond the noise", "constant"),
    (0.7 + 0.01 * NOISE, "no fall beyond the noise (sd 0.01", "flat, with noise"),
    (1.4 - 0.02 * X, "it has not reached its bend; half of it would be near", "a straight decline"),
    (np.append(DECAY[:10], DECAY[:10][::-1]), "it rises again", "down and up"),
    (np.array([1.2, 0.9, 0.7]), "3 usable points; a fit needs at least 4", "too few values"),
    (np.array([]), "0 usable points; a fit needs at least 4", "no value"),
]


@pytest.mark.parametrize(("entropy", "why"), [r[:2] for r in UNKNOWN], ids=[r[2] for r in UNKNOWN])
def test_an_unidentified_decay_has_no_arrival_but_a_reason(entropy, why):
    found = forecast_entropy(X[: len(entropy)], entropy, floor=0.1)
    assert (found.compute, found.low, found.high, found.asymptote) == (None, None, None, None)
    assert found.reason.startswith("entropy's decay is not known: ")
    assert why in found.reason


def test_an_unknown_decays_asymptote_is_printed_in_nats():
    """Past the bend, but with noise of a tenth of the decay."""
    found = forecast_entropy(X, 0.4 + 1.1 * np.exp(-X / 6.0) + 0.12 * NOISE, floor=0.05)
    assert found.compute is None
    assert "it could end anywhere in [0" in found.reason


def test_a_floor_that_was_measured_needs_no_law():
    flat = forecast_entropy(X, np.full(20, 0.07), floor=0.1)
    assert (flat.compute, flat.low, flat.high, flat.asymptote) == (0.0, None, None, None)
    assert flat.reason.startswith("entropy was measured at or below 0.1 first at 0 GPU-h; its decay is not known: ")


def test_the_first_value_at_the_floor_counts_once_the_last_three_are_there():
    entropy = np.array([0.3, 0.1, 0.3])
    assert forecast_entropy([2.0, 4.0, 6.0], entropy, floor=0.1).compute is None, "one of three"
    entropy = np.array([0.3, 0.1, 0.05])
    assert forecast_entropy([2.0, 4.0, 6.0], entropy, floor=0.1).compute == 4.0, "two of three, and at it is there"


def test_entropy_that_is_zero_is_at_any_floor():
    assert forecast_entropy([3.0, 4.0], [0.0, 0.0], floor=0.0).compute == 3.0


def test_a_run_that_began_below_the_floor_has_reached_it():
    found = forecast_entropy(X, DECAY[:20], floor=2.0)
    assert found.compute == 0.0
    assert found.asymptote == pytest.approx(0.1, abs=0.02)


IMPOSSIBLE = [
    ([1.0, -0.1], 0.1, r"entropy\[1\] is -0.1; need a number of at least 0"),
    ([math.nan, 1.0], 0.1, r"entropy\[0\] is nan; need a finite number"),
    ([1.0, 0.9, 0.8], 0.1, "entropy has 3 values and compute has 2"),
    ([1.0, 0.5], -1.0, "floor is -1; need a finite number of at least 0"),
    ([1.0, 0.5], math.nan, "floor is nan"),
]


@pytest.mark.parametrize(("entropy", "floor", "message"), IMPOSSIBLE)
def test_impossible_entropy_is_an_error_that_names_the_value(entropy, floor, message):
    with pytest.raises(FitError, match=message):
        forecast_entropy([1.0, 2.0], entropy, floor=floor)
