"""The work queue, on written-down times."""

from hypothesis import given
from hypothesis import strategies as st

from scalerl_operator.reconcile.work_queue import Backoff, WorkQueue

BACKOFF = Backoff(first_seconds=3.0, max_seconds=20.0)


def test_a_key_that_is_added_twice_is_taken_once() -> None:
    queue = WorkQueue[str]()
    queue.add("a", 10.0)
    queue.add("a", 11.0)
    assert queue.take(12.0) == ("a", 2.0)
    queue.succeed("a", 12.0)
    assert queue.take(99.0) is None


def test_the_earliest_due_time_counts() -> None:
    queue = WorkQueue[str]()
    queue.add("a", 0.0, delay=50.0)
    queue.add("a", 0.0, delay=5.0)
    queue.add("a", 0.0, delay=30.0)
    assert (queue.take(4.9), queue.next_due()) == (None, 5.0)
    assert queue.take(5.0) == ("a", 0.0)


def test_who_waits_longest_is_first() -> None:
    queue = WorkQueue[str]()
    for key, when in (("a", 3.0), ("b", 1.0), ("c", 2.0)):
        queue.add(key, when)
    assert [queue.take(9.0) for _ in range(4)] == [("b", 8.0), ("c", 7.0), ("a", 6.0), None]


def test_a_key_in_work_is_given_to_nobody_else_and_comes_again() -> None:
    queue = WorkQueue[str]()
    queue.add("a", 0.0)
    queue.take(0.0)
    queue.add("a", 1.0)
    assert queue.take(2.0) is None
    queue.succeed("a", 3.0)
    assert queue.take(3.0) == ("a", 0.0)


def test_failures_wait_longer_and_longer_and_success_forgets_them() -> None:
    queue = WorkQueue[str](BACKOFF)
    queue.add("a", 0.0)
    waits, now = [], 0.0
    for _ in range(5):
        assert queue.take(now) is not None
        waits.append(queue.fail("a", now))
        now += waits[-1]
    assert waits == [3.0, 6.0, 12.0, 20.0, 20.0]
    queue.take(now)
    queue.succeed("a", now)
    queue.add("a", now)
    queue.take(now)
    assert queue.fail("a", now) == 3.0


def test_events_do_not_shorten_a_failing_keys_wait() -> None:
    queue = WorkQueue[str](BACKOFF)
    queue.add("a", 0.0)
    queue.take(0.0)
    queue.add("a", 0.0)
    queue.fail("a", 0.0)
    queue.add("a", 1.0)
    assert (queue.take(2.9), queue.take(3.0)) == (None, ("a", 0.0))


def test_another_key_is_not_held_up_by_a_failing_one() -> None:
    queue = WorkQueue[str](BACKOFF)
    queue.add("a", 0.0)
    queue.take(0.0)
    queue.fail("a", 0.0)
    queue.add("b", 1.0)
    assert queue.take(1.0) == ("b", 0.0)


def test_a_forgotten_key_is_not_taken() -> None:
    queue = WorkQueue[str]()
    queue.add("a", 0.0)
    queue.forget("a")
    assert (queue.take(9.0), queue.next_due(), len(queue)) == (None, None, 0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["add", "take", "succeed", "fail"])), max_size=60))
def test_no_key_is_lost_and_no_key_is_worked_on_twice(steps: list[tuple[str, str]]) -> None:
    queue, working, wanted, now = WorkQueue[str](BACKOFF), set[str](), set[str](), 0.0
    for key, what in steps:
        now += 1.0
        if what == "add":
            queue.add(key, now)
            wanted.add(key)
        elif what == "take" and (found := queue.take(now)) is not None:
            assert found[0] not in working
            working.add(found[0])
            wanted.discard(found[0])
        elif what == "fail" and key in working:
            queue.fail(key, now)
            wanted.add(key)
            working.discard(key)
        elif what == "succeed" and key in working:
            queue.succeed(key, now)
            working.discard(key)
    assert drain(queue, working, now) == wanted


def drain(queue: WorkQueue[str], working: set[str], now: float) -> set[str]:
    for key in sorted(working):
        queue.succeed(key, now)
    observed = set()
    while (found := queue.take(now + 1000.0)) is not None:
        observed.add(found[0])
    return observed
