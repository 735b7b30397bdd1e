"""The loop on an in-memory fleet. The event loop's clock jumps over every wait; a wait without a timer is an error."""

import asyncio
import collections
import json
import logging
import random
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from trace_receiver import receive_traces
from virtual_clock import play

from scalerl_api import Fault, InvalidRun, parse_run
from scalerl_api.recipe import merge
from scalerl_api.rollouts import RolloutFileName, parse_name
from scalerl_api.wire import EvalPoint
from scalerl_runtime.algorithm.loss import LossStats
from scalerl_runtime.algorithm.results import StepResult, SyncReport
from scalerl_runtime.algorithm.rollout_rows import RowSource
from scalerl_runtime.algorithm.staleness import build_staleness_bound
from scalerl_runtime.algorithm.step import NonFinite
from scalerl_runtime.data.run_data import Data
from scalerl_runtime.deadlines import DeadlineExceeded
from scalerl_runtime.loop.device_time import RoleClock
from scalerl_runtime.loop.eval_sets import list_due_datasets
from scalerl_runtime.loop.interfaces import PipelineDeps
from scalerl_runtime.loop.pipeline import Pipeline
from scalerl_runtime.loop.pool import Pool
from scalerl_runtime.loop.rollout_recorder import RolloutRecorder
from scalerl_runtime.loop.run_state import Journals, initial_state, recorded_evals, resume_state
from scalerl_runtime.loop.slots import PoolOptions, Slot
from scalerl_runtime.storage.checkpoint import CheckpointStore, load_buffer, load_state
from scalerl_runtime.storage.journal import Journal
from scalerl_runtime.storage.rollout_files import RolloutStore
from scalerl_runtime.trackers import tracing
from scalerl_runtime.trackers.tracing import NO_TRACING, open_tracing
from scalerl_runtime.types import EngineOutput, GeneratorLost, Prompt, PromptRefused, Reward, SyncFailed
from scalerl_runtime.weights.buckets import StagedWeights

HELD_OUT = 1000  # first id of the held-out prompts; a prompt's only token is its id
NUM_PROMPTS = 7  # few: a run passes through several epochs
RUN = {
    "apiVersion": "scalerl.io/v1alpha1",
    "kind": "RLRun",
    "metadata": {"name": "unit"},
    "spec": {
        "model": {"source": "some/model"},
        "data": {
            "train": {"source": "none.jsonl"},
            "heldOut": {"prompts": 3, "samplesPerPrompt": 2},
            "promptFormat": "plain",
            "promptTemplate": "{prompt}",
        },
        "reward": {"verifier": "python:toy:any"},
        "recipe": {
            "preset": "scalerl",
            "asynchrony": {"maxLag": 2},
            "noPositiveResampling": False,
            "promptsPerStep": 3,
            "completionsPerPrompt": 2,
            "optimizer": {"warmupSteps": 2},
            "length": {"control": "none", "promptTokens": 4, "thinkTokens": 4, "answerTokens": 4},
        },
        "budget": {"steps": 9, "evalEverySteps": 4},
        "trainer": {"gpusPerReplica": 0, "microBatchTokens": 64},
        "generator": {"gpusPerReplica": 0, "minReplicas": 2, "maxReplicas": 2, "maxSequences": 8},
        "checkpoint": {"everySteps": 2},
        "seed": 5,
    },
}
DEADLINES = {"startSeconds": 11, "generateSeconds": 90, "trainSeconds": 13, "syncSeconds": 14, "checkpointSeconds": 15}


class FakeFleet:
    """Trainer and generators as version numbers. `faults[call, n]` is the fault of the n-th such call."""

    def __init__(self, seed=0, faults=None):
        self.random = random.Random(seed)
        self.version = 0
        self.generators = {}
        self.starts = collections.Counter()
        self.calls = collections.Counter()
        self.faults = faults or {}
        self.sampled = []  # (prompt, version when begun, version at the end)
        self.trained = []  # (version, lags)
        self.checked = []  # (version, log-probabilities of a self-check)
        self.error = lambda _version: 0.0  # of the trainer's log-probabilities in a self-check

    async def _take(self, call, index=None):
        """Take a random time; return False if the generator died meanwhile."""
        self.calls[call] += 1
        fault = self.faults.get((call, self.calls[call]))
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "slow":
            await asyncio.sleep(10.0)
        if fault == "die":
            self.generators.pop(index, None)
        started = self.starts[index]
        for _ in range(self.random.randrange(4)):
            await asyncio.sleep(self.random.choice([0, 0, 0.1, 0.5]))
        return index is None or (index in self.generators and started == self.starts[index])

    async def start_generator(self, index):
        self.generators.pop(index, None)
        self.starts[index] += 1
        await self._take("start")
        self.generators[index] = -1
        return 0.0

    async def sample(self, index, prompt, requests):
        name, begun = int(prompt[0]), self.generators.get(index)
        # Requests of the self-check have a seed, and those of evaluations, whose prompts are others.
        call = "evaluate" if name >= HELD_OUT else "check" if requests[0].seed is not None else "sample"
        fault = self.faults.get((call, self.calls[call] + 1))
        alive = await self._take(call, index)
        if begun is None or not alive:
            raise GeneratorLost(index, "killed")
        ended = self.generators[index]
        if call != "check":
            self.sampled.append((name, begun, ended))
        versions = np.array([begun, ended, ended], np.int32)
        tokens, logps = np.array([1, 2, 3], np.int32), np.full(3, -0.5, np.float32)
        cut = [name >= HELD_OUT and i == 0 for i in range(len(requests))]  # every second one of an evaluation
        finish = ["length" if each else "stop" for each in cut]
        unsound = {"nan": {0}, "all nan": set(range(len(requests)))}.get(fault, set())
        return [
            EngineOutput(tokens, logps * (np.nan if i in unsound else 1.0), versions, f"{name}/{i}", word)
            for i, word in enumerate(finish)
        ]

    async def train(self, batches, *, version, **_rates):
        await self._take("train")
        assert version == self.version + 1, "steps are made one after the other, on the weights before"
        self.version = version
        rows = [micro for rank in batches for micro in rank]
        lag = np.concatenate([micro.lag for micro in rows])
        self.trained.append((version, lag))
        is_nan = self.faults.get(("train", self.calls["train"])) == "nan"
        stats = LossStats(tokens=len(lag), loss=np.nan, kl=np.nan) if is_nan else LossStats(tokens=len(lag), loss=1.0)
        logp = np.concatenate([micro.logp_gen for micro in rows])
        return [StepResult(stats, np.inf if is_nan else 1.0, 0.5, len(lag), logp * stats.loss, logp, lag)]

    async def logprobs(self, batches, version):
        await self._take("logprobs")
        assert version == self.version, "the trainer made a step before the check was done"
        logp = np.concatenate([micro.logp_gen for micro in batches])
        self.checked.append((version, logp))
        return [logp + self.error(version)]

    async def set_version(self, version):
        await self._take("set_version")
        self.version = version

    async def stage(self):
        await self._take("stage")
        return StagedWeights(self.version, (), 0.0)

    async def push(self, members, staged):
        started = {index: self.starts[index] for index in members & self.generators.keys()}
        await self._take("push")
        if self.faults.get(("push", self.calls["push"])) == "lose one":
            self.generators.pop(min(members), None)
        dead = frozenset(i for i in members if i not in self.generators or started.get(i) != self.starts[i])
        if dead:
            raise SyncFailed(dead, "killed")
        for index in members:
            self.generators[index] = staged.version
        return SyncReport(staged.version, 8, 0.1, 0.2, 0.3)

    async def probe(self, index):
        if index not in self.generators:
            raise GeneratorLost(index, "killed")

    async def copy_state(self):
        await self._take("copy")
        self.copied = self.version
        return 0.0

    async def write_copy(self, folder):
        await self._take("save")
        (folder / "weights.json").write_text(json.dumps(self.copied))
        return []

    async def find_damage(self, folder):
        return None if (folder / "weights.json").is_file() else "weights.json is missing"

    async def load(self, folder, version):
        await self._take("load")
        assert json.loads((folder / "weights.json").read_text()) == version
        self.version = version


