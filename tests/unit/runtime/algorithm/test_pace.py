"""The pace by hand, and over every small state: it never exceeds the bound and never lets the trainer wait for ever."""

import itertools

import pytest

from scalerl_runtime.algorithm.pace import RunningShare, groups_to_start
from scalerl_runtime.algorithm.staleness import Admission, StalenessBound, capacity, select_batch

EIGHT = StalenessBound(prompts_per_step=48, max_lag=8, cycle=0)  # 9 batches may be outstanding, 3 of them are slack


@pytest.mark.parametrize(
    ("ready", "in_flight", "want"),
    [
        pytest.param(0, 0, 288, id="at the start: 6 batches"),
        pytest.param(48, 200, 40, id="one batch ready is counted once"),
        pytest.param(49, 200, 39, id="one more takes its own place"),
        pytest.param(50, 200, 37, id="two more take that of a third one too"),
        pytest.param(96, 168, 0, id="two batches ready: 24 fewer"),
        pytest.param(300, 0, 0, id="never negative"),
    ],
)
def test_by_hand(ready, in_flight, want):
    assert groups_to_start(EIGHT, ready, in_flight) == want


@pytest.mark.parametrize(("max_lag", "batches"), [(1, 2), (2, 3), (3, 3), (4, 4), (8, 6), (16, 11)])
def test_slack_by_lag(max_lag, batches):
    assert groups_to_start(StalenessBound(10, max_lag, 0), 0, 0) == 10 * batches


@pytest.mark.parametrize("cycle", [1, 2, 4])
def test_a_cycle_has_no_pace(cycle):
    bound = StalenessBound(3, cycle - 1, cycle)
    for ready, in_flight in itertools.product(range(3 * cycle + 1), repeat=2):
        assert groups_to_start(bound, ready, in_flight) == max(0, 3 * cycle - ready - in_flight)


BOUNDS = [StalenessBound(p, lag, 0) for p in (1, 2, 3, 5) for lag in (1, 2, 3, 4, 8)]
BOUNDS += [StalenessBound(p, k - 1, k) for p in (1, 3) for k in (1, 2, 4)]


@pytest.mark.parametrize("bound", BOUNDS, ids=str)
def test_the_trainer_never_waits_for_nothing(bound):
    """Each state in which no group is in flight: a step can begin, or the pace and the bound let a group start.

    A group in flight ends, so by induction the trainer gets its batch.
    """
    cycles = bound.cycle or 1
    for version, ready in itertools.product(range(2 * cycles), range((bound.max_lag + 1) * bound.prompts_per_step + 1)):
        state = Admission(version, admitted=ready, consumed=0)
        newest = version - version % cycles
        left = bound.deadline(newest) + 1 - version
        if ready > left * bound.prompts_per_step:
            continue  # not reachable: `capacity` admits no more
        chosen = select_batch(bound, version, [newest] * ready, [])
        if chosen is None:
            assert min(groups_to_start(bound, ready, 0), capacity(bound, state, newest)) >= 1, (version, ready)


@pytest.mark.parametrize("bound", BOUNDS, ids=str)
def test_never_more_than_the_bound_allows_a_generator_on_the_newest_weights(bound):
    most = (bound.max_lag + 1) * bound.prompts_per_step
    for ready, in_flight in itertools.product(range(most + 4), repeat=2):
        assert 0 <= groups_to_start(bound, ready, in_flight) <= max(0, most - ready - in_flight)


def test_a_ready_group_never_lets_more_start():
    for ready, in_flight in itertools.product(range(300), range(0, 300, 7)):
        assert groups_to_start(EIGHT, ready + 1, in_flight) <= groups_to_start(EIGHT, ready, in_flight)


def test_running_share():
    assert RunningShare().value == 1.0
    first = RunningShare().add([10, 20, 30])
    assert first.value == pytest.approx(20 / 30)
    assert first.sequences(256) == 384
    second = first.add([94, 94, 94])  # mean 20 + 74/64, longest 30 + 64/64
    assert second.value == pytest.approx((20 + 74 / 64) / 31)
    assert RunningShare().add([1, 1, 1, 1, 996]).value == 0.25, (
        "one long completion: four times the sequences, not more"
    )
    assert RunningShare().add([0, 0]).value == 1.0
