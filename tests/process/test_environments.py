"""Environments in their processes: a user's class that works, raises, hangs, dies, or is none."""

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest

from scalerl_api import InvalidRun, parse_run
from scalerl_runtime.environments.pool import EnvironmentFailed, EnvironmentPool
from scalerl_runtime.environments.protocol import Step
from scalerl_runtime.environments.start import start_environments
from scalerl_runtime.types import Prompt

USER_MODULE = '''
import asyncio, os, sys, time
from scalerl_runtime.environments.protocol import Step

class Echo:
    """Counts its own turns; a message may ask for trouble."""

    def __init__(self, *, times: int = 2, word: str = "turn"):
        self.times, self.word, self.turns = times, word, 0

    def reset(self, prompt, reference):
        if prompt == "bad row":
            raise LookupError("no such row")
        self.reference = reference
        print("a line for the log")

    def step(self, message):
        if message == "hang":
            time.sleep(900)
        if message == "die":
            os._exit(3)
        if message == "exit":
            sys.exit("leaving")
        if message == "raise":
            raise RuntimeError("broken")
        if message == "none":
            return None
        self.turns += 1
        done = self.turns == self.times
        return Step(f"{self.word} {self.turns}: {message}", done, float(message == self.reference) if done else None)

class Later:
    async def reset(self, prompt, reference):
        await asyncio.sleep(0)
    async def step(self, message):
        await asyncio.sleep(0)
        return Step(done=True, reward=1.0)

class Picky(Later):
    def __init__(self):
        raise OSError("no licence")

class Greets(Later):
    async def reset(self, prompt, reference):
        return "Welcome to " + prompt

class NeedsText(Later):
    async def step(self, message):
        return Step(done=True, reward=float(len(message.split()[0])))

class NoStep:
    def reset(self, prompt, reference): ...

number = 7
'''


@pytest.fixture(autouse=True)
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_world.py").write_text(USER_MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)


@pytest.fixture
def make():
    pools = []

    def make(name="Echo", *, timeout_seconds=20.0, num_processes=1, **arguments):
        pool = EnvironmentPool(
            f"env:my_world:{name}", arguments, timeout_seconds=timeout_seconds, num_processes=num_processes
        )
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.close()


async def play(pool, *messages, reference="b"):
    """The replies to messages; the words of its failure in the place of the one that failed."""
    replies = []
    try:
        episode = await pool.open("?", reference)
    except EnvironmentFailed as error:
        return [str(error)]
    try:
        for message in messages:
            replies.append(await episode.step(message))  # noqa: PERF401  # the first ones are kept when one fails
    except EnvironmentFailed as error:
        replies.append(str(error))
    finally:
        episode.close()
    return replies


def test_episodes_have_their_own_state_and_arguments(make):
    pool = make(word="round")
    pool.start("?", "b")

    async def both():
        return await asyncio.gather(play(pool, "a", "b"), play(pool, "c", "d"))

    assert asyncio.run(both()) == [
        [Step("round 1: a"), Step("round 2: b", done=True, reward=1.0)],
        [Step("round 1: c"), Step("round 2: d", done=True, reward=0.0)],
    ]


def test_methods_may_be_async(make):
    pool = make("Later")
    pool.start("?", "b")
    assert asyncio.run(play(pool, "x")) == [Step(done=True, reward=1.0)]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("raise", "RuntimeError: broken"),
        ("exit", "SystemExit: leaving"),
        ("none", "TypeError: step returned None"),
    ],
)
def test_an_error_ends_its_own_episode_only(make, message, words):
    pool = make()
    pool.start("?", "b")

    async def both():
        other = await pool.open("?", "b")
        failed = await play(pool, "a", message)
        return failed, await other.step("x")

    (first, failure), reply = asyncio.run(both())
    assert first == Step("turn 1: a")
    assert words in failure
    assert reply == Step("turn 1: x")


@pytest.mark.parametrize(("message", "words"), [("hang", "no reply within 1 s"), ("die", "its process ended")])
def test_a_lost_process_loses_its_episodes_and_is_replaced(make, message, words):
    pool = make(timeout_seconds=1.0)
    pool.start("?", "b")

    async def three():
        other = await pool.open("?", "b")
        failed = await play(pool, message)
        with pytest.raises(EnvironmentFailed, match="lost in another episode"):
            await other.step("x")
        return failed, await play(pool, "a")

    (failure,), after = asyncio.run(three())
    assert words in failure
    assert after == [Step("turn 1: a")]


def test_a_row_that_an_environment_refuses_fails_its_episode(make):
    pool = make()
    pool.start("?", "b")

    async def refused():
        with pytest.raises(EnvironmentFailed, match="LookupError: no such row"):
            await pool.open("bad row", "b")

    asyncio.run(refused())


def test_a_closed_pool_fails_its_episodes(make):
    pool = make()
    pool.start("?", "b")
    pool.close()
    assert asyncio.run(play(pool, "a")) == ["the environments are closed"]


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("Missing", {}, "AttributeError"),
        ("number", {}, "number in my_world is a int, not a class"),
        ("NoStep", {}, "NoStep in my_world has no method step"),
        ("Echo", {"tries": 3}, "unexpected keyword argument 'tries'"),
        ("Picky", {}, "OSError: no licence"),
        ("Greets", {}, "TypeError: reset returned 'Welcome to ?'; None is allowed"),
        ("NeedsText", {}, "takes a training row and an empty turn (IndexError"),
    ],
)
def test_what_cannot_be_used_is_refused_at_the_start(make, name, arguments, words):
    with pytest.raises(InvalidRun) as caught:
        make(name, **arguments).start("?", "b")
    (fault,) = caught.value.faults
    assert fault.path == "spec.reward.verifier"
    assert fault.value == f"env:my_world:{name}"
    assert words in fault.allowed


def run_with(**reward):
    document = {
        "apiVersion": "scalerl.io/v1alpha1",
        "kind": "RLRun",
        "metadata": {"name": "played"},
        "spec": {
            "model": {"source": "Qwen/Qwen3-8B"},
            "data": {
                "train": [
                    {"source": "a.jsonl", "name": "talks", "verifier": "env:my_world:Echo"},
                    {"source": "b.jsonl", "name": "sums", "verifier": "math"},
                ],
                "downstream": [{"name": "more", "source": "c.jsonl", "verifier": "env:my_world:Later"}],
            },
            "reward": reward,
            "recipe": {"length": {"control": "none"}},
            "budget": {"steps": 400},
        },
    }
    return parse_run(document)


def row(source, text="?"):
    return Prompt(1, text, np.zeros(1, np.int32), "b", source=source)


def test_sources_with_an_environment_are_started_with_their_own_rows():
    run = run_with(environment={"arguments": {}})
    started = start_environments(run, [row("sums", "bad row"), row("talks"), row("more")])
    try:
        assert sorted(started.by_source) == ["more", "talks"]
        assert started.by_source["talks"].environment == "env:my_world:Echo"
    finally:
        started.close()


def test_the_first_row_of_a_source_is_tried():
    with pytest.raises(InvalidRun, match="no such row"):
        start_environments(run_with(), [row("talks", "bad row"), row("talks"), row("more")])
