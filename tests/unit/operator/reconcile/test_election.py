"""Leader election on fixed clocks."""

import pytest

from scalerl_operator.reconcile.election import LeaseTimings, ObservedLease, Watched, choose, is_valid, watch

TERMS = LeaseTimings(duration=10.0, renew=6.0, retry=2.0)
THEIRS = ObservedLease("other", "41")

ROWS = [
    (Watched(None, 0.0), 1.0, "take", "there is no lease"),
    (Watched(ObservedLease("", "7"), 0.0), 1.0, "take", "it was released"),
    (Watched(ObservedLease("me", "7"), 0.0), 99.0, "renew", "it is ours, however old"),
    (Watched(THEIRS, 100.0), 109.9, "wait", "theirs, and it changed within its duration"),
    (Watched(THEIRS, 100.0), 110.0, "take", "theirs, and it has not changed for its whole duration"),
]


@pytest.mark.parametrize(("watched", "now", "step"), [row[:3] for row in ROWS], ids=[row[3] for row in ROWS])
def test_what_to_do(watched: Watched, now: float, step: str) -> None:
    assert choose(watched, "me", now, TERMS) == step


def test_only_a_change_begins_the_wait_anew() -> None:
    first = watch(Watched(), THEIRS, 5.0)
    assert watch(first, THEIRS, 9.0) == Watched(THEIRS, 5.0)
    renewed = ObservedLease("other", "42")
    assert watch(first, renewed, 9.0) == Watched(renewed, 9.0)
    assert watch(first, None, 9.0) == Watched(None, 9.0)


def test_who_could_not_renew_stops_before_another_may_begin() -> None:
    assert not is_valid(None, 0.0, TERMS)
    assert is_valid(50.0, 55.9, TERMS)
    assert not is_valid(50.0, 56.0, TERMS)


def test_the_real_terms() -> None:
    """A renewal that is under way while the old one ends can take a retry: there is room for it. 20 s to take over."""
    terms = LeaseTimings()
    assert terms.renew + terms.retry < terms.duration
    assert terms.duration + 2 * terms.retry < 20.0
