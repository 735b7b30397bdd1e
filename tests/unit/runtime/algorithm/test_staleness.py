import dataclasses
import json
import math

import numpy as np
import pytest

from scalerl_api.recipe import Asynchrony, Recipe
from scalerl_runtime.algorithm.pace import groups_to_start
from scalerl_runtime.algorithm.staleness import (
    Admission,
    StalenessBound,
    StalenessError,
    build_staleness_bound,
    capacity,
    plan_resume,
    select_batch,
)

PIPELINE = StalenessBound(prompts_per_step=3, max_lag=2, cycle=0)
CYCLE = StalenessBound(prompts_per_step=3, max_lag=3, cycle=4)
SYNCHRONOUS = StalenessBound(prompts_per_step=3, max_lag=0, cycle=1)


@pytest.mark.parametrize(
    ("asynchrony", "want"),
    [
        (Asynchrony(mode="pipeline", max_lag=5, off_policy_steps=2), StalenessBound(7, 5, 0)),
        (Asynchrony(mode="offPolicy", max_lag=5, off_policy_steps=4), StalenessBound(7, 3, 4)),
        (Asynchrony(mode="synchronous", max_lag=5, off_policy_steps=4), StalenessBound(7, 0, 1)),
    ],
)
def test_modes(asynchrony, want):
    assert build_staleness_bound(Recipe(asynchrony=asynchrony, prompts_per_step=7)) == want


def test_deadlines_and_pushes():
    assert [PIPELINE.deadline(v) for v in (0, 1, 9)] == [2, 3, 11]
    assert [CYCLE.deadline(v) for v in (0, 3, 4, 6)] == [3, 3, 7, 7]
    assert [SYNCHRONOUS.deadline(v) for v in (0, 1)] == [0, 1]
    assert [v for v in range(9) if CYCLE.is_push_due(v)] == [0, 4, 8]
    assert all(PIPELINE.is_push_due(v) and SYNCHRONOUS.is_push_due(v) for v in range(9))


@pytest.mark.parametrize(
    ("bound", "state", "generator", "want"),
    [
        pytest.param(PIPELINE, Admission(0, 0, 0), 0, 9, id="at the start (0 + 2 + 1) * 3"),
        pytest.param(PIPELINE, Admission(4, 16, 12), 4, 5, id="(4 + 2 + 1) * 3 - 16"),
        pytest.param(PIPELINE, Admission(4, 16, 12), 3, 2, id="a generator one behind gets 3 fewer"),
        pytest.param(PIPELINE, Admission(4, 16, 12), 1, 0, id="a stale generator gets none"),
        pytest.param(PIPELINE, Admission(4, 14, 10), 4, 5, id="what counts is outstanding, not steps times 3"),
        pytest.param(SYNCHRONOUS, Admission(4, 12, 12), 4, 3, id="synchronous: one batch"),
        pytest.param(SYNCHRONOUS, Admission(4, 12, 12), 3, 0, id="synchronous: only on the newest weights"),
        pytest.param(CYCLE, Admission(4, 12, 12), 4, 12, id="offPolicy: the whole cycle at once"),
        pytest.param(CYCLE, Admission(5, 24, 15), 4, 0, id="offPolicy: nothing more while it is trained"),
        pytest.param(CYCLE, Admission(6, 18, 18), 6, 6, id="offPolicy: a resume without its buffer fills the rest"),
    ],
)
def test_capacity_by_hand(bound, state, generator, want):
    assert capacity(bound, state, generator) == want


@pytest.mark.parametrize(
    ("completed", "in_flight", "want"),
    [
        # P = 3, lag 2, trainer at version 5: what was admitted at 3 is due now, at 4 next, at 5 after that.
        pytest.param([5, 5], [], None, id="too few groups: wait"),
        pytest.param([5, 4, 5, 3], [], (3, 1, 0), id="the earliest deadlines go first, ties as they came"),
        pytest.param([5, 5, 5], [4], (0, 1, 2), id="a group in flight that can still be late is not waited for"),
        pytest.param([5, 5, 5], [3], None, id="the deadline of a group in flight is now: wait for it"),
        pytest.param([5, 5, 5], [4, 4, 4], (0, 1, 2), id="three due next fit the next step"),
        pytest.param([5, 5, 5], [4, 4, 4, 4], None, id="four do not: wait now, though none is due yet"),
        pytest.param([5, 5, 5, 4], [4, 4, 4], (3, 0, 1), id="taking one of them makes room"),
        pytest.param([5, 5, 5, 5], [5, 5, 5, 4, 4], (0, 1, 2), id="six fit into the next two steps"),
        pytest.param([5, 5, 5, 5], [5, 5, 5, 4, 4, 4], None, id="seven do not"),
    ],
)
def test_select_by_hand(completed, in_flight, want):
    assert select_batch(PIPELINE, 5, completed, in_flight) == want


