"""Logs of pods, by way of an API server and kubelets that answer as Kubernetes' do."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from scalerl_operator.cli.log_lines import LogOptions
from scalerl_operator.cli.pod_logs import FollowTimings, LogSink, PodSelection, follow_logs, show_logs
from scalerl_operator.kube.client import KubeClient, KubeError
from scalerl_operator.resources.names import PodRole, pod_labels

Json = dict[str, Any]
KEY = ("research", "tiny")
PACE = FollowTimings(look_seconds=0.02, silence_seconds=30.0, away_seconds=30.0)
FOLLOW = LogOptions(follow=True)


@dataclass
class Life:
    """One life of a container: its lines, a second apart unless they share one."""

    lines: list[str] = field(default_factory=list)
    over: bool = False
    cut: bool = False
    """The connection is torn, once, after what there is now."""
    closed: bool = False
    """The answer is ended, once, as it should be, though the container goes on: a log file was replaced."""
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def write(self, *texts: str, second: int | None = None) -> None:
        at = second if second is not None else len(self.lines) + 1
        self.lines += [f"2026-05-04T12:00:{at:02d}.{index:09d}Z {text}" for index, text in enumerate(texts, 1)]
        self.news.set()

    def end(self) -> None:
        self.over = True
        self.news.set()

    def close(self) -> None:
        self.closed = True
        self.news.set()

    def tear(self) -> None:
        self.cut = True
        self.news.set()


@dataclass
class Pod:
    place: PodRole
    uid: str = ""
    lives: list[Life] = field(default_factory=lambda: [Life()])
    begun: bool = True

    @property
    def now(self) -> Life:
        return self.lives[-1]

    def document(self) -> Json:
        state = {"terminated": {"exitCode": 0}} if self.now.over else {"running": {}}
        status = {"name": "runtime", "restartCount": len(self.lives) - 1, "state": state}
        return {
            "metadata": {
                "name": f"tiny-{self.place.hostname}",
                "uid": self.uid or self.place.hostname,
                "labels": pod_labels("tiny", self.place, 1),
                "creationTimestamp": "2026-05-04T12:00:00Z",
            },
            "spec": {"nodeName": "n"} if self.begun else {},
            "status": {"phase": "Running", "containerStatuses": [status]} if self.begun else {},
        }


class Cluster:
    """An API server with one run, and the kubelets behind it."""

    def __init__(self, fake_api: Any):
        self.fake_api = fake_api
        self.pods: dict[str, Pod] = {}
        self.run_over = False
        self.refusals: dict[str, list[Any]] = {}
        self.told: list[str] = []
        self.remarks: list[str] = []
        self.queries: list[tuple[str, dict[str, str]]] = []

    def add(self, role: Any, index: int, **more: Any) -> Pod:
        place = PodRole(role, index)
        pod = self.pods[f"tiny-{place.hostname}"] = Pod(place, **more)
        return pod

    async def answer(self, request: web.Request) -> web.StreamResponse:
        what = request.path.rsplit("/", 1)[1]
        if self.refusals.get(what):
            code, body, headers = self.refusals[what].pop(0)
            return web.json_response(body, status=code, headers=headers)
        if what == "log":
            return await self.log(request)
        if what == "pods":
            assert request.query["labelSelector"] == "scalerl.io/run=tiny"
            items = [each.document() for each in self.pods.values()]
            return web.json_response({**self.fake_api.pods(), "items": items})
        done = {"type": "Complete", "status": "True" if self.run_over else "False", "reason": "Finished", "message": ""}
        done["lastTransitionTime"] = "2026-05-04T12:00:00Z"
        metadata = {"name": "tiny", "namespace": "research", "uid": "u", "resourceVersion": "5"}
        document = {"apiVersion": "scalerl.io/v1alpha1", "kind": "RLRun", "metadata": metadata}
        return web.json_response({**document, "status": {"conditions": [done]}})

    async def log(self, request: web.Request) -> web.StreamResponse:
        name = request.path.split("/")[-2]
        self.queries.append((name, dict(request.query)))
        pod = self.pods[name]
        if "previous" in request.query and len(pod.lives) < 2:
            _, body, _ = self.fake_api.refusal(400, "BadRequest", 'previous terminated container "runtime" not found')
            return web.json_response(body, status=400)
        life = pod.lives[-2] if "previous" in request.query else pod.now
        return await self.send(request, life)

    async def send(self, request: web.Request, life: Life) -> web.StreamResponse:
        """As a kubelet: `sinceTime` counts whole seconds."""
        since = request.query.get("sinceTime", "")[:19]
        place = next((i for i, line in enumerate(life.lines) if line[:19] >= since), len(life.lines))
        if "tailLines" in request.query:
            place = max(place, len(life.lines) - int(request.query["tailLines"]))
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            life.news.clear()
            if place < len(life.lines):
                await response.write("".join(f"{line}\n" for line in life.lines[place:]).encode())
                place = len(life.lines)
            if life.cut:
                life.cut = False
                await response.write(b"2026-05-04T12:00:59.000000001Z half a li")
                assert request.transport is not None
                request.transport.abort()
                return response
            if life.over or life.closed or "follow" not in request.query:
                life.closed = False
                return response
            await life.news.wait()

    async def with_kube(self, act: Callable[[KubeClient, LogSink], Awaitable[Any]]) -> Any:
        async with self.fake_api.serving(self.answer) as api:
            kube = KubeClient(api.connection())
            try:
                return await act(kube, LogSink(self.told.append, self.remarks.append))
            finally:
                await kube.close()

    def show(self, wish: LogOptions | None = None, **choice: Any) -> Any:
        return asyncio.run(
            self.with_kube(lambda k, m: show_logs(k, PodSelection(KEY, **choice), wish or LogOptions(), m))
        )

    def follow(self, story: Callable[[], Awaitable[None]], wish: LogOptions = FOLLOW, **choice: Any) -> None:
        """Follow while `story` goes on; after it the run is over."""

        async def act(kube: KubeClient, mouth: LogSink) -> None:
            async with asyncio.timeout(60.0):
                following = asyncio.create_task(follow_logs(kube, PodSelection(KEY, **choice), wish, mouth, PACE))
                telling = asyncio.create_task(story())
                await asyncio.wait([following, telling], return_when=asyncio.FIRST_COMPLETED)
                if following.done():
                    telling.cancel()
                    following.result()
                await telling
                await following

        asyncio.run(self.with_kube(act))

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await asyncio.sleep(0.005)

    def finish(self) -> None:
        for pod in self.pods.values():
            pod.now.end()
        self.run_over = True


@pytest.fixture
def cluster(fake_api: Any) -> Cluster:
    return Cluster(fake_api)


def test_logs_of_all_pods_one_after_the_other(cluster: Cluster) -> None:
    cluster.add("generator", 0).now.write("g one", "g two")
    cluster.add("trainer", 1, begun=False)
    cluster.add("trainer", 0).now.write("t one")
    assert cluster.show() == 2
    assert cluster.told == ["[trainer-0] t one", "[generator-0] g one", "[generator-0] g two"]
    assert cluster.remarks == ["tiny-trainer-1 has no log yet: no word from the scheduler default-scheduler"]
    assert cluster.queries[0] == ("tiny-trainer-0", {"container": "runtime", "timestamps": "true"})


def test_one_pods_log_has_no_prefix(cluster: Cluster) -> None:
    cluster.add("trainer", 0).now.write("t one", "t two", "t three")
    cluster.add("generator", 0).now.write("g one")
    assert cluster.show(LogOptions(tail=2), role="trainer", index=0) == 1
    assert cluster.told == ["t two", "t three"]


def test_the_life_before_the_last_restart(cluster: Cluster) -> None:
    first = Life()
    first.write("the engine died")
    cluster.add("generator", 0, lives=[first, Life()])
    cluster.add("generator", 1)
    assert cluster.show(LogOptions(previous=True), role="generator") == 1
    assert cluster.told == ["[generator-0] the engine died"]
    assert cluster.remarks == ['tiny-generator-1: previous terminated container "runtime" not found']


def test_no_pod_no_log(cluster: Cluster) -> None:
    assert cluster.show() == 0


def test_what_is_written_later_is_told_and_the_end_of_the_run_is_the_end(cluster: Cluster) -> None:
    coordinator, member = cluster.add("trainer", 0), cluster.add("trainer", 1)

    async def story() -> None:
        coordinator.now.write("one")
        await cluster.until(lambda: cluster.told == ["[trainer-0] one"])
        member.now.write("two")
        await cluster.until(lambda: cluster.told == ["[trainer-0] one", "[trainer-1] two"])
        coordinator.now.write("last")
        cluster.finish()

    cluster.follow(story)
    assert cluster.told == ["[trainer-0] one", "[trainer-1] two", "[trainer-0] last"]


def test_a_torn_connection_loses_and_doubles_nothing(cluster: Cluster) -> None:
    """Three lines of one second, of which two were told; then half a line, which comes again whole."""
    coordinator = cluster.add("trainer", 0)

    async def story() -> None:
        coordinator.now.write("one", "two", second=7)
        await cluster.until(lambda: len(cluster.told) == 2)
        coordinator.now.tear()
        await cluster.until(lambda: len(cluster.queries) > 1)
        coordinator.now.lines.append("2026-05-04T12:00:07.000000002Z three")
        coordinator.now.write("four", second=8)
        await cluster.until(lambda: len(cluster.told) == 4)
        cluster.finish()

    cluster.follow(story, role="trainer", index=0)
    assert cluster.told == ["one", "two", "three", "four"]
    assert cluster.queries[1][1]["sinceTime"] == "2026-05-04T12:00:07.000000002Z"


def test_an_answer_that_ends_is_not_the_end_of_a_container_that_goes_on(cluster: Cluster) -> None:
    coordinator = cluster.add("trainer", 0)

    async def story() -> None:
        coordinator.now.write("one")
        await cluster.until(lambda: len(cluster.told) == 1)
        coordinator.now.close()
        await cluster.until(lambda: len(cluster.queries) > 1)
        coordinator.now.write("two")
        await cluster.until(lambda: len(cluster.told) == 2)
        cluster.finish()

    cluster.follow(story)
    assert cluster.told == ["[trainer-0] one", "[trainer-0] two"]


def test_a_new_attempt_and_a_restarted_generator_are_followed_from_their_beginning(cluster: Cluster) -> None:
    coordinator, generator = cluster.add("trainer", 0), cluster.add("generator", 0)
    coordinator.now.write("old", "first attempt")
    generator.now.write("first life")

    async def story() -> None:
        await cluster.until(lambda: len(cluster.told) == 2)
        coordinator.now.end()
        cluster.add("trainer", 0, uid="another").now.write("second attempt", "goes on")
        generator.now.end()
        generator.lives.append(Life())
        generator.now.write("second life", "goes on")
        await cluster.until(lambda: len(cluster.told) == 6)
        cluster.finish()

    cluster.follow(story, LogOptions(follow=True, tail=1))
    assert sorted(cluster.told) == [
        "[generator-0] first life",
        "[generator-0] goes on",
        "[generator-0] second life",
        "[trainer-0] first attempt",
        "[trainer-0] goes on",
        "[trainer-0] second attempt",
    ]


def test_pods_that_wait_are_waited_for(cluster: Cluster) -> None:
    pod = cluster.add("trainer", 0, begun=False)

    async def story() -> None:
        await cluster.until(lambda: len(cluster.remarks) == 1)
        pod.begun = True
        pod.now.write("here")
        await cluster.until(lambda: cluster.told == ["[trainer-0] here"])
        cluster.finish()

    cluster.follow(story)
    assert cluster.remarks == ["tiny-trainer-0 has no log yet: no word from the scheduler default-scheduler"]


def test_a_server_that_is_away_for_a_while_is_waited_for(cluster: Cluster, fake_api: Any) -> None:
    coordinator = cluster.add("trainer", 0)
    away = [fake_api.refusal(503, "ServiceUnavailable", "no coordinator") for _ in range(3)]

    async def story() -> None:
        coordinator.now.write("one")
        await cluster.until(lambda: len(cluster.told) == 1)
        cluster.refusals["pods"] = away
        await cluster.until(lambda: not cluster.refusals["pods"])
        coordinator.now.write("two")
        cluster.finish()

    cluster.follow(story)
    assert cluster.told == ["[trainer-0] one", "[trainer-0] two"]
    (remark,) = cluster.remarks
    assert "503 ServiceUnavailable: no coordinator" in remark


def test_a_right_that_is_missing_ends_it(cluster: Cluster, fake_api: Any) -> None:
    cluster.add("trainer", 0)
    cluster.refusals["log"] = [fake_api.refusal(403, "Forbidden", 'cannot get resource "pods/log"')]

    async def story() -> None:
        await asyncio.sleep(60.0)

    with pytest.raises(KubeError, match="pods/log"):
        cluster.follow(story)
