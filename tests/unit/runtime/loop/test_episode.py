"""Episodes on an in-memory engine: exact requests, budgets, failures; and in the pool, with generators that die."""

import asyncio
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl_api import parse_run
from scalerl_runtime.algorithm.staleness import build_staleness_bound
from scalerl_runtime.data.scratch_model import build_tokenizer
from scalerl_runtime.data.turn_markup import TurnMarkup
from scalerl_runtime.deadlines import DeadlineExceeded
from scalerl_runtime.environments.calculator import Calculator
from scalerl_runtime.environments.pool import EnvironmentFailed
from scalerl_runtime.environments.protocol import Step
from scalerl_runtime.loop.device_time import RoleClock
from scalerl_runtime.loop.episode import EpisodePlayer, EpisodeRules
from scalerl_runtime.loop.pool import Pool
from scalerl_runtime.loop.slots import PoolOptions, Slot
from scalerl_runtime.types import EngineOutput, GeneratorLost, Prompt, PromptRefused

TOKENIZER = build_tokenizer(4096)
EOS = TOKENIZER.eos_token_id
MARKUP = TurnMarkup((3, 4), (5,), "<", ">")


def ids(text):
    return TOKENIZER.encode(text, add_special_tokens=False)


PROMPT = Prompt(7, "6*7 =", np.array(ids("6*7 ="), np.int32), "42")


class Engine:
    """Writes `turns` one after the other, whatever it reads; cut at the request's limit."""

    def __init__(self, *turns, version=3, seconds=0.0):
        self.turns, self.version, self.seconds, self.requests = list(turns), version, seconds, []

    async def __call__(self, prompt, max_tokens, _seed):
        place = len(self.requests)
        self.requests.append((prompt.tokens.tolist(), max_tokens))
        await asyncio.sleep(self.seconds)
        turn = self.turns[min(place, len(self.turns) - 1)]
        if isinstance(turn, Exception):
            raise turn
        tokens = [*ids(turn), EOS]
        cut = len(tokens) > max_tokens
        tokens = tokens[:max_tokens]
        versions = np.full(len(tokens), self.version + place, np.int32)
        logps = np.full(len(tokens), -0.5, np.float32)
        text = TOKENIZER.decode([each for each in tokens if each != EOS])
        return EngineOutput(np.array(tokens, np.int32), logps, versions, text, "length" if cut else "stop")


class Source:
    """Environments in this process; `fault` names the call that fails."""

    label = "env:toy:Any"

    def __init__(self, make=Calculator, fault=None):
        self.make, self.fault, self.open_episodes, self.messages = make, fault, 0, []

    async def open(self, prompt, reference):
        if self.fault == "reset":
            raise EnvironmentFailed("hangs")
        environment = self.make()
        environment.reset(prompt, reference)
        self.open_episodes += 1
        return Session(self, environment)


class Session:
    def __init__(self, source, environment):
        self.source, self.environment = source, environment

    async def step(self, message):
        self.source.messages.append(message)
        if self.source.fault == "step":
            raise EnvironmentFailed("dies")
        return self.environment.step(message)

    def close(self):
        self.source.open_episodes -= 1


class Endless:
    """Never done; says `text`."""

    def __init__(self, text="again", reward=None):
        self.text, self.reward = text, reward

    def reset(self, prompt, reference):
        pass

    def step(self, _message):
        return Step(self.text, reward=self.reward)


def make_player(source, markup=MARKUP, **rules):
    limits = {
        "max_turns": 4,
        "observation_tokens": 50,
        "completion_tokens": 200,
        "generate_seconds": 9.0,
    }
    return EpisodePlayer({"": source}, EpisodeRules(**{**limits, **rules}), markup, TOKENIZER)


def play(source, engine, **rules):
    (found,) = asyncio.run(make_player(source, **rules).play(engine, PROMPT, [None], "playing"))
    assert source.open_episodes == 0, "every episode frees its state"
    return found


def test_each_request_has_the_exact_ids_of_all_before():
    source, engine = Source(), Engine("calc(6*7)", "so 42")
    found = play(source, engine)
    first, second = engine.requests
    assert first[0] == PROMPT.tokens.tolist()
    assert second[0] == [*first[0], *ids("calc(6*7)"), EOS, 3, 4, *ids("42"), 5]
    assert found.tokens.tolist() == [*second[0][len(PROMPT.tokens) :], *ids("so 42"), EOS]
    assert source.messages == ["calc(6*7)", "so 42"]
    assert [first[1], second[1]] == [200, 200 - 10 - 5]
    assert found.text == "calc(6*7)<42>so 42"
    assert (found.reward, found.finish, found.episode.turns, found.episode.errors) == (1.0, "stop", 2, 0)
    assert found.versions.tolist() == [3] * 15 + [4] * 6
    assert np.flatnonzero(found.forced).tolist() == [10, 11, 12, 13, 14]


