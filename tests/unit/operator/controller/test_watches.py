"""The watches of the real kopf on an API server whose objects and events the test sets."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_api
import pytest
from http_api import DISCOVERY, HttpApi, Request, save_kubeconfig

from scalerl_operator.controller import watches as handlers
from scalerl_operator.controller.watches import Watches, start_watches

Json = dict[str, Any]
SECONDS = 60.0  # longest wait for anything


def thing(name: str, version: int, namespace: str = "research") -> Json:
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": metadata}


def lists_of(api: HttpApi) -> list[Request]:
    return [each for each in api.requests if each.is_list]


class Scene:
    """The server, the watches, and the events that they reported."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.api = HttpApi()
        self.api.list_version = "5"
        self.serve("rlruns", thing("a", 4))
        self.serve("pods", thing("a-trainer-0", 4))
        self.events: list[tuple[str, str, str, bool]] = []
        self.ends = self.lists = 0

    def serve(self, plural: str, *things: Json) -> None:
        """Replace the stored objects of a kind."""
        objects = self.api.store.objects
        for key in [each for each in objects if each[0] == plural]:
            del objects[key]
        objects.update({(plural, each["metadata"]["namespace"], each["metadata"]["name"]): each for each in things})

    def refuse(self, times: int, status: int) -> None:
        """Refuse the next lists."""
        self.api.refusals["GET "] = (status, {"kind": "Status", "code": status, "message": "no"}, {})
        self.api.refuse_times["GET "] = times

    def tell(self, plural: str, kind: str, body: Json) -> None:
        self.api.notify(plural, {"type": kind, "object": body})

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not holds():
                await asyncio.sleep(0.01)

    async def play(self, story: Callable[[Any], Any], *namespaces: str) -> list[tuple[str, str]]:
        """Watch while `story` runs; return (method, path) of all requests."""
        async with fake_api.serving(self.api.answer) as server:
            save_kubeconfig(self._folder / "config", server.url)
            watches = Watches(self._on("run"), self._on("pod"), self._on_list, self._on_end, namespaces)
            self.count = watches.count
            end = start_watches(watches, asyncio.get_running_loop())
            try:
                await story(self.api)
            finally:
                await asyncio.to_thread(end)
                self.api.closing.set()
            await self.until(lambda: self.ends > 0)
            return [(each.method, each.path) for each in self.api.requests]

    def _on(self, what: str) -> Callable[[Any, bool], None]:
        def take(body: Any, deleted: bool) -> None:
            self.events.append((what, body["metadata"]["name"], body["metadata"]["resourceVersion"], deleted))

        return take

    def _on_list(self) -> None:
        self.lists += 1

    def _on_end(self) -> None:
        self.ends += 1


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Scene]:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    return lambda: Scene(tmp_path)


def test_objects_and_changes_are_reported_and_nothing_is_written(scene: Callable[[], Scene]) -> None:
    async def whole() -> None:
        found = scene()

        async def story(_: Any) -> None:
            await found.until(lambda: len(found.events) == 2)
            assert sorted(found.events) == [("pod", "a-trainer-0", "4", False), ("run", "a", "4", False)]
            found.events.clear()
            found.tell("rlruns", "ADDED", thing("b", 6))
            await found.until(lambda: found.events == [("run", "b", "6", False)])
            found.tell("rlruns", "MODIFIED", thing("b", 7))
            found.tell("pods", "DELETED", thing("a-trainer-0", 8))
            await found.until(lambda: len(found.events) == 3)
            assert sorted(found.events[1:]) == [("pod", "a-trainer-0", "8", True), ("run", "b", "7", False)]

        requests = await found.play(story)
        assert {method for method, _ in requests} == {"GET"}, "kopf leaves no annotation, finalizer or event"
        assert ("GET", "/apis/scalerl.io/v1alpha1/rlruns") in requests
        assert found.ends == 1

    asyncio.run(whole())


def test_a_watch_that_ends_resumes_at_its_version(scene: Callable[[], Scene]) -> None:
    async def whole() -> None:
        found = scene()

        async def story(api: Any) -> None:
            await found.until(lambda: len(found.events) == 2)
            found.tell("rlruns", "MODIFIED", thing("a", 9))
            await found.until(lambda: ("run", "a", "9", False) in found.events)
            api.notify("rlruns", None)
            found.tell("rlruns", "MODIFIED", thing("a", 10))
            await found.until(lambda: ("run", "a", "10", False) in found.events)
            versions = [
                call.query["resourceVersion"]
                for call in api.requests
                if call.path.endswith("rlruns") and "watch" in call.query
            ]
            assert versions == ["5", "9"]
            assert found.lists == 2, "nothing was lost: no list was needed"

        await found.play(story)

    asyncio.run(whole())


def test_an_expired_watch_lists_again(scene: Callable[[], Scene]) -> None:
    """410: changes in between arrive as no events; the list has them, except deletions."""

    async def whole() -> None:
        found = scene()

        async def story(api: Any) -> None:
            await found.until(lambda: len(found.events) == 2)
            found.serve("rlruns", thing("a", 20), thing("c", 21))
            status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            found.tell("rlruns", "ERROR", status)
            await found.until(lambda: {each[1:3] for each in found.events} >= {("a", "20"), ("c", "21")})
            assert [call.path.endswith("rlruns") for call in lists_of(api)].count(True) == 2
            assert found.lists == 3, "a list of pods, and two of runs"

        await found.play(story)

    asyncio.run(whole())


def test_an_empty_list_is_reported_and_a_refused_one_is_not(scene: Callable[[], Scene]) -> None:
    async def whole() -> None:
        found = scene()
        found.serve("rlruns")
        found.serve("pods")
        found.refuse(2, 503)

        async def story(api: Any) -> None:
            await found.until(lambda: found.lists == 2)
            assert len(lists_of(api)) == 4
            found.tell("pods", "ADDED", thing("a-trainer-0", 8))
            await found.until(lambda: found.events == [("pod", "a-trainer-0", "8", False)])
            assert found.lists == 2

        await found.play(story)

    asyncio.run(whole())


def test_refused_credentials_are_read_again(scene: Callable[[], Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    """A service account's token is replaced every hour, and the old one is refused some time later."""
    monkeypatch.setattr(handlers, "LOGIN_SECONDS", 0.01)

    async def whole() -> None:
        found = scene()
        found.refuse(2, 401)

        async def story(api: Any) -> None:
            await found.until(lambda: len(found.events) == 2 and found.lists == 2)
            assert len(lists_of(api)) >= 3
            found.tell("pods", "ADDED", thing("a-trainer-1", 8))
            await found.until(lambda: ("pod", "a-trainer-1", "8", False) in found.events)

        await found.play(story)

    asyncio.run(whole())


def test_only_the_served_namespaces_are_listed(scene: Callable[[], Scene]) -> None:
    async def whole() -> None:
        found = scene()
        teams = "team-a", "team-b"
        found.serve("rlruns", *(thing("a", 4, team) for team in (*teams, "team-c")))
        found.serve("pods", *(thing("a-trainer-0", 4, team) for team in (*teams, "team-c")))

        async def story(_: Any) -> None:
            await found.until(lambda: len(found.events) == 4)
            assert found.lists == found.count == 4

        requests = {path for _, path in await found.play(story, *teams)}
        wanted = {
            f"{prefix}/namespaces/{namespace}/{plural}"
            for prefix, plural in (("/api/v1", "pods"), ("/apis/scalerl.io/v1alpha1", "rlruns"))
            for namespace in teams
        }
        assert requests - set(DISCOVERY) == wanted, "no right outside them is needed"

    asyncio.run(whole())