class Quiet:
    """An observer that only counts."""

    def __init__(self):
        self.steps, self.points, self.records, self.examples, self.checks = [], [], [], [], []
        self.progress, self.late = [], 0

    def on_step(self, record, *_tokens):
        self.steps.append(record.step)
        self.records.append(record)

    def on_groups(self, groups, step):
        self.examples.append((len(groups) > 0, step))

    def on_self_check(self, found):
        self.checks.append(found)

    def on_eval_progress(self, progress):
        self.progress.append(progress)

    def on_late_eval(self):
        self.late += 1

    def on_eval(self, points):
        self.points += points

    def on_checkpoint(self, step, path):
        pass

    def on_phase(self, phase, detail):
        pass


class Attempt:
    """One attempt in a folder: the coordinator's part around the pipeline."""

    def __init__(self, folder, fleet, changes=None, passes=lambda text: text.endswith("0"), tracer=NO_TRACING):
        self.tracer = tracer
        self.run = parse_run(merge(RUN, {"spec": changes or {}}))
        self.recipe, self.fleet, self.observer = self.run.spec.resolved_recipe(), fleet, Quiet()
        self.journals = Journals(*(Journal(folder / name) for name in ("metrics", "evals", "ledger")))
        self.store = CheckpointStore(folder / "checkpoints", 2)
        self.rollouts = folder / "rollouts"
        source = RowSource(attempt=1, seed=5, phrase="", share=1.0)
        store = RolloutStore(self.rollouts, max_bytes=10**9, seed=5)
        self.recorder = RolloutRecorder(store, source, self.run.spec.deadlines.checkpoint_seconds)
        self.passes = passes
        self.pipeline = None

    async def grade(self, _prompt, text):
        await asyncio.sleep(0)
        reward = 1.0 if self.passes(text) else -1.0
        return Reward(reward, by_judge={"toy": reward})

    async def go(self):
        clock, spec, deadlines = asyncio.get_running_loop().time, self.run.spec, self.run.spec.deadlines
        staleness = build_staleness_bound(self.recipe)
        seconds = {"generate_seconds": deadlines.generate_seconds, "start_seconds": deadlines.start_seconds}
        options = PoolOptions(
            self.recipe,
            staleness,
            None,
            spec.seed,
            max_sequences=8,
            max_bad_share=spec.data.max_bad_share,
            **seconds,
        )
        slots = [Slot(index, RoleClock(1)) for index in range(spec.generator.min_replicas)]
        pool = Pool(options, self.fleet, self.grade, slots, clock, self.tracer)
        for slot in slots:
            pool.start_slot(slot)
        tokens = lambda i: np.array([i], np.int32)  # noqa: E731 # one line
        # Without names there is one source; of several every third prompt is of the last one.
        names = [each.label for each in spec.data.train]
        source = lambda i: names[0] if i % 3 else names[-1]  # noqa: E731 # one line
        prompts = [Prompt(i, f"{i}", tokens(i), "", source=source(i)) for i in range(NUM_PROMPTS)]
        held_out = [Prompt(i, f"h{i}", tokens(HELD_OUT + i), "", source=source(i)) for i in range(3)]
        near = {each.name: (Prompt(0, "d", tokens(HELD_OUT + 9), ""),) for each in spec.data.downstream}
        data = Data(tuple(prompts), tuple(held_out), near, (), 0)
        due = lambda step: list_due_datasets(spec, step)  # noqa: E731 # one line
        path, state = self.store.latest(), initial_state(self.recipe)
        if path is not None:
            saved = load_state(path)
            await self.fleet.load(path, saved.step)
            state = resume_state(saved, self.journals, due)
            await self.recorder.resume(saved.step, recorded_evals(self.journals, due))
            pool.groups.restore(
                saved.step, saved.consumed, load_buffer(path, {p.id: p for p in prompts}), saved.in_flight
            )
        deps = PipelineDeps(
            self.run,
            self.recipe,
            staleness,
            data,
            self.fleet,
            pool,
            self.store,
            self.journals,
            self.recorder,
            RoleClock(1),
            0.0,
            1,
            clock,
        )
        self.pipeline = Pipeline(deps, state, self.observer, asyncio.Event())
        await self.pipeline.run(fresh=not state.num_evals and not state.pending)

    @property
    def prompts(self):
        """(epoch, prompt) in the order of training."""
        return [tuple(item) for line in self.journals.ledger.read() for item in line["prompts"]]

    def stored(self, dataset):
        """Prompt ids by step, one for each stored completion."""
        names = [parse_name(path.name) for path in self.rollouts.iterdir()]
        steps = sorted(name.step for name in names if name.dataset == dataset)
        files = {step: self.rollouts / str(RolloutFileName(step, dataset)) for step in steps}
        return {step: pq.read_table(file)["prompt_id"].to_pylist() for step, file in files.items()}

    @property
    def evaluated(self):
        return [line["step"] for line in self.journals.evals.read()]