def test_errors_of_a_tool_are_counted():
    assert play(Source(), Engine("calc(1/0)", "calc(", "42")).episode.errors == 1


@pytest.mark.parametrize(
    ("reward", "wanted"), [(None, -1.0), (0.25, 0.25)], ids=["without a reward: wrong", "the last step's reward"]
)
def test_turns_end_at_their_limit(reward, wanted):
    engine = Engine("more")
    found = play(Source(lambda: Endless(reward=reward)), engine, max_turns=3)
    assert len(engine.requests) == found.episode.turns == 3
    assert (found.reward, found.finish) == (wanted, "length")
    assert not found.forced[-1], "no observation follows the last turn"


def test_a_long_observation_is_cut_and_counted():
    found = play(Source(lambda: Endless("x" * 60)), Engine("more"), max_turns=2, observation_tokens=5)
    assert found.episode.cut == 1
    assert found.text == "more<xxxxx>more"
    assert found.forced.sum() == 3 + 5


def test_an_observation_that_leaves_no_room_ends_the_episode():
    engine = Engine("more")
    found = play(Source(lambda: Endless("x" * 20)), engine, completion_tokens=5 + 20 + 3)
    assert len(engine.requests) == 1
    assert (found.finish, found.reward, len(found.tokens)) == ("length", -1.0, 5)


def test_a_turn_that_is_cut_is_the_last():
    found = play(Source(), Engine("calc(6*7)"), completion_tokens=9)
    assert (found.finish, found.reward, found.text) == ("length", -1.0, "calc(6*7)")
    assert (len(found.tokens), found.episode.turns) == (9, 1)


def test_a_special_token_in_an_observation_is_text():
    found = play(Source(lambda: Endless("<eos>")), Engine("more"), max_turns=2)
    observed = found.tokens[found.forced].tolist()
    assert observed == [3, 4, *(ids(each)[0] for each in "<eos>"), 5]
    assert EOS not in observed


@pytest.mark.parametrize("fault", ["reset", "step"])
def test_an_environment_that_fails_gives_no_reward(fault):
    found = play(Source(fault=fault), Engine("calc(6*7)"))
    assert (found.reward, found.finish, found.episode.turns) == (None, "stop", 1)
    assert len(found.tokens) == 10


@pytest.mark.parametrize("error", [GeneratorLost(0, "killed"), PromptRefused("too long")], ids=["lost", "refused"])
def test_all_episodes_of_a_group_end_with_their_engine(error):
    source, engine = Source(), Engine("calc(6*7)", "calc(6*7)", error)
    with pytest.raises(type(error)):
        asyncio.run(make_player(source).play(engine, PROMPT, [None, None], "playing"))
    assert source.open_episodes == 0


def test_the_engines_time_is_that_of_all_turns():
    source, engine = Source(lambda: Endless()), Engine("more", seconds=0.02)
    with pytest.raises(DeadlineExceeded, match="playing"):
        asyncio.run(make_player(source, max_turns=100, generate_seconds=0.05).play(engine, PROMPT, [None], "playing"))
    assert len(engine.requests) <= 3
    assert source.open_episodes == 0


@settings(max_examples=25)
@given(
    st.lists(st.text("ab1", max_size=12), min_size=1, max_size=8),
    st.text("xyz", max_size=30),
    st.integers(1, 6),
    st.integers(1, 20),
    st.integers(1, 80),
)
def test_no_budget_is_ever_exceeded(turns, observation, max_turns, observation_tokens, completion_tokens):
    """Tokens, turns and observations stay within their limits, and every request continues the one before."""
    engine = Engine(*turns)
    rules = {
        "max_turns": max_turns,
        "observation_tokens": observation_tokens,
        "completion_tokens": completion_tokens,
    }
    found = play(Source(lambda: Endless(observation)), engine, **rules)
    assert 1 <= len(found.tokens) <= completion_tokens
    assert found.episode.turns == len(engine.requests) <= max_turns
    assert len(found.episode.observations) == found.episode.turns - 1
    assert found.forced.sum() <= (found.episode.turns - 1) * (observation_tokens + 3)
    assert all(max_tokens >= 1 for _, max_tokens in engine.requests)
    whole = [*PROMPT.tokens.tolist(), *found.tokens.tolist()]
    for tokens, max_tokens in engine.requests:
        assert tokens == whole[: len(tokens)], "a request that the final ids do not begin with"
        assert len(tokens) + max_tokens == len(PROMPT.tokens) + completion_tokens
    assert (np.diff(found.versions) >= 0).all()