def test_select_for_a_refill_takes_fewer():
    assert select_batch(PIPELINE, 5, [5, 4], [], num_groups=1) == (1,)
    assert select_batch(PIPELINE, 5, [5], [4, 4, 4, 4], num_groups=1) is None


def test_a_cycle_is_trained_only_when_it_is_complete():
    assert select_batch(CYCLE, 4, [4] * 11, [4]) is None
    assert select_batch(CYCLE, 4, [4] * 12, []) == (0, 1, 2)


@pytest.mark.parametrize(
    ("completed", "in_flight"),
    [
        pytest.param([2, 5, 5], [5], id="a complete group is past its deadline"),
        pytest.param([4, 4, 4, 4, 4, 4, 4], [], id="seven due in two steps of three, and nothing in flight"),
    ],
)
def test_a_broken_bound_raises_and_never_waits_for_ever(completed, in_flight):
    with pytest.raises(StalenessError, match="within lag 2 at 3 groups a step"):
        select_batch(PIPELINE, 5, completed, in_flight)


def test_counters():
    state = Admission(version=2, admitted=9, consumed=6).admit(2).withdraw()
    assert state == Admission(2, 10, 6)
    assert state.step(3) == Admission(3, 10, 9)
    assert state.resume(1) == Admission(2, 7, 6)  # of the four outstanding only one was in the buffer
    assert Admission(**json.loads(json.dumps(dataclasses.asdict(state)))) == state
    with pytest.raises(ValueError, match="5 groups consumed, 4 outstanding"):
        state.step(5)
    with pytest.raises(ValueError, match="5 groups withdrawn, 4 outstanding"):
        state.withdraw(5)


@pytest.mark.parametrize(
    ("bound", "want"),
    [
        pytest.param(PIPELINE, (0, 1, 2, 3, 4), id="nothing changed, nothing is lost"),
        pytest.param(StalenessBound(3, 1, 0), (0, 1, 2, 4), id="lag 1: admitted at 3 is too old at 5"),
        pytest.param(StalenessBound(1, 2, 0), (0, 1, 3), id="one a step: one of each version fits"),
    ],
)
def test_resume_with_a_stricter_bound_drops_only_groups_that_would_be_late(bound, want):
    assert plan_resume(bound, 5, [5, 4, 5, 3, 4]) == want


# ---- A whole run, simulated. Time is counted in ticks; nothing sleeps.


@dataclasses.dataclass
class Work:
    serial: int
    admitted_version: int
    generator: int
    done_at: int
    versions: set  # every version that sampled one of its tokens