def assert_whole_history(attempt, steps=9, points=(0, 4, 8, 9), bound=2, epoch_of=NUM_PROMPTS):
    """Each prompt at most once an epoch, none skipped in a finished one; each evaluation once; lag within the bound."""
    ledger = list(attempt.journals.ledger.read())
    assert [line["step"] for line in ledger] == list(range(1, steps + 1))
    assert len(set(attempt.prompts)) == len(attempt.prompts), "a prompt was trained twice in an epoch"
    counts = collections.Counter(epoch for epoch, _ in attempt.prompts)
    over = range(max(counts) - bound)  # the groups of the last epochs can be among those still outstanding
    assert all(counts[epoch] == epoch_of for epoch in over), "a prompt of an epoch that is over was skipped"
    assert sorted(attempt.evaluated) == list(points)
    trained = {line["step"]: sorted(prompt for _, prompt in line["prompts"]) for line in ledger}
    assert {step: sorted(set(ids)) for step, ids in attempt.stored(None).items()} == {
        step: sorted(set(ids)) for step, ids in trained.items()
    }
    assert all(len(ids) == 2 * len(trained[step]) for step, ids in attempt.stored(None).items())
    assert {step: sorted(ids) for step, ids in attempt.stored("held_out").items()} == {
        step: [0, 0, 1, 1, 2, 2] for step in points
    }, "each evaluation once, in full"
    assert all(lag.min() >= 0 and lag.max() <= bound for _, lag in attempt.fleet.trained)
    # An evaluation's slot is leased: nothing was begun on one version and ended on another. An engine that is the only
    # one, or becomes it because the other is lost, is updated; test_evaluator.py checks that its versions are recorded.
    if attempt.run.spec.generator.min_replicas > 1 and not attempt.pipeline.deps.pool.counters.restarts:
        tested = [(begun, ended) for name, begun, ended in attempt.fleet.sampled if name >= HELD_OUT]
        assert all(begun == ended for begun, ended in tested)
        assert {begun for begun, _ in tested} <= set(points)


MODES = [
    ({"mode": "pipeline", "maxLag": 2}, 2, "pipeline: at most maxLag"),
    ({"mode": "offPolicy", "offPolicySteps": 3}, 2, "off policy in cycles of 3: at most 2"),
    ({"mode": "synchronous"}, 0, "synchronous: none"),
]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("mode", "bound", "rule"), MODES)
def test_run_spends_its_budget_within_the_bound(tmp_path, mode, bound, rule, seed):
    attempt = Attempt(tmp_path, FakeFleet(seed), {"recipe": {"asynchrony": mode}})
    play(attempt.go())
    assert_whole_history(attempt, bound=bound), rule
    assert attempt.observer.steps == list(range(1, 10))
    assert attempt.observer.examples == [(True, step) for step in range(1, 10)]
    assert attempt.fleet.calls["train"] == 9


def test_training_continues_while_a_version_is_evaluated(tmp_path):
    fleet = FakeFleet(1)
    attempt = Attempt(tmp_path, fleet)
    versions = []
    original = fleet.sample

    async def slow(index, prompt, requests):
        if prompt[0] >= HELD_OUT and fleet.generators[index] == 4:
            await asyncio.sleep(1.0)  # long enough for further steps
            versions.append(fleet.version)
        return await original(index, prompt, requests)

    fleet.sample = slow
    play(attempt.go())
    assert_whole_history(attempt)
    assert max(versions) > 4, "the trainer waited for the evaluation"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("faults", "rule"),
    [
        ({("sample", 5): "die"}, "lost while it generates: its prompts are submitted again"),
        ({("evaluate", 2): "die"}, "lost while it evaluates: others take over, or the evaluation is repeated"),
        ({("push", 3): "lose one"}, "lost while it is sent weights: the others get them"),
        ({("sample", 4): "die", ("sample", 9): "die", ("push", 2): "lose one"}, "several losses"),
    ],
)
def test_run_continues_without_a_lost_generator(tmp_path, faults, rule, seed):
    attempt = Attempt(tmp_path, FakeFleet(seed, faults))
    play(attempt.go())
    assert_whole_history(attempt), rule
    restarts = sum(attempt.fleet.starts.values()) - 2
    assert restarts == attempt.pipeline.deps.pool.counters.restarts >= 1, rule


def test_a_completion_without_a_finite_log_probability_costs_itself(tmp_path):
    attempt = Attempt(tmp_path, FakeFleet(1, {("sample", 5): "nan"}))
    play(attempt.go())
    assert_whole_history(attempt)
    assert sum(record.values["excluded_completions"] for record in attempt.observer.records) == 1


def test_a_prompt_without_a_finite_log_probability_ends_the_attempt(tmp_path):
    with pytest.raises(ValueError, match="log-probability that is not finite"):
        play(Attempt(tmp_path, FakeFleet(1, {("sample", 5): "all nan"})).go())


# -- the self-check --------------------------------------------------------------------------------------------------


def checks_of(attempt):
    return [(found.version, found.generator) for found in attempt.observer.checks]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("mode", "bound", "rule"), MODES)
def test_every_engine_is_checked_after_its_first_two_updates(tmp_path, mode, bound, rule, seed):
    """The fleet asserts that the trainer holds its version meanwhile. Ledger, lag and counters are untouched."""
    attempt = Attempt(tmp_path, FakeFleet(seed), {"recipe": {"asynchrony": mode}})
    play(attempt.go())
    assert_whole_history(attempt, bound=bound), rule
    found = checks_of(attempt)
    assert found[0][0] == 0
    assert collections.Counter(generator for _, generator in found) == {0: 2, 1: 2}
    assert len(set(found)) == 4, "two versions each"
    # Four prompts, four completions of at most eight tokens for 32; the fleet's have three.
    assert all(each.mean == 0.0 and each.tokens == 4 * 4 * 3 for each in attempt.observer.checks)
    trained = sum(len(lag) for _, lag in attempt.fleet.trained)
    sampled = attempt.pipeline.deps.pool.counters.tokens
    assert sampled >= trained
    assert sampled == 6 * len(attempt.fleet.sampled), "two completions of three tokens a group, none of a check"


