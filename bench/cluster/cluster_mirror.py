"""Watch events of runs and pods with their times: the benchmarks' own record of what the operator does. I/O."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

import aiohttp
from cluster_lab import NAMESPACE

from scalerl_operator.kube.client import PODS, RUNS, Connection, Json, Resource

LOOK_SECONDS = 0.02  # events arrive in bursts: a wait checks its condition once a burst


@dataclass
class Mirror:
    """The last reported state, by run; it begins with an empty namespace."""

    pods_per_run: int
    namespace: str | None = NAMESPACE
    """None: all namespaces; the runs' names are unique anyway."""
    states: dict[str, str] = field(default_factory=dict)
    phases: dict[str, dict[str, str]] = field(default_factory=dict)
    """Run -> pod -> phase."""
    made: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(pod, attempt; empty for generators) -> how often one was made."""
    history: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    """Run -> (time, reported state of it and of its generators): the history behind a fault."""
    last_made: float = 0.0
    """Time of the last pod's creation."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def num_made(self) -> int:
        """Return the number of pods ever created."""
        return self.made.total()

    async def follow(self, connection: Connection, version: int) -> None:
        """Follow all changes after `version` until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_runs(connection, version))
            group.create_task(self._follow_pods(connection, version))

    async def _follow_runs(self, connection: Connection, version: int) -> None:
        async for kind, found in watch(connection, RUNS, version, self.namespace):
            name = found["metadata"]["name"]
            if kind == "DELETED":
                self.states.pop(name, None)
            else:
                self.states[name] = found.get("status", {}).get("progress", {}).get("phase", "")
                self._note(name, f"run: {self.states[name]}, suspend {found['spec'].get('suspend', False)}")
            self._changed.set()

    async def _follow_pods(self, connection: Connection, version: int) -> None:
        async for kind, found in watch(connection, PODS, version, self.namespace):
            labels, name = found["metadata"]["labels"], found["metadata"]["name"]
            pods = self.phases.setdefault(labels["scalerl.io/run"], {})
            if labels["scalerl.io/role"] == "generator" and kind != "MODIFIED":
                self._note(labels["scalerl.io/run"], f"{name}: {kind}")
            if kind == "ADDED":
                self.made[name, labels.get("scalerl.io/attempt", "")] += 1
                self.last_made = time.monotonic()
            if kind == "DELETED":
                pods.pop(name, None)
            else:
                pods[name] = found.get("status", {}).get("phase", "")
            self._changed.set()

    def _note(self, run: str, text: str) -> None:
        history = self.history.setdefault(run, [])
        if not history or history[-1][1] != text:
            history.append((time.monotonic(), text))

    def is_whole(self, name: str) -> bool:
        """Whether the run trains with all its pods."""
        phases = list(self.phases.get(name, {}).values())
        return self.states.get(name) == "Training" and phases == ["Running"] * self.pods_per_run

    def is_free(self, name: str) -> bool:
        """Whether the run is suspended and holds nothing."""
        return self.states.get(name) == "Suspended" and not self.phases.get(name)

    def doubles(self) -> list[str]:
        """Return trainers' pods that were created twice for one attempt."""
        return [f"{name}, attempt {attempt}" for (name, attempt), count in self.made.items() if attempt and count > 1]

    def extra_generators(self, starts: Mapping[str, int]) -> list[str]:
        """Return generators' pods created more often than their run started; print each run's history."""
        found = []
        for (name, attempt), count in self.made.items():
            run = name.rsplit("-generator-", 1)[0]
            if not attempt and count > starts[run]:
                found.append(f"{name}: {count} instead of {starts[run]}")
                print(*found[-1:], *self.history[run], sep="\n  ", flush=True)
        return found

    async def wait(self, what: str, holds: Callable[[], bool], seconds: float = 3600.0) -> None:
        """Wait for a condition. Raises TimeoutError with its name."""
        try:
            async with asyncio.timeout(seconds):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            raise TimeoutError(f"{what}: not within {seconds:g} s") from None


async def watch(
    connection: Connection, resource: Resource, version: int, namespace: str | None
) -> AsyncIterator[tuple[str, Json]]:
    """Yield (type, object) of all events after `version`; the API server may restart meanwhile."""
    path = resource.path(namespace)
    forever = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(read_bufsize=2**22, timeout=forever) as session:
        while True:
            query = {"watch": "1", "resourceVersion": str(version), "allowWatchBookmarks": "1"}
            try:
                tls = connection.tls if connection.tls is not None else True
                async with session.get(connection.server + path, params=query, ssl=tls) as answer:
                    async for line in answer.content:
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            raise RuntimeError(f"watching {path}: {event['object'].get('message')}")
                        version = int(event["object"]["metadata"]["resourceVersion"])
                        if event["type"] != "BOOKMARK":
                            yield event["type"], event["object"]
            except aiohttp.ClientError:
                await asyncio.sleep(0.5)