# -- in the pool -------------------------------------------------------------------------------------------------------

RUN = {
    "apiVersion": "scalerl.io/v1alpha1",
    "kind": "RLRun",
    "metadata": {"name": "unit"},
    "spec": {
        "model": {"source": "some/model"},
        "data": {"train": {"source": "none.jsonl"}, "promptFormat": "plain", "promptTemplate": "{prompt}"},
        "reward": {"verifier": "env:toy:Any"},
        "recipe": {
            "promptsPerStep": 4,
            "completionsPerPrompt": 3,
            "length": {"control": "none", "promptTokens": 8, "thinkTokens": 40, "answerTokens": 40},
        },
        "budget": {"steps": 300},
        "trainer": {"gpusPerReplica": 0},
        "generator": {"gpusPerReplica": 0},
    },
}


class Fleet:
    """Generators that run the calculator's turns; `deaths`: the requests at which their engine is lost."""

    def __init__(self, seed, deaths=()):
        self.random, self.deaths, self.calls = random.Random(seed), deaths, 0
        self.alive, self.starts = {}, 0

    async def start_generator(self, index):
        self.starts += 1
        self.alive[index] = self.starts
        return 0.0

    async def sample(self, index, prompt, requests):
        self.calls += 1
        if self.calls in self.deaths:
            self.alive.pop(index, None)
        engine = self.alive.get(index)
        await asyncio.sleep(self.random.choice([0, 0.001]))
        if engine is None or self.alive.get(index) != engine:
            raise GeneratorLost(index, "killed")
        assert len(requests) == 1, "each episode has its own requests"
        text = "42" if EOS in prompt.tolist() else "calc(6*7)"
        tokens = np.array([*ids(text), EOS], np.int32)
        # The engine's number in place of a version: an episode of two engines would show both.
        return [
            EngineOutput(tokens, np.full(len(tokens), -0.5, np.float32), np.full(len(tokens), engine), text, "stop")
        ]


class SlowSource(Source):
    async def open(self, prompt, reference):
        await asyncio.sleep(0.002)  # long enough for an engine to be restarted
        return await super().open(prompt, reference)


async def run_pool(fleet):
    run = parse_run(RUN)
    recipe, clock = run.spec.resolved_recipe(), asyncio.get_running_loop().time
    options = PoolOptions(recipe, build_staleness_bound(recipe), None, 1, 9.0, 9.0, max_sequences=32)
    source = SlowSource()

    async def grade(_prompt, _text):
        raise AssertionError("an episode is graded by its environment")

    slots = [Slot(0, RoleClock(1))]
    pool = Pool(options, fleet, grade, slots, clock, episodes=make_player(source, completion_tokens=80))
    pool.start_slot(slots[0])
    submitted = 0
    while pool.groups.num_completed < 4:
        await pool.wait_running(1)
        pool.record_update(pool.outdated(0), 0)
        pool.check()
        while pool.groups.num_completed + pool.groups.num_in_flight < 4:
            slot = pool.next_slot()
            if slot is None:
                break
            _, name = pool.groups.next_reissue() or (0, submitted)
            submitted += name == submitted
            pool.submit(slot, Prompt(name, "6*7 =", PROMPT.tokens, "42"), 0)
        await asyncio.sleep(0.001)
    await pool.close()
    assert source.open_episodes == 0
    return pool


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("deaths", [(), (2,), (5, 6), (9, 15)])
def test_an_engine_lost_in_an_episode_repeats_the_whole_group(seed, deaths):
    fleet = Fleet(seed, deaths)
    pool = asyncio.run(run_pool(fleet))
    groups = pool.groups.completed
    assert sorted(group.prompt.id for group in groups) == [0, 1, 2, 3]
    for group in groups:
        assert len(group.completions) == 3
        for each in group.completions:
            assert len(set(each.versions.tolist())) == 1, "an episode of two engines"
            assert (each.reward, each.episode.turns, each.text) == (1.0, 2, "calc(6*7)<42>42")
    assert pool.counters.graded == 12
    assert (pool.counters.restarts > 0) == bool(deaths)
    assert pool.counters.restarts == fleet.starts - 1, "an engine in order is not restarted for one that was lost"
    assert pool.slots[0].load == pool.slots[0].num_rollouts == 0