@pytest.mark.parametrize("asynchrony", [each[0] for each in MODES])
@pytest.mark.parametrize(
    ("wrong", "steps", "rule"),
    [
        (0, 0, "a model that the engine computes differently: before any prompt, evaluation or step"),
        (1, 1, "an update that the engine loads wrongly: after the first step, before the second"),
    ],
)
def test_a_wrong_engine_ends_the_run_as_a_fault_of_the_spec(tmp_path, asynchrony, wrong, steps, rule):
    fleet = FakeFleet(2)
    fleet.error = lambda version: 0.3 if version >= wrong else 0.04
    changes = {"recipe": {"asynchrony": asynchrony}, "budget": {"evalEverySteps": 100}}
    attempt = Attempt(tmp_path, fleet, changes)
    with pytest.raises(InvalidRun, match=r"^spec.model.source: 'some/model', .* by 0.3 nats .* allowed are 0.05"):
        play(attempt.go())
    cycle = 3 if asynchrony["mode"] == "offPolicy" and steps else 1
    assert len(attempt.observer.steps) == steps * cycle, rule
    assert attempt.observer.checks[-1].mean == pytest.approx(0.3), "the numbers are reported too"
    if wrong == 0:
        assert (fleet.sampled, attempt.evaluated) == ([], [])


def test_log_probabilities_that_are_no_number_end_the_run(tmp_path):
    fleet = FakeFleet()
    fleet.error = lambda _version: np.nan
    attempt = Attempt(tmp_path, fleet)
    with pytest.raises(InvalidRun, match="by nan nats"):
        play(attempt.go())
    assert attempt.observer.checks == [], "JSON has no NaN"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize(
    "faults",
    [
        {("check", 1): "die"},
        {("check", 2): "hang"},
        {("check", 1): "die", ("check", 6): "die"},
        {("check", 9): "die", ("push", 2): "lose one"},
        {("check", 6): "hang", ("start", 3): "slow"},
    ],
)
def test_a_generator_lost_in_its_check_is_no_mismatch(tmp_path, faults, replicas, seed):
    """Its successor is checked twice as well, while the run goes on."""
    generator = {"minReplicas": replicas, "maxReplicas": replicas}
    attempt = Attempt(tmp_path, FakeFleet(seed, faults), {"deadlines": DEADLINES, "generator": generator})
    play(attempt.go())
    assert_whole_history(attempt)
    assert attempt.pipeline.deps.pool.counters.restarts >= 1
    versions = [version for version, _ in checks_of(attempt)]
    assert len(set(versions)) >= 2
    assert 2 in {slot.num_checks for slot in attempt.pipeline.deps.pool.slots.values()}


def test_engines_that_die_in_every_check_end_the_attempt(tmp_path):
    faults = {("check", number): "die" for number in range(1, 100)}
    attempt = Attempt(tmp_path, FakeFleet(1, faults), {"deadlines": DEADLINES})
    with pytest.raises(GeneratorLost, match="3 engines in a row failed in their self-check"):
        play(attempt.go())


def test_a_trainer_that_hangs_in_a_check_ends_the_attempt_with_its_phase(tmp_path):
    attempt = Attempt(tmp_path, FakeFleet(1, {("logprobs", 3): "hang"}), {"deadlines": DEADLINES})
    with pytest.raises(DeadlineExceeded, match="computing the trainer's log-probabilities for the self-check"):
        play(attempt.go())


def test_a_stop_ends_the_wait_for_a_check(tmp_path):
    """No engine ever starts; the stop saves what there is."""
    attempt = Attempt(tmp_path, FakeFleet(1, {("start", 1): "hang", ("start", 2): "hang"}))

    async def stop():
        task = asyncio.create_task(attempt.go())
        await asyncio.sleep(5.0)
        attempt.pipeline.stopping.set()
        await task

    play(stop())
    assert attempt.store.steps() == [0]
    assert attempt.observer.steps == []


def test_a_leased_engine_is_checked_when_it_gets_the_trainers_version(tmp_path):
    """The only engine evaluates step 0 while steps are trained: no step waits for that, and the check follows later."""
    fleet = FakeFleet(1)
    generator = {"minReplicas": 1, "maxReplicas": 1}
    attempt = Attempt(tmp_path, fleet, {"generator": generator, "budget": {"evalEverySteps": 100}})
    original, versions = fleet.sample, []

    async def slow(index, prompt, requests):
        if prompt[0] >= HELD_OUT and fleet.generators[index] == 0:
            await asyncio.sleep(3.0)
            versions.append(fleet.version)
        return await original(index, prompt, requests)

    fleet.sample = slow
    play(attempt.go())
    assert_whole_history(attempt, points=(0, 9))
    assert max(versions) >= 2, "the trainer waited for the evaluation"
    (first, second) = checks_of(attempt)
    assert first == (0, 0)
    assert second[0] >= 2


def test_an_attempt_after_a_resume_checks_again(tmp_path):
    play(Attempt(tmp_path, FakeFleet(3), {"budget": {"steps": 4}}).go())
    second = Attempt(tmp_path, FakeFleet(4))
    play(second.go())
    assert checks_of(second)[0][0] == 4
    assert collections.Counter(generator for _, generator in checks_of(second)) == {0: 2, 1: 2}


async def _killed(attempt, turns):
    task = asyncio.create_task(attempt.go())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("mode", "bound", "rule"), MODES)
def test_staleness_bound_after_resume_of_the_pipeline(tmp_path, mode, bound, rule, seed):
    """Three attempts are killed at random awaits; the fourth has the whole history, once, within the bound."""
    turns, changes = random.Random(seed), {"recipe": {"asynchrony": mode}}
    lags = []
    for attempt_seed in range(3):
        attempt = Attempt(tmp_path, FakeFleet(seed + attempt_seed), changes)
        play(_killed(attempt, turns.randrange(400)))
        lags += attempt.fleet.trained
    last = Attempt(tmp_path, FakeFleet(seed), changes)
    play(last.go())
    assert_whole_history(last, bound=bound), rule
    assert all(lag.max() <= bound for _, lag in lags), rule


def test_restore_before_rollout_start(tmp_path):
    """A resumed run first submits the prompts that were in flight, and never generates with older weights."""
    first = Attempt(tmp_path, FakeFleet(3), {"budget": {"steps": 4}})
    play(first.go())
    state = load_state(first.store.latest())
    fleet = FakeFleet(4)
    second = Attempt(tmp_path, fleet)
    play(second.go())
    assert_whole_history(second, points=(0, 4, 8, 9))
    assert min(begun for _, begun, _ in fleet.sampled) == state.step == 4
    begun = [name for name, _, _ in fleet.sampled if name < HELD_OUT]
    assert {prompt for _, prompt in state.in_flight} <= set(begun)


def test_stopping_in_a_wait_saves_and_the_next_attempt_resumes(tmp_path):
    fleet = FakeFleet(2, {("sample", n): "hang" for n in range(9, 40)})  # no further batch comes together
    attempt = Attempt(tmp_path, fleet)

    async def stop_later():
        task = asyncio.create_task(attempt.go())
        await asyncio.sleep(8.0)
        attempt.pipeline.stopping.set()
        await task

    play(stop_later())
    steps = attempt.pipeline.state.step
    assert 0 < steps < 9
    assert load_state(attempt.store.latest()).step == steps
    last = Attempt(tmp_path, FakeFleet(2))
    play(last.go())
    assert_whole_history(last)


