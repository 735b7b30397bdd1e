"""Lengths: grids whose sums are known by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerl_api.recipe import Length
from scalerl_operator.capacity.lengths import Lengths, assume_lengths, longest_completion, measured_lengths

TWO = Lengths((100.0, 300.0), prompt=10.0, source="by hand")


def test_sums_of_two_lengths():
    assert TWO.mean == 200
    assert TWO.sequence == 210
    assert TWO.sequence_squared == (110**2 + 310**2) / 2
    assert TWO.context == pytest.approx(10 + (100**2 + 300**2) / (2 * 400))  # 100 steps see 50 on average, 300 see 150
    assert TWO.longest_of(1) == 200
    assert TWO.longest_of(2) == 100 * 0.25 + 300 * 0.75  # both are short with a chance of 1/4
    assert TWO.longest == 300


@pytest.mark.parametrize(
    ("control", "expected"), [("interruption", 900 + 50), ("none", 1000 + 50), ("penalty", 1000 + 50)]
)
def test_the_longest_completion_is_what_the_control_lets_through(control, expected):
    length = Length(control=control, think_tokens=1000, answer_tokens=50, interrupt_min=800, interrupt_max=900)
    assert longest_completion(length) == expected


@given(st.floats(1, 14_000))
def test_an_assumed_mean_is_met(mean):
    found = assume_lengths(Length(), mean_tokens=mean)
    assert found.mean == pytest.approx(mean, rel=1e-6)
    assert found.longest <= 14_048
    assert list(found.grid) == sorted(found.grid)


def test_the_default_is_a_stated_share_of_the_limit():
    found = assume_lengths(Length())
    assert found.mean == pytest.approx(0.4 * 14_048)
    assert "40% of the longest, assumed" in found.source
    assert "10% of promptTokens, assumed" in found.source


@pytest.mark.parametrize("mean", [0.0, -1.0, 14_049.0])
def test_an_impossible_mean_is_refused(mean):
    with pytest.raises(ValueError, match="at most 14048"):
        assume_lengths(Length(), mean_tokens=mean)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=2000))
def test_measured_lengths_keep_the_mean(values):
    found = measured_lengths(values, 5.0, "a run")
    assert len(found.grid) <= 400
    assert found.mean == pytest.approx(sum(values) / len(values), rel=0.05, abs=5000 / 400)
    assert found.longest <= max(values)
