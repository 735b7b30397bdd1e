"""Logs of pods, read from a fake API server and fake kubelets that answer as Kubernetes' do."""

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
TIMINGS = FollowTimings(poll_seconds=0.02, silence_seconds=30.0, away_seconds=30.0)
FOLLOW = LogOptions(follow=True)


@dataclass
class ContainerLog:
    """The log of one container until its restart; its lines are a second apart unless they share one."""

    lines: list[str] = field(default_factory=list)
    over: bool = False
    cut: bool = False
    """The connection breaks, once, after the present lines."""
    closed: bool = False
    """The response ends, once and cleanly, while the container runs on: its log file was rotated."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def write(self, *texts: str, second: int | None = None) -> None:
        at = second if second is not None else len(self.lines) + 1
        self.lines += [f"2026-05-04T12:00:{at:02d}.{index:09d}Z {text}" for index, text in enumerate(texts, 1)]
        self.changed.set()

    def end(self) -> None:
        self.over = True
        self.changed.set()

    def close(self) -> None:
        self.closed = True
        self.changed.set()

    def tear(self) -> None:
        self.cut = True
        self.changed.set()


@dataclass
class Pod:
    role: PodRole
    uid: str = ""
    logs: list[ContainerLog] = field(default_factory=lambda: [ContainerLog()])
    begun: bool = True

    @property
    def current(self) -> ContainerLog:
        return self.logs[-1]

    def document(self) -> Json:
        state = {"terminated": {"exitCode": 0}} if self.current.over else {"running": {}}
        status = {"name": "runtime", "restartCount": len(self.logs) - 1, "state": state}
        return {
            "metadata": {
                "name": f"tiny-{self.role.hostname}",
                "namespace": "research",
                "resourceVersion": "6",
                "uid": self.uid or self.role.hostname,
                "labels": pod_labels("tiny", self.role, 1),
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
        self.lines: list[str] = []
        self.notices: list[str] = []
        self.queries: list[tuple[str, dict[str, str]]] = []

    def add(self, role: Any, index: int, **more: Any) -> Pod:
        pod_role = PodRole(role, index)
        pod = self.pods[f"tiny-{pod_role.hostname}"] = Pod(pod_role, **more)
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
        if "previous" in request.query and len(pod.logs) < 2:
            _, body, _ = self.fake_api.refusal(400, "BadRequest", 'previous terminated container "runtime" not found')
            return web.json_response(body, status=400)
        log = pod.logs[-2] if "previous" in request.query else pod.current
        return await self.send(request, log)

    async def send(self, request: web.Request, log: ContainerLog) -> web.StreamResponse:
        """Send as a kubelet does: it reads `sinceTime` in whole seconds."""
        since = request.query.get("sinceTime", "")[:19]
        start = next((i for i, line in enumerate(log.lines) if line[:19] >= since), len(log.lines))
        if "tailLines" in request.query:
            start = max(start, len(log.lines) - int(request.query["tailLines"]))
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            log.changed.clear()
            if start < len(log.lines):
                await response.write("".join(f"{line}\n" for line in log.lines[start:]).encode())
                start = len(log.lines)
            if log.cut:
                log.cut = False
                await response.write(b"2026-05-04T12:00:59.000000001Z half a li")
                assert request.transport is not None
                request.transport.abort()
                return response
            if log.over or log.closed or "follow" not in request.query:
                log.closed = False
                return response
            await log.changed.wait()

    async def with_kube(self, act: Callable[[KubeClient, LogSink], Awaitable[Any]]) -> Any:
        async with self.fake_api.serving(self.answer) as api:
            kube = KubeClient(api.connection())
            try:
                return await act(kube, LogSink(self.lines.append, self.notices.append))
            finally:
                await kube.close()

    def show(self, options: LogOptions | None = None, **selection: Any) -> Any:
        return asyncio.run(
            self.with_kube(lambda k, m: show_logs(k, PodSelection(KEY, **selection), options or LogOptions(), m))
        )

    def follow(self, act_out: Callable[[], Awaitable[None]], options: LogOptions = FOLLOW, **selection: Any) -> None:
        """Follow the logs while `act_out` runs; it ends the run."""

        async def act(kube: KubeClient, sink: LogSink) -> None:
            async with asyncio.timeout(60.0):
                following = asyncio.create_task(
                    follow_logs(kube, PodSelection(KEY, **selection), options, sink, TIMINGS)
                )
                acting = asyncio.create_task(act_out())
                await asyncio.wait([following, acting], return_when=asyncio.FIRST_COMPLETED)
                if following.done():
                    acting.cancel()
                    following.result()
                await acting
                await following

        asyncio.run(self.with_kube(act))

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await asyncio.sleep(0.005)

    def finish(self) -> None:
        for pod in self.pods.values():
            pod.current.end()
        self.run_over = True


@pytest.fixture
def cluster(fake_api: Any) -> Cluster:
    return Cluster(fake_api)


def test_logs_of_all_pods_are_written_trainers_first(cluster: Cluster) -> None:
    cluster.add("generator", 0).current.write("g one", "g two")
    cluster.add("trainer", 1, begun=False)
    cluster.add("trainer", 0).current.write("t one")
    assert cluster.show() == 2
    assert cluster.lines == ["[trainer-0] t one", "[generator-0] g one", "[generator-0] g two"]
    assert cluster.notices == ["tiny-trainer-1 has no log yet: no word from the scheduler default-scheduler"]
    assert cluster.queries[0] == ("tiny-trainer-0", {"container": "runtime", "timestamps": "true"})


def test_the_log_of_one_pod_has_no_prefix(cluster: Cluster) -> None:
    cluster.add("trainer", 0).current.write("t one", "t two", "t three")
    cluster.add("generator", 0).current.write("g one")
    assert cluster.show(LogOptions(tail=2), role="trainer", index=0) == 1
    assert cluster.lines == ["t two", "t three"]


def test_previous_reads_the_log_before_the_last_restart(cluster: Cluster) -> None:
    first = ContainerLog()
    first.write("the engine died")
    cluster.add("generator", 0, logs=[first, ContainerLog()])
    cluster.add("generator", 1)
    assert cluster.show(LogOptions(previous=True), role="generator") == 1
    assert cluster.lines == ["[generator-0] the engine died"]
    assert cluster.notices == ['tiny-generator-1: previous terminated container "runtime" not found']


def test_without_a_pod_no_log_is_written(cluster: Cluster) -> None:
    assert cluster.show() == 0


def test_following_writes_later_lines_and_ends_with_the_run(cluster: Cluster) -> None:
    coordinator, member = cluster.add("trainer", 0), cluster.add("trainer", 1)

    async def act_out() -> None:
        coordinator.current.write("one")
        await cluster.until(lambda: cluster.lines == ["[trainer-0] one"])
        member.current.write("two")
        await cluster.until(lambda: cluster.lines == ["[trainer-0] one", "[trainer-1] two"])
        coordinator.current.write("last")
        cluster.finish()

    cluster.follow(act_out)
    assert cluster.lines == ["[trainer-0] one", "[trainer-1] two", "[trainer-0] last"]


def test_a_broken_connection_neither_loses_nor_repeats_a_line(cluster: Cluster) -> None:
    """Three lines of one second, two of them written before; then half a line, which is sent again whole."""
    coordinator = cluster.add("trainer", 0)

    async def act_out() -> None:
        coordinator.current.write("one", "two", second=7)
        await cluster.until(lambda: len(cluster.lines) == 2)
        coordinator.current.tear()
        await cluster.until(lambda: len(cluster.queries) > 1)
        coordinator.current.lines.append("2026-05-04T12:00:07.000000002Z three")
        coordinator.current.write("four", second=8)
        await cluster.until(lambda: len(cluster.lines) == 4)
        cluster.finish()

    cluster.follow(act_out, role="trainer", index=0)
    assert cluster.lines == ["one", "two", "three", "four"]
    assert cluster.queries[1][1]["sinceTime"] == "2026-05-04T12:00:07.000000002Z"


def test_a_log_whose_response_ends_early_is_requested_again(cluster: Cluster) -> None:
    coordinator = cluster.add("trainer", 0)

    async def act_out() -> None:
        coordinator.current.write("one")
        await cluster.until(lambda: len(cluster.lines) == 1)
        coordinator.current.close()
        await cluster.until(lambda: len(cluster.queries) > 1)
        coordinator.current.write("two")
        await cluster.until(lambda: len(cluster.lines) == 2)
        cluster.finish()

    cluster.follow(act_out)
    assert cluster.lines == ["[trainer-0] one", "[trainer-0] two"]


def test_logs_of_a_new_attempt_and_of_a_restarted_generator_are_followed_from_their_first_line(
    cluster: Cluster,
) -> None:
    coordinator, generator = cluster.add("trainer", 0), cluster.add("generator", 0)
    coordinator.current.write("old", "first attempt")
    generator.current.write("container 1")

    async def act_out() -> None:
        await cluster.until(lambda: len(cluster.lines) == 2)
        coordinator.current.end()
        cluster.add("trainer", 0, uid="another").current.write("second attempt", "goes on")
        generator.current.end()
        generator.logs.append(ContainerLog())
        generator.current.write("container 2", "goes on")
        await cluster.until(lambda: len(cluster.lines) == 6)
        cluster.finish()

    cluster.follow(act_out, LogOptions(follow=True, tail=1))
    assert sorted(cluster.lines) == [
        "[generator-0] container 1",
        "[generator-0] container 2",
        "[generator-0] goes on",
        "[trainer-0] first attempt",
        "[trainer-0] goes on",
        "[trainer-0] second attempt",
    ]


def test_a_pending_pod_is_followed_once_it_starts(cluster: Cluster) -> None:
    pod = cluster.add("trainer", 0, begun=False)

    async def act_out() -> None:
        await cluster.until(lambda: len(cluster.notices) == 1)
        pod.begun = True
        pod.current.write("here")
        await cluster.until(lambda: cluster.lines == ["[trainer-0] here"])
        cluster.finish()

    cluster.follow(act_out)
    assert cluster.notices == ["tiny-trainer-0 has no log yet: no word from the scheduler default-scheduler"]


def test_an_api_server_outage_is_retried(cluster: Cluster, fake_api: Any) -> None:
    coordinator = cluster.add("trainer", 0)
    away = [fake_api.refusal(503, "ServiceUnavailable", "no coordinator") for _ in range(3)]

    async def act_out() -> None:
        coordinator.current.write("one")
        await cluster.until(lambda: len(cluster.lines) == 1)
        cluster.refusals["pods"] = away
        await cluster.until(lambda: not cluster.refusals["pods"])
        coordinator.current.write("two")
        cluster.finish()

    cluster.follow(act_out)
    assert cluster.lines == ["[trainer-0] one", "[trainer-0] two"]
    (notice,) = cluster.notices
    assert "503 ServiceUnavailable: no coordinator" in notice


def test_a_forbidden_log_ends_the_following(cluster: Cluster, fake_api: Any) -> None:
    cluster.add("trainer", 0)
    cluster.refusals["log"] = [fake_api.refusal(403, "Forbidden", 'cannot get resource "pods/log"')]

    async def act_out() -> None:
        await asyncio.sleep(60.0)

    with pytest.raises(KubeError, match="pods/log"):
        cluster.follow(act_out)