def test_all_groups_filtered_makes_progress_in_the_pipeline(tmp_path):
    attempt = Attempt(tmp_path, FakeFleet(1), passes=lambda _text: True)
    play(attempt.go())
    assert_whole_history(attempt)
    assert attempt.fleet.calls["train"] == 0, "nothing to learn from: the optimizer is skipped"
    assert attempt.fleet.calls["set_version"] == 9


@pytest.mark.parametrize("seed", range(3))
def test_refill_replaces_groups_without_variance(tmp_path, seed):
    """Prompts 0 and 1 of 7 are always solved: a step keeps drawing until it has 3 groups with variance."""
    solved = {"0", "1"}
    attempt = Attempt(
        tmp_path,
        FakeFleet(seed),
        {"recipe": {"zeroVariance": "refill"}},
        passes=lambda text: text.endswith("/0") or text.split("/")[0] in solved,
    )
    play(attempt.go())
    for line in attempt.journals.ledger.read():
        assert sum(prompt > 1 for _, prompt in line["prompts"]) == 3
    assert all(lag.max() <= 2 for _, lag in attempt.fleet.trained)


@pytest.mark.parametrize(
    ("call", "number", "phase"),
    [
        ("train", 2, "training step 2"),
        ("copy", 2, "copying a checkpoint"),
        ("save", 2, "writing a checkpoint"),
        ("stage", 2, "staging weights"),
        ("set_version", 1, "naming a version"),
    ],
)
def test_a_call_that_never_returns_ends_the_attempt_with_its_name(tmp_path, call, number, phase):
    fleet = FakeFleet(1, {(call, number): "hang"})
    passes = (lambda _text: True) if call == "set_version" else (lambda text: text.endswith("0"))
    attempt = Attempt(tmp_path, fleet, {"deadlines": DEADLINES}, passes)
    with pytest.raises(DeadlineExceeded, match=phase):
        play(attempt.go())


@pytest.mark.parametrize("mode", ["pipeline", "synchronous"])
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("number", [1, 4, 20])
def test_a_generator_that_hangs_is_restarted(tmp_path, number, replicas, mode):
    """The group's deadline detects it; the trainer's own wait must be longer than that deadline and the restart."""
    faults = {("sample", number): "hang", ("start", replicas + 1): "slow"}
    changes = {"deadlines": DEADLINES, "generator": {"minReplicas": replicas}}
    attempt = Attempt(tmp_path, FakeFleet(1, faults), {**changes, "recipe": {"asynchrony": {"mode": mode}}})
    play(attempt.go())
    assert_whole_history(attempt)
    assert attempt.pipeline.deps.pool.counters.restarts == 1


@pytest.mark.parametrize("number", [1, 2, 5])
def test_an_update_that_never_ends_is_sent_again(tmp_path, number):
    """At its deadline every member is probed, those that reply get it in a new group, and no version is skipped."""
    attempt = Attempt(tmp_path, FakeFleet(1, {("push", number): "hang"}), {"deadlines": DEADLINES})
    play(attempt.go())
    assert_whole_history(attempt)
    assert attempt.pipeline.deps.pool.counters.restarts == 0


def test_updates_that_never_end_end_the_attempt_with_their_name(tmp_path):
    faults = {("push", number): "hang" for number in range(1, 20)}
    attempt = Attempt(tmp_path, FakeFleet(1, faults), {"deadlines": DEADLINES})
    with pytest.raises(DeadlineExceeded, match="sending weights of version 0"):
        play(attempt.go())


def test_an_evaluation_reports_its_truncation_share(tmp_path):
    """Three prompts of two completions each, the first of each truncated; every token's log-probability is -0.5."""
    attempt = Attempt(tmp_path, FakeFleet())
    play(attempt.go())
    for found in (attempt.observer.points, [EvalPoint.model_validate(line) for line in attempt.journals.evals.read()]):
        assert [each.step for each in found] == [0, 4, 8, 9]
        assert {(each.truncation_share, each.entropy, each.mean_tokens) for each in found} == {(0.5, 0.5, 3.0)}


def test_a_non_finite_loss_ends_the_attempt_and_the_checkpoints_are_sound(tmp_path):
    """Step 6 is NaN.

    The attempt ends, and the step is neither counted nor saved; the next attempt repeats it from step 4.
    """
    first = Attempt(tmp_path, FakeFleet(faults={("train", 6): "nan"}))
    with pytest.raises(NonFinite, match=r"^step 6: loss is nan, grad_norm is inf; its update was left out$"):
        play(first.go())
    assert first.observer.steps == [1, 2, 3, 4, 5]
    assert first.store.steps()[-1] == 4
    assert [line["step"] for line in first.journals.ledger.read()] == [1, 2, 3, 4, 5]
    second = Attempt(tmp_path, FakeFleet())
    play(second.go())
    assert second.observer.steps == [5, 6, 7, 8, 9]


def test_with_action_warn_a_run_continues_and_reports_the_step(tmp_path):
    recipe = {"loss": {"klCoefficient": 0.5, "klTarget": 0.1}}
    attempt = Attempt(
        tmp_path,
        FakeFleet(faults={("train", 6): "nan"}),
        {"watchdog": {"nonFinite": {"action": "Warn"}}, "recipe": recipe},
    )
    play(attempt.go())
    assert attempt.observer.steps == list(range(1, 10))
    values = {record.step: record.values for record in attempt.observer.records}
    assert {step: each["non_finite"] for step, each in values.items()} == {n: float(n == 6) for n in range(1, 10)}
    assert "loss" not in values[6]
    assert "grad_norm" not in values[6]
    assert values[5]["loss"] == 1.0
    assert values[7]["kl_coefficient"] == pytest.approx(0.98 * values[6]["kl_coefficient"]), (
        "0 against 0.1: by a fiftieth"
    )
    assert values[6]["kl_coefficient"] == values[5]["kl_coefficient"], "NaN teaches it nothing"