class Run:
    """Trainer and generators over the pure rules, with long-tailed completion times."""

    def __init__(self, bound, *, generators, seed):
        self.bound, self.rng = bound, np.random.default_rng(seed)
        self.state = Admission()
        self.weights = [0] * generators  # version each generator runs
        self.held_until = [0] * generators  # an evaluation holds the generator's version
        self.flight, self.buffer = [], []
        self.now = self.serial = self.stepping_until = 0
        self.batch = None
        self.trained, self.lags, self.waits = [], [], []

    def admit(self):
        for generator in self.rng.permutation(len(self.weights)):
            version = self.weights[generator]
            paced = groups_to_start(self.bound, len(self.buffer), len(self.flight))
            for _ in range(min(capacity(self.bound, self.state, version), paced, 6)):
                # a long tail: most take a few ticks, some a hundred times as long
                ticks = int(min(2000, math.ceil(3 * (1 + self.rng.pareto(0.8)))))
                self.flight.append(Work(self.serial, version, generator, self.now + ticks, {version}))
                self.serial += 1
                self.state = self.state.admit()

    def generate(self):
        for work in self.flight:
            work.versions.add(self.weights[work.generator])
        self.buffer += sorted((w for w in self.flight if w.done_at <= self.now), key=lambda w: w.done_at)
        self.flight = [w for w in self.flight if w.done_at > self.now]

    def train(self):
        if self.batch is not None:
            if self.now < self.stepping_until:
                return
            for work in self.batch:
                self.lags += [self.state.version - v for v in work.versions]
                self.trained.append(work.serial)
            self.state, self.batch = self.state.step(len(self.batch)), None
        chosen = select_batch(
            self.bound,
            self.state.version,
            [w.admitted_version for w in self.buffer],
            [w.admitted_version for w in self.flight],
        )
        if chosen is None:
            return
        self.batch = [self.buffer[i] for i in chosen]
        self.buffer = [w for i, w in enumerate(self.buffer) if i not in set(chosen)]
        self.stepping_until = self.now + int(self.rng.integers(1, 10))

    def push(self):
        for generator in range(len(self.weights)):
            if self.now < self.held_until[generator] or self.rng.random() < 0.3:  # late pushes
                continue
            if self.rng.random() < 0.02:
                self.held_until[generator] = self.now + int(self.rng.integers(10, 200))
                continue
            due = [v for v in range(self.state.version + 1) if self.bound.is_push_due(v)]
            self.weights[generator] = due[-1]

    def until(self, version, *, limit=60_000):
        """Run until the trainer reaches `version`; a deadlock shows as reaching `limit` ticks."""
        while self.state.version < version:
            self.now += 1
            assert self.now < limit, f"stuck at version {self.state.version}"
            self.push()
            self.admit()
            self.generate()
            self.train()
        return self

    def crash(self, checkpoint):
        """Start again from `checkpoint`: the buffer and the weights survive, the groups in flight do not."""
        state, buffer = checkpoint
        kept = plan_resume(self.bound, state.version, [w.admitted_version for w in buffer])
        assert len(kept) == len(buffer)  # an unchanged bound loses nothing
        self.buffer, self.flight, self.batch = list(buffer), [], None
        self.state = state.resume(len(buffer))
        self.weights = [state.version] * len(self.weights)
        self.held_until = [0] * len(self.weights)

    def checkpoint(self):
        return self.state, [*(self.batch or ()), *self.buffer]


BOUNDS = [
    pytest.param(StalenessBound(4, 1, 0), id="pipeline-1"),
    pytest.param(StalenessBound(4, 4, 0), id="pipeline-4"),
    pytest.param(StalenessBound(4, 8, 0), id="pipeline-8"),
    pytest.param(StalenessBound(1, 4, 0), id="pipeline-4, one prompt a step"),
    pytest.param(StalenessBound(4, 0, 1), id="synchronous"),
    pytest.param(StalenessBound(4, 3, 4), id="offPolicy-4"),
]


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("generators", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_lag_is_bounded_and_nothing_starves(bound, generators, seed):
    run = Run(bound, generators=generators, seed=seed).until(60)
    assert max(run.lags) <= bound.max_lag
    # No discard: every group that was admitted is trained once, or still outstanding and not late.
    outstanding = [*run.flight, *run.buffer, *(run.batch or ())]
    assert sorted(run.trained + [w.serial for w in outstanding]) == list(range(run.serial))
    assert all(bound.deadline(w.admitted_version) >= run.state.version for w in outstanding)
    # No starvation: a group trains at most max_lag steps after its admission, so at most (max_lag + 1) P later ones
    # can be trained before it.
    for position, serial in enumerate(run.trained):
        assert position - serial < (bound.max_lag + 1) * bound.prompts_per_step


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("seed", range(4))
def test_staleness_bound_after_resume(bound, seed):
    """Crashes at random times.

    State from a checkpoint, groups in flight lost. The bound holds and training continues.
    """
    run = Run(bound, generators=2, seed=seed)
    for version in (7, 15, 16, 30, 41):
        run.until(version)
        checkpoint = run.checkpoint()
        run.until(version + int(run.rng.integers(0, 3)))  # progress after the checkpoint is lost too
        run.crash(checkpoint)
        assert run.state.version == version
    run.until(60)
    assert run.state.outstanding == len([*run.flight, *run.buffer, *(run.batch or ())])
    assert max(run.lags) <= bound.max_lag


def test_pipeline_overlaps_and_uses_its_lag():
    """The bound is not kept by waiting: at lag 8 some tokens are old, and far fewer ticks pass than at lag 0."""
    ahead = [Run(StalenessBound(4, 8, 0), generators=3, seed=seed).until(60) for seed in range(4)]
    in_step = [Run(StalenessBound(4, 0, 1), generators=3, seed=seed).until(60) for seed in range(4)]
    assert max(ahead[0].lags) >= 6
    assert 2 * sum(run.now for run in ahead) < sum(run.now for run in in_step)
