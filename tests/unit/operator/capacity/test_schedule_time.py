"""The fluid schedule: limits by hand, and what more of anything may never do."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl_api.recipe import Asynchrony, Length
from scalerl_operator.capacity.lengths import Lengths, assume_lengths
from scalerl_operator.capacity.schedule import Demand, Supply, drain_seconds, time_step

CONSTANT = Lengths((1000.0,), prompt=0.0, source="by hand")
SPREAD = assume_lengths(Length(control="none", think_tokens=4000, answer_tokens=1000), mean_tokens=1500)


def demand(lengths=CONSTANT, **values):
    fixed = {"prompts": 10, "completions": 4, "asynchrony": Asynchrony(max_lag=8), "lengths": lengths}
    return Demand(**(fixed | values))


def supply(**values):
    fixed = {"engines": 2, "max_sequences": 50, "token_seconds": lambda n: 0.01 + 0.0001 * n, "train_seconds": 30.0}
    return Supply(**(fixed | values))


def test_a_slow_trainer_is_the_step_and_engines_run_what_it_needs():
    found = time_step(demand(), supply())
    assert (found.seconds, found.limit, found.trainer_idle) == (30.0, "trainer", 0.0)
    # 40,000 tokens in 30 s from two engines: n / (.01 + .0001 n) = 666.7 a second, so n = 7.14.
    assert found.running == pytest.approx(6.667 / (1 - 0.0667), rel=0.01)


def test_slow_engines_are_the_step_when_they_are_full():
    found = time_step(demand(), supply(train_seconds=1.0, engines=1, max_sequences=20))
    assert found.limit == "generators"
    assert found.seconds == pytest.approx(40_000 / (20 / 0.012))  # 24 s
    assert found.trainer_idle == pytest.approx(1 - 1 / 24)
    assert found.generator_idle == pytest.approx(0.0, abs=1e-6)


def test_a_small_lag_waits_for_the_longest():
    """10 s of the longest, 2 of the update and 8 of training into two steps, though the engines could do it in 4."""
    found = time_step(
        demand(asynchrony=Asynchrony(max_lag=1)),
        supply(train_seconds=8.0, sync_seconds=2.0, engines=20, max_sequences=100, token_seconds=lambda _: 0.01),
    )
    assert (found.limit, found.seconds) == ("lag", pytest.approx(10.0))


def test_synchronous_adds_both_sides():
    found = time_step(
        demand(asynchrony=Asynchrony(mode="synchronous")),
        supply(token_seconds=lambda _: 0.01, sync_seconds=2.0),
    )
    assert found.seconds == pytest.approx(30 + 2 + 10)  # 20 sequences an engine fit at once: 1,000 tokens of 10 ms
    assert found.limit == "turns"


def test_off_policy_shares_the_drain_among_its_steps():
    four = demand(asynchrony=Asynchrony(mode="offPolicy", off_policy_steps=4))
    found = time_step(four, supply(token_seconds=lambda _: 0.01, sync_seconds=2.0))
    assert found.seconds == pytest.approx(30 + (2 + 10 + 0.6 * 10) / 4)  # 80 an engine, 50 at once: 30 wait


def test_a_batch_that_drains():
    full = supply(token_seconds=lambda n: 0.001 * n, engines=1, max_sequences=10)
    assert drain_seconds(CONSTANT, 30, full) == pytest.approx(30.0)  # 30,000 tokens at 1 ms each, at any load


slow_machine = settings(deadline=None, max_examples=60)
AMOUNTS = st.floats(1.01, 4.0)


@slow_machine
@given(
    AMOUNTS,
    st.sampled_from(["engines", "max_sequences", "speed", "train", "sync", "lag"]),
    st.sampled_from(["pipeline", "synchronous", "offPolicy"]),
    st.sampled_from([1, 2, 8]),
    st.floats(0.5, 100),
)
def test_more_of_anything_never_slows_a_step(factor, what, mode, lag, train):
    base = demand(SPREAD, asynchrony=Asynchrony(mode=mode, max_lag=lag))
    slow = supply(train_seconds=train, sync_seconds=1.0)
    fast = {
        "engines": dataclasses.replace(slow, engines=round(2 * factor + 0.5)),
        "max_sequences": dataclasses.replace(slow, max_sequences=50 * factor),
        "speed": dataclasses.replace(slow, token_seconds=lambda n: (0.01 + 0.0001 * n) / factor),
        "train": dataclasses.replace(slow, train_seconds=train / factor),
        "sync": dataclasses.replace(slow, sync_seconds=1.0 / factor),
        "lag": slow,
    }[what]
    better = dataclasses.replace(base, asynchrony=base.asynchrony.model_copy(update={"max_lag": lag + 4}))
    before, after = time_step(base, slow), time_step(better if what == "lag" else base, fast)
    assert after.seconds <= before.seconds * (1 + 1e-6)


@slow_machine
@given(AMOUNTS, st.floats(0.5, 100), st.sampled_from(["prompts", "lengths"]))
def test_more_work_never_speeds_a_step(factor, train, what):
    base = demand(SPREAD)
    more = {
        "prompts": dataclasses.replace(base, prompts=round(10 * factor + 0.5)),
        "lengths": dataclasses.replace(base, lengths=Lengths(tuple(factor * x for x in SPREAD.grid), 0.0, "")),
    }[what]
    assert time_step(more, supply(train_seconds=train)).seconds >= time_step(
        base, supply(train_seconds=train)
    ).seconds * (1 - 1e-6)


@slow_machine
@given(st.floats(0.5, 100), st.integers(1, 30), st.floats(1, 500))
def test_shares_are_shares(train, engines, sequences):
    found = time_step(demand(SPREAD), supply(train_seconds=train, engines=engines, max_sequences=sequences))
    assert 0 <= found.trainer_idle < 1
    assert 0 <= found.generator_idle < 1
    assert found.running <= sequences * (1 + 1e-9)
    assert found.seconds >= max(found.trainer_seconds, found.generator_seconds) * (1 - 1e-6)