def test_a_lease_survives_steps_before_it_is_granted(tmp_path):
    """Step 4 is due for evaluation while no generator runs.

    Training continues on completed groups. See test_syncer.py.
    """
    fleet = FakeFleet(1)
    attempt = Attempt(tmp_path, fleet, {"generator": {"minReplicas": 1, "maxReplicas": 1}})
    start, train = fleet.start_generator, fleet.train

    async def slow_start(index):
        await asyncio.sleep(20.0)
        return await start(index)

    async def kill_at_4(batches, *, version, **rates):
        results = await train(batches, version=version, **rates)
        if version == 4:
            fleet.generators.clear()
            attempt.pipeline.deps.pool.mark_lost(0, "killed")
        return results

    fleet.start_generator, fleet.train = slow_start, kill_at_4
    play(attempt.go())
    assert_whole_history(attempt)


def test_completions_that_cannot_be_stored_are_logged_once_and_cost_no_step(tmp_path, caplog):
    attempt = Attempt(tmp_path, FakeFleet(1))
    attempt.rollouts.write_text("a file where the folder should be")
    play(attempt.go())
    assert attempt.observer.steps == list(range(1, 10))
    assert sorted(attempt.evaluated) == [0, 4, 8, 9]
    assert [record.message for record in caplog.records if "completions are not stored" in record.message] != []
    assert sum("completions are not stored" in record.message for record in caplog.records) == 1


def test_no_checkpoint_is_ahead_of_its_completions(tmp_path):
    """A run that is killed just after a checkpoint must not lack the completions of a step that it does not repeat."""
    attempt = Attempt(tmp_path, FakeFleet(3))
    stored_at_save = {}
    commit = attempt.store.commit

    def note(unfinished, parts, state, *rest):
        stored_at_save[state.step] = list(attempt.stored(None)) if attempt.rollouts.exists() else []
        return commit(unfinished, parts, state, *rest)

    attempt.store.commit = note
    play(attempt.go())
    assert set(stored_at_save) >= {0, 2, 4}
    assert all(steps[:step] == list(range(1, step + 1)) for step, steps in stored_at_save.items())


# --- the end of the prompts, and prompts that an engine refuses

SOLVABLE = {"recipe": {"noPositiveResampling": True, "noPositiveThreshold": 0.9}}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("mode", "bound", "rule"), MODES)
def test_a_run_whose_prompts_are_all_solved_ends_with_a_last_evaluation(tmp_path, mode, bound, rule, seed):
    attempt = Attempt(tmp_path, FakeFleet(seed), merge(SOLVABLE, {"recipe": {"asynchrony": mode}}), lambda _text: True)
    play(attempt.go())
    steps = attempt.pipeline.state.step
    assert attempt.pipeline.is_solved, rule
    assert 3 <= steps < 9, "three prompts a step, seven prompts"
    assert max(attempt.evaluated) == steps == load_state(attempt.store.latest()).step
    assert len(set(attempt.evaluated)) == len(attempt.evaluated)
    assert all(lag.max() <= bound for _, lag in attempt.fleet.trained)
    again = Attempt(tmp_path, FakeFleet(seed), merge(SOLVABLE, {"recipe": {"asynchrony": mode}}), lambda _text: True)
    play(again.go())
    assert again.pipeline.is_solved
    assert again.pipeline.state.step == steps, "a resumed run ends at once"
    assert again.evaluated == attempt.evaluated
    assert not [name for name, _, _ in again.fleet.sampled if name < HELD_OUT]


class Refusing(FakeFleet):
    """Engines that refuse the prompts of these ids."""

    def __init__(self, names, seed=0):
        super().__init__(seed)
        self.names, self.asked = names, collections.Counter()

    async def sample(self, index, prompt, requests):
        self.asked[int(prompt[0])] += 1
        if int(prompt[0]) in self.names:
            await asyncio.sleep(0.1)
            raise PromptRefused(f"no token {prompt[0]}")
        return await super().sample(index, prompt, requests)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("mode", "rule"), [(mode, rule) for mode, _, rule in MODES])
def test_a_refused_prompt_loses_no_engine_and_is_not_handed_out_again(tmp_path, caplog, mode, rule, seed):
    fleet = Refusing({2}, seed)
    attempt = Attempt(tmp_path, fleet, {"recipe": {"asynchrony": mode}, "data": {"maxBadShare": 0.2}})
    play(attempt.go())
    counters = attempt.pipeline.deps.pool.counters
    assert attempt.observer.steps == list(range(1, 10)), rule
    assert sum(fleet.starts.values()) == 2, "no engine was started again"
    assert (counters.refused, counters.restarts) == (1, 0)
    assert 1 <= fleet.asked[2] <= 3, "again only where it was under way already"
    assert all(prompt != 2 for _, prompt in attempt.prompts)
    assert "prompt 2 is left out" in caplog.text
    assert "no token 2" in caplog.text


def test_too_many_refused_prompts_are_the_users_fault(tmp_path):
    attempt = Attempt(tmp_path, Refusing({1, 2}), {"data": {"maxBadShare": 0.2}})
    with pytest.raises(InvalidRun, match=r"maxBadShare: 2 of 7 prompts are refused by the engine") as caught:
        play(attempt.go())
    assert {fault.path for fault in caught.value.faults[1:]} == {"prompt 1", "prompt 2"}


def test_prompts_that_are_all_refused_are_no_success(tmp_path):
    attempt = Attempt(tmp_path, Refusing(set(range(NUM_PROMPTS))), {"data": {"maxBadShare": 1.0}})
    with pytest.raises(InvalidRun, match=r"(7 of|all) 7 prompts"):
        play(attempt.go())


def test_a_refused_prompt_of_an_evaluation_is_left_out(tmp_path):
    attempt = Attempt(tmp_path, Refusing({HELD_OUT + 1}), {"data": {"maxBadShare": 0.4}})
    play(attempt.go())
    assert sorted(attempt.evaluated) == [0, 4, 8, 9]
    assert {(point.prompts, point.excluded, point.mean_tokens) for point in attempt.observer.points} == {(2, 2, 3.0)}


@pytest.mark.parametrize("names", [{HELD_OUT}, {HELD_OUT, HELD_OUT + 1, HELD_OUT + 2}])
def test_too_many_refused_prompts_of_an_evaluation_are_the_users_fault(tmp_path, names):
    with pytest.raises(InvalidRun, match=rf"{len(names)} of 3 prompts of held_out are refused"):
        play(Attempt(tmp_path, Refusing(names), {"data": {"maxBadShare": 0.1}}).go())


class Unstartable(FakeFleet):
    """Engines whose start is refused; `after`: only those after so many."""

    def __init__(self, after=0):
        super().__init__()
        self.after, self.tries = after, 0

    async def start_generator(self, index):
        self.tries += 1
        if self.tries > self.after:
            raise InvalidRun([Fault("spec.model.source", "m", "a model that the engine can serve")])
        return await super().start_generator(index)


