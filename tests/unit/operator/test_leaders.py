"""The poller: what it remembers of leaders, over restarts of theirs, with leaders that are functions."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from scalerl_api import RLRun
from scalerl_api.wire import EvalPoint, Progress
from scalerl_operator.gauges import Gauges
from scalerl_operator.leaders import Leaders, Means
from scalerl_operator.names import Place
from scalerl_operator.sights import Key, SeenPod, SeenRun, Told
from scalerl_operator.store import Store
from scalerl_operator.telemetry import TelemetryError

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
KEY = ("research", "tiny")


class World:
    """A store with one run and its leader, who answers what `answer` says."""

    def __init__(self, run: RLRun):
        self.store, self.gauges = Store(), Gauges()
        self.asked: list[tuple[str, str, int]] = []
        self.dirty: list[Key] = []
        self.answer: Callable[[int], Progress] = lambda _since: progress()
        self.run = SeenRun(KEY, "u1", 1, 1, "scalerl.io/operator", False, {}, {}, run)
        self.store.put_run(self.run)
        means = Means(
            now=lambda: NOW,
            token=lambda uid: f"token of {uid}",
            dirty=self.dirty.append,
            ask=self._ask,
            poll_seconds=0.02,
        )
        self.leaders = Leaders(self.store, self.gauges, means)

    def _ask(self, address: str, token: str, since: int) -> Progress:
        self.asked.append((address, token, since))
        return self.answer(since)

    def place(self, attempt: int, **values: Any) -> None:
        given: dict[str, Any] = {"ip": "10.9.8.7", "started": NOW, "created": NOW, "owner": "u1", **values}
        uid, version = f"p{attempt}", 10 * attempt
        pod = SeenPod(KEY, "tiny-trainer-0", uid, version=version, place=Place("trainer", 0), attempt=attempt, **given)
        self.store.put_pod(pod)

    @property
    def told(self) -> Told:
        return self.leaders.told(self.run)

    async def until(self, holds: Callable[[], bool]) -> None:
        polling = asyncio.create_task(self.leaders.poll_forever())
        async with asyncio.timeout(60.0):
            while not holds():
                await asyncio.sleep(0.005)
        polling.cancel()
        await asyncio.gather(polling, *self.leaders._tasks, return_exceptions=True)


def progress(step: int = 7, attempt: int = 1, evals: tuple[EvalPoint, ...] = ()) -> Progress:
    return Progress(
        run="tiny",
        attempt=attempt,
        phase="training",
        step=step,
        version=step,
        compute_gpu_hours=0.5,
        evals=list(evals),
        time=NOW.timestamp() + step,
    )


@pytest.fixture
def world(make_run: Callable[..., RLRun]) -> World:
    return World(make_run())


def play(story: Awaitable[None]) -> None:
    async def whole() -> None:
        await story

    asyncio.run(whole())


def test_a_leader_is_asked_at_its_pod_with_its_runs_token(world: World) -> None:
    assert world.told == Told()
    world.place(1)
    play(world.until(lambda: world.told.asked))
    assert world.asked[0] == ("10.9.8.7:8480", "token of u1", 0)
    told = world.told
    assert (told.attempt, told.heard, told.watched) == (1, NOW, NOW)
    assert told.progress is not None
    assert told.progress.step == 7
    assert world.dirty == [KEY], "an answer that says nothing new marks nothing"


def test_an_address_of_ipv6_is_put_in_brackets(world: World) -> None:
    world.place(1, ip="fd00::7")
    play(world.until(lambda: bool(world.asked)))
    assert world.asked[0][0] == "[fd00::7]:8480"


def test_a_leader_that_does_not_answer_was_asked(world: World) -> None:
    def silent(_since: int) -> Progress:
        raise TelemetryError("no route")

    world.answer = silent
    world.place(1)
    play(world.until(lambda: len(world.asked) > 2))
    assert (world.told.asked, world.told.progress, world.told.heard) == (True, None, None)
    assert world.dirty == [KEY]


def test_points_are_asked_for_once_and_judged_once(world: World, point: Callable[..., EvalPoint]) -> None:
    points = tuple(point(index, pass_rate=0.3 + 0.01 * index) for index in range(3))
    world.answer = lambda since: progress(evals=points[since:])
    world.place(1)
    play(world.until(lambda: world.told.judged is not None and len(world.asked) > 5))
    assert [since for _, _, since in world.asked][:3] == [0, 3, 3]
    assert world.told.evals == points
    assert b"scalerl_operator_fits_total 1.0" in world.gauges.render()


def test_a_new_leader_counts_its_points_by_its_own_numbers(world: World, point: Callable[..., EvalPoint]) -> None:
    old = (point(0), point(1), point(2))
    world.answer = lambda since: progress(evals=old[since:])
    world.place(1)
    play(world.until(lambda: len(world.told.evals) == 3))
    world.asked.clear()
    world.place(2)
    redone = (point(0), point(1), point(2, attempt=2, pass_rate=0.5))
    world.answer = lambda since: progress(attempt=2, evals=redone[since:])
    play(world.until(lambda: world.told.attempt == 2 and world.told.evals[-1].pass_rate == 0.5))
    assert world.asked[0][2] == 0
    assert len(world.told.evals) == 3


def test_a_run_of_the_same_name_is_another(world: World) -> None:
    world.place(1)
    play(world.until(lambda: world.told.asked))
    assert world.leaders.told(replace(world.run, uid="u2")) == Told()


def test_what_a_policy_says_is_judged_anew_when_the_spec_changes(
    world: World, make_run: Callable[..., RLRun], point: Callable[..., EvalPoint]
) -> None:
    points = tuple(point(index, pass_rate=0.6) for index in range(3))
    world.answer = lambda since: progress(evals=points[since:])
    world.place(1)
    play(world.until(lambda: world.told.judged is not None))
    assert world.told.judged is not None
    assert world.told.judged.stop is None
    policy = {"name": "enough", "when": {"passRate": {"above": 0.5}}, "for": 2}
    edited = replace(world.run, version=2, generation=2, run=make_run(stopPolicies=[policy]))
    world.store.put_run(edited)
    play(world.until(lambda: world.told.judged is not None and world.told.judged.stop is not None))


def test_what_is_forgotten_leaves_no_series(world: World) -> None:
    world.place(1)
    play(world.until(lambda: b'scalerl_run_step{namespace="research",run="tiny"} 7.0' in world.gauges.render()))
    world.leaders.forget(KEY)
    assert world.told == Told()
    assert b'run="tiny"' not in world.gauges.render()
