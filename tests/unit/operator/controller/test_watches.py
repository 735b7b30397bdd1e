"""The watches, by the real kopf, against an API server whose objects and events are given."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from scalerl_operator.controller import watches as handlers
from scalerl_operator.controller.watches import Watches, start_watches

Json = dict[str, Any]
SECONDS = 60.0  # longest wait for anything


def entry(plural: str, kind: str) -> Json:
    return {
        "name": plural,
        "singularName": kind.lower(),
        "namespaced": kind != "Namespace",
        "kind": kind,
        "verbs": ["get", "list", "watch"],
    }


DISCOVERY = {
    "/api": {"versions": ["v1"]},
    "/apis": {
        "groups": [
            {
                "name": "scalerl.io",
                "versions": [{"version": "v1alpha1"}],
                "preferredVersion": {"version": "v1alpha1"},
            }
        ]
    },
    "/api/v1": {"resources": [entry("namespaces", "Namespace"), entry("pods", "Pod")]},
    "/apis/scalerl.io/v1alpha1": {"resources": [entry("rlruns", "RLRun")]},
}


def thing(name: str, version: int) -> Json:
    metadata = {"name": name, "namespace": "research", "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": metadata}


def list_calls(api: Any) -> list[Any]:
    return [call for call in api.calls if call.path not in DISCOVERY and "watch" not in call.query]


@dataclass
class Served:
    """What the server has of one resource, and what its watch tells."""

    items: list[Json] = field(default_factory=list)
    events: "asyncio.Queue[Json | None]" = field(default_factory=asyncio.Queue)
    """None ends the watch, as a server does after a while."""


class Scene:
    """The server, the watches, and what they told."""

    def __init__(self, fake_api: Any, folder: Path):
        self._fake_api, self._folder = fake_api, folder
        self.served = {"rlruns": Served([thing("a", 4)]), "pods": Served([thing("a-trainer-0", 4)])}
        self.told: list[tuple[str, str, str, bool]] = []
        self.ends = self.lists = self.refusals = 0
        self.refusal = 503
        self.stopping = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path in DISCOVERY:
            return web.json_response(DISCOVERY[request.path])
        served = self.served[request.path.rsplit("/", 1)[1]]
        if "watch" in request.query:
            return await self._watch(request, served)
        if self.refusals:
            self.refusals -= 1
            return web.json_response({"kind": "Status", "code": self.refusal, "message": "no"}, status=self.refusal)
        return web.json_response({"metadata": {"resourceVersion": "5"}, "items": served.items})

    async def _watch(self, request: web.Request, served: Served) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        stop = asyncio.create_task(self.stopping.wait())
        while not stop.done():
            event = asyncio.create_task(served.events.get())
            await asyncio.wait([event, stop], return_when=asyncio.FIRST_COMPLETED)
            if not event.done() or event.result() is None:
                event.cancel()
                break
            await response.write(json.dumps(event.result()).encode() + b"\n")
        stop.cancel()
        return response

    def tell(self, plural: str, kind: str, body: Json) -> None:
        self.served[plural].events.put_nowait({"type": kind, "object": body})

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not holds():
                await asyncio.sleep(0.01)

    async def play(self, story: Callable[[Any], Any], *namespaces: str) -> list[tuple[str, str]]:
        """Watch while `story` goes on; return (method, path) of all that was asked."""
        async with self._fake_api.serving(self.answer) as api:
            config = {
                "current-context": "x",
                "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                "clusters": [{"name": "x", "cluster": {"server": api.url}}],
                "users": [{"name": "x", "user": {}}],
            }
            (self._folder / "config").write_text(yaml.safe_dump(config))
            watches = Watches(self._on("run"), self._on("pod"), self._on_list, self._on_end, namespaces)
            self.count = watches.count
            end = start_watches(watches, asyncio.get_running_loop())
            try:
                await story(api)
            finally:
                await asyncio.to_thread(end)
                self.stopping.set()
            await self.until(lambda: self.ends > 0)
            return [(call.method, call.path) for call in api.calls]

    def _on(self, what: str) -> Callable[[Any, bool], None]:
        def take(body: Any, deleted: bool) -> None:
            self.told.append((what, body["metadata"]["name"], body["metadata"]["resourceVersion"], deleted))

        return take

    def _on_list(self) -> None:
        self.lists += 1

    def _on_end(self) -> None:
        self.ends += 1


@pytest.fixture
def scene(fake_api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Scene]:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    return lambda: Scene(fake_api, tmp_path)


def test_what_is_there_and_what_happens_is_told_and_nothing_is_written(scene: Callable[[], Scene]) -> None:
    async def whole() -> None:
        found = scene()

        async def story(_: Any) -> None:
            await found.until(lambda: len(found.told) == 2)
            assert sorted(found.told) == [("pod", "a-trainer-0", "4", False), ("run", "a", "4", False)]
            found.told.clear()
            found.tell("rlruns", "ADDED", thing("b", 6))
            await found.until(lambda: found.told == [("run", "b", "6", False)])
            found.tell("rlruns", "MODIFIED", thing("b", 7))
            found.tell("pods", "DELETED", thing("a-trainer-0", 8))
            await found.until(lambda: len(found.told) == 3)
            assert sorted(found.told[1:]) == [("pod", "a-trainer-0", "8", True), ("run", "b", "7", False)]

        asked = await found.play(story)
        assert {method for method, _ in asked} == {"GET"}, "kopf leaves no annotation, finalizer or event"
        assert ("GET", "/apis/scalerl.io/v1alpha1/rlruns") in asked
        assert found.ends == 1

    asyncio.run(whole())


def test_a_watch_that_ends_goes_on_where_it_was(scene: Callable[[], Scene]) -> None:
    async def whole() -> None:
        found = scene()

        async def story(api: Any) -> None:
            await found.until(lambda: len(found.told) == 2)
            found.tell("rlruns", "MODIFIED", thing("a", 9))
            await found.until(lambda: ("run", "a", "9", False) in found.told)
            found.served["rlruns"].events.put_nowait(None)
            found.tell("rlruns", "MODIFIED", thing("a", 10))
            await found.until(lambda: ("run", "a", "10", False) in found.told)
            versions = [
                call.query["resourceVersion"]
                for call in api.calls
                if call.path.endswith("rlruns") and "watch" in call.query
            ]
            assert versions == ["5", "9"]
            assert found.lists == 2, "nothing was lost: no list was needed"

        await found.play(story)

    asyncio.run(whole())


def test_a_watch_that_has_fallen_too_far_behind_lists_anew(scene: Callable[[], Scene]) -> None:
    """410: what happened meanwhile is not told as events any more; the list has it, but for what was deleted."""

    async def whole() -> None:
        found = scene()

        async def story(api: Any) -> None:
            await found.until(lambda: len(found.told) == 2)
            found.served["rlruns"].items = [thing("a", 20), thing("c", 21)]
            status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            found.tell("rlruns", "ERROR", status)
            await found.until(lambda: {each[1:3] for each in found.told} >= {("a", "20"), ("c", "21")})
            assert [call.path.endswith("rlruns") for call in list_calls(api)].count(True) == 2
            assert found.lists == 3, "a list of pods, and two of runs"

        await found.play(story)

    asyncio.run(whole())


def test_an_empty_list_is_told_of_and_one_that_is_refused_is_not(scene: Callable[[], Scene]) -> None:
    async def whole() -> None:
        found = scene()
        found.served = {"rlruns": Served([]), "pods": Served([])}
        found.refusals = 2

        async def story(api: Any) -> None:
            await found.until(lambda: found.lists == 2)
            assert len(list_calls(api)) == 4
            found.tell("pods", "ADDED", thing("a-trainer-0", 8))
            await found.until(lambda: found.told == [("pod", "a-trainer-0", "8", False)])
            assert found.lists == 2

        await found.play(story)

    asyncio.run(whole())


def test_credentials_that_are_refused_are_read_anew(
    scene: Callable[[], Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service account's token is replaced every hour, and the old one is refused some time later."""
    monkeypatch.setattr(handlers, "LOGIN_SECONDS", 0.01)

    async def whole() -> None:
        found = scene()
        found.refusals, found.refusal = 2, 401

        async def story(api: Any) -> None:
            await found.until(lambda: len(found.told) == 2 and found.lists == 2)
            assert len(list_calls(api)) >= 3
            found.tell("pods", "ADDED", thing("a-trainer-1", 8))
            await found.until(lambda: ("pod", "a-trainer-1", "8", False) in found.told)

        await found.play(story)

    asyncio.run(whole())


def test_only_the_namespaces_that_are_served_are_asked_for(scene: Callable[[], Scene]) -> None:
    async def whole() -> None:
        found = scene()

        async def story(_: Any) -> None:
            await found.until(lambda: len(found.told) == 4)
            assert found.lists == found.count == 4

        asked = {path for _, path in await found.play(story, "team-a", "team-b")}
        wanted = {
            f"{prefix}/namespaces/{namespace}/{plural}"
            for prefix, plural in (("/api/v1", "pods"), ("/apis/scalerl.io/v1alpha1", "rlruns"))
            for namespace in ("team-a", "team-b")
        }
        assert asked - set(DISCOVERY) == wanted, "no right outside them is needed"

    asyncio.run(whole())