def test_an_engine_that_no_start_can_mend_is_started_once(tmp_path):
    fleet = Unstartable()
    with pytest.raises(InvalidRun, match=r"spec.model.source"):
        play(Attempt(tmp_path, fleet, {"generator": {"minReplicas": 1, "maxReplicas": 1}}).go())
    assert fleet.tries == 1


def test_an_engine_that_starts_nowhere_else_is_the_machines_fault(tmp_path):
    """The same options have started an engine: the second node differs, not the spec."""
    fleet = Unstartable(after=2)
    fleet.faults = {("sample", 5): "die"}
    with pytest.raises(GeneratorLost, match=r"the engine can serve"):
        play(Attempt(tmp_path, fleet).go())
    assert fleet.tries == 2 + 3


# -- traces ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def receiver(monkeypatch):
    """A collector that gets the spans of `play_traced`."""
    monkeypatch.setattr(tracing, "CLOSE_SECONDS", 300.0)
    logger = logging.getLogger("opentelemetry")
    handlers, propagate = logger.handlers[:], logger.propagate
    with receive_traces() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{found.port}")
        yield found
    logger.handlers[:], logger.propagate = handlers, propagate


def play_traced(folder, fleet, changes=None):
    attempt = Attempt(folder, fleet, changes, tracer=open_tracing("unit", "lab", 1))
    try:
        play(attempt.go())
    finally:
        attempt.tracer.close()
    return attempt


def group_of(span):
    return span.values["scalerl.prompt.epoch"], span.values["scalerl.prompt.id"]


def assert_nested(receiver):
    by_id = {span.id: span for span in receiver.spans}
    for span in receiver.spans:
        assert span.start <= span.end, span.name
        if span.parent:
            parent = by_id[span.parent]
            assert parent.start <= span.start, span.name
            assert span.end <= parent.end or span.name == "scalerl.evaluation", "only evaluations outlive their step"


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("mode", "bound", "rule"), MODES)
def test_every_group_and_step_has_one_span(tmp_path, receiver, mode, bound, rule, seed):
    attempt = play_traced(tmp_path, FakeFleet(seed), {"recipe": {"asynchrony": mode}})
    assert_whole_history(attempt, bound=bound), rule
    assert_nested(receiver)
    whole = [span for span in receiver.named("scalerl.rollout") if not span.is_error]
    spans = collections.Counter(map(group_of, whole))
    assert {group: spans[group] for group in attempt.prompts} == dict.fromkeys(attempt.prompts, 1)
    for span in whole:
        (generate,), (_grade,) = (receiver.children(span, f"scalerl.rollout.{part}") for part in ("generate", "grade"))
        assert generate.values["gen_ai.request.choice.count"] == 2
        assert span.parent == b"", "a group is of no step yet"
        assert span.values["gen_ai.usage.output_tokens"] == 2 * 3
        assert span.values["gen_ai.response.finish_reasons"] == ["stop", "stop"]
        assert span.values["scalerl.rollout.rewards"] == [1.0, -1.0]
        assert 0 <= span.values["scalerl.rollout.version.admitted"] <= span.values["scalerl.rollout.version.last"]
        assert span.values["scalerl.generator.index"] in (0, 1)
    steps = receiver.named("scalerl.step")
    assert [(span.step, span.parent, span.is_error) for span in steps] == [(n, b"", False) for n in range(1, 10)]
    for span in steps:
        assert (
            len(receiver.children(span, "scalerl.step.wait")) == len(receiver.children(span, "scalerl.step.train")) == 1
        )
        assert span.values["scalerl.step.groups"] == 3
        assert span.values["scalerl.step.lag.max"] <= bound
        saved, evaluated = (receiver.children(span, f"scalerl.{part}") for part in ("checkpoint", "evaluation"))
        assert [each.step for each in saved] == [span.step] * (span.step % 2 == 0 or span.step == 9)
        assert [each.step for each in evaluated] == [span.step] * (span.step in (4, 8, 9))
    evaluations = receiver.named("scalerl.evaluation")
    assert [span.step for span in evaluations] == [0, 4, 8, 9]
    for span in evaluations:
        (found,) = receiver.children(span, "scalerl.evaluation.set")
        assert found.values == {
            "scalerl.evaluation.dataset": "held_out",
            "scalerl.evaluation.pass_rate": 0.5,
            "scalerl.evaluation.prompts": 3,
        }
    in_steps = {each.id for each in steps}
    assert any(each.parent in in_steps for each in receiver.named("scalerl.weights.stage"))
    assert {each.parent for each in receiver.named("scalerl.weights.push")} == {b""}


def test_the_documentation_has_every_span_and_attribute(tmp_path, receiver):
    """So no span holds a text of a prompt: what is there is listed, by name."""
    play_traced(tmp_path, FakeFleet(0, {("sample", 3): "die"}))
    page = (Path(__file__).parents[4] / "docs/trackers.md").read_text()
    listed = {name for row in re.findall(r"^\|.*\|$", page, re.MULTILINE) for name in re.findall(r"`([a-z_.]+)`", row)}
    made = {span.name for span in receiver.spans} | {name for span in receiver.spans for name in span.values}
    assert made - listed == set()
    names = {
        name for name in listed if name.startswith(("scalerl.", "gen_ai.")) and not name.startswith("scalerl.run.")
    }
    assert names - made == set()


@pytest.mark.parametrize("seed", range(2))
def test_a_lost_group_is_an_error_and_its_repetition_is_none(tmp_path, receiver, seed):
    attempt = play_traced(tmp_path, FakeFleet(seed, {("sample", 5): "die", ("evaluate", 2): "die"}))
    assert_whole_history(attempt)
    assert_nested(receiver)
    lost = [span for span in receiver.named("scalerl.rollout") if span.is_error]
    assert "GeneratorLost" in {span.values["error.type"] for span in lost}
    spans = collections.Counter(group_of(s) for s in receiver.named("scalerl.rollout") if not s.is_error)
    assert {group: spans[group] for group in attempt.prompts} == dict.fromkeys(attempt.prompts, 1)
    failed = [span for span in receiver.named("scalerl.evaluation") if span.is_error]
    # The engine may be restarted already, after another request to it failed.
    # The other one takes over where it still has the weights.
    assert {span.values["error.type"] for span in failed} <= {"GeneratorLost", "GeneratorRestarted"}


