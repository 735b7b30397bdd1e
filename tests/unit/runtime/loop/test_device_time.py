import pytest

from scalerl_runtime.loop.device_time import RoleClock


def test_device_seconds_by_phase():
    clock = RoleClock(devices=3)
    clock.switch("train", 5.0)  # before the start: not counted
    clock.start(10.0)
    assert clock.switch("wait", 12.0) == "train"
    assert clock.switch("train", 16.0) == "wait"
    assert clock.total(17.0) == pytest.approx(3 * 7.0)
    assert clock.seconds == {"train": 3 * (2.0 + 1.0), "wait": 3 * 4.0}
    assert clock.idle_fraction(17.0) == pytest.approx(4 / 7)


@pytest.mark.parametrize(
    ("phase", "fraction", "rule"),
    [("idle", 1.0, "idle is idle"), ("wait", 1.0, "so is waiting"), ("generate", 0.0, "work is not")],
)
def test_idle_phases(phase, fraction, rule):
    clock = RoleClock(1)
    clock.switch(phase, 0.0)
    clock.start(1.0)
    assert clock.idle_fraction(3.0) == fraction, rule


def test_nothing_is_counted_before_the_start():
    clock = RoleClock(2)
    assert (clock.total(9.0), clock.idle_fraction(9.0)) == (0.0, 0.0)


def test_reading_twice_counts_once():
    clock = RoleClock(2)
    clock.start(0.0)
    assert (clock.total(4.0), clock.total(4.0)) == (8.0, 8.0)