def test_what_a_failed_attempt_leaves_is_an_error(tmp_path, receiver):
    with pytest.raises(DeadlineExceeded):
        play_traced(tmp_path, FakeFleet(0, {("train", 2): "hang", ("sample", 7): "hang"}), {"deadlines": DEADLINES})
    assert_nested(receiver)
    first, second = receiver.named("scalerl.step")
    assert (first.is_error, second.is_error) == (False, True)
    assert second.values["error.type"] == "DeadlineExceeded"
    assert [span.is_error for span in receiver.children(second, "scalerl.step.train")] == [True]
    cut = [span for span in receiver.named("scalerl.rollout") if span.is_error]
    assert {span.values["error.type"] for span in cut} == {"CancelledError"}


def test_a_run_without_its_collector_is_the_same(tmp_path, receiver, monkeypatch):
    monkeypatch.setattr(tracing, "CLOSE_SECONDS", 0.05)
    receiver.answering.clear()
    assert_whole_history(play_traced(tmp_path, FakeFleet(0)))
    assert receiver.spans == []


# --- several sources, several test sets

TWO_SOURCES = [
    {"name": "math", "source": "math.jsonl", "weight": 3},
    {"name": "code", "source": "code.jsonl", "curriculum": "staged"},
]


def curves(attempt):
    """Points of each data set: the lines that are stored, as the observer saw them."""
    points = [EvalPoint.model_validate(line) for line in attempt.journals.evals.read()]
    assert points == attempt.observer.points or len(attempt.observer.points) < len(points)
    assert [point.index for point in points] == list(range(len(points)))
    found = collections.defaultdict(list)
    for point in points:
        found[point.dataset].append(point)
    return found


def test_a_mixture_trains_by_weight_and_has_a_curve_of_each_source(tmp_path):
    # Of the held-out prompts 0 is of code, 1 and 2 are of math: completion 0 passes, but not of prompt 1.
    passes = lambda text: text.endswith("/0") and not text.startswith("1001/")  # noqa: E731 # one line
    attempt = Attempt(tmp_path, FakeFleet(seed=3), {"data": {"train": TWO_SOURCES}}, passes)
    play(attempt.go())
    found = curves(attempt)
    assert list(found) == ["held_out", "held_out.math", "held_out.code"]
    assert {name: [each.step for each in points] for name, points in found.items()} == dict.fromkeys(
        found, [0, 4, 8, 9]
    )
    assert {name: (each[0].pass_rate, each[0].prompts) for name, each in found.items()} == {
        "held_out": (pytest.approx(1 / 3), 3),
        "held_out.math": (0.25, 2),
        "held_out.code": (0.5, 1),
    }
    assert found["held_out"][0].pass_at_k == pytest.approx({"1": 1 / 3, "2": 2 / 3})
    # The pooled completions are the sources' ones: nothing is sampled twice, and one file holds them.
    assert len([name for name, _, _ in attempt.fleet.sampled if name >= HELD_OUT]) == 3 * 4
    assert attempt.stored("held_out.math") == {}
    assert_whole_mixture(attempt, {"math": 4, "code": 3}, {"math": 3, "code": 1})


def assert_whole_mixture(attempt, sizes, weights):
    """No prompt twice in an epoch of its source, and the draws in proportion to the weights."""
    assert len(set(attempt.prompts)) == len(attempt.prompts)
    source = {prompt: "math" if prompt % 3 else "code" for prompt in range(NUM_PROMPTS)}
    counts = collections.Counter(source[prompt] for _, prompt in attempt.prompts)
    share = counts["math"] / counts.total()
    assert abs(share - weights["math"] / sum(weights.values())) < 0.15, "groups outstanding move it"
    for name in sizes:
        epochs = collections.Counter(epoch for epoch, prompt in attempt.prompts if source[prompt] == name)
        assert all(count <= sizes[name] for count in epochs.values())


def test_a_killed_mixture_resumes_with_the_draws_it_had_before_it(tmp_path):
    fleet = FakeFleet(seed=1, faults={("save", 4): "hang"})
    attempt = Attempt(tmp_path, fleet, {"data": {"train": TWO_SOURCES}})
    with pytest.raises(DeadlineExceeded):
        play(attempt.go())
    again = Attempt(tmp_path, FakeFleet(seed=2), {"data": {"train": TWO_SOURCES}})
    play(again.go())
    assert [line["step"] for line in again.journals.ledger.read()] == list(range(1, 10))
    assert_whole_mixture(again, {"math": 4, "code": 3}, {"math": 3, "code": 1})
    points = curves(again)
    assert all({each.step for each in points[name]} == {0, 4, 8, 9} for name in points)


def test_a_solved_source_leaves_and_the_other_goes_on(tmp_path):
    # Every completion of code (0, 3, 6) passes, and one of two of math.
    passes = lambda text: int(text.split("/")[0]) % 3 == 0 or text.endswith("/0")  # noqa: E731 # one line
    changes = {
        "data": {"train": TWO_SOURCES},
        "recipe": {"noPositiveResampling": True},
        "budget": {"steps": 20},
    }
    attempt = Attempt(tmp_path, FakeFleet(seed=4), changes, passes)
    play(attempt.go())
    assert not attempt.pipeline.is_solved
    assert attempt.pipeline.state.history.excluded == {0, 3, 6}
    late = [prompt for line in list(attempt.journals.ledger.read())[10:] for _, prompt in line["prompts"]]
    assert late, "the run goes on"
    assert not {0, 3, 6} & set(late)


def test_a_downstream_set_has_its_own_samples_temperature_and_interval(tmp_path):
    downstream = [
        {"name": "often", "source": "d.jsonl", "samplesPerPrompt": 3, "temperature": 0},
        {"name": "rare", "source": "d.jsonl", "everySteps": 8},
    ]
    fleet, requested = FakeFleet(seed=5), []
    sample = fleet.sample

    async def watch(index, prompt, requests):
        if prompt[0] >= HELD_OUT:
            requested.append((len(requests), {request.temperature for request in requests}))
        return await sample(index, prompt, requests)

    fleet.sample = watch
    attempt = Attempt(tmp_path, fleet, {"data": {"downstream": downstream}})
    play(attempt.go())
    found = curves(attempt)
    steps = {name: [each.step for each in points] for name, points in found.items()}
    assert steps == {"held_out": [0, 4, 8, 9], "often": [0, 4, 8, 9], "rare": [0, 8, 9]}, "the last step has all"
    assert {name: each[0].samples for name, each in found.items()} == {"held_out": 2, "often": 3, "rare": 2}
    assert collections.Counter(each[0] for each in requested) == {2: 3 * 4 + 3, 3: 4}
    assert {(count, temperature) for count, each in requested for temperature in each} == {(2, 1.0), (3, 0.0)}
    assert set(found["often"][0].pass_at_k) == {"1", "2", "3"}
