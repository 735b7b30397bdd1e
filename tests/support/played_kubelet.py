"""A kubelet that runs nothing: two nodes with heartbeats, pods that are said to run, coordinators that answer. I/O.

What coordinators do is `played_training`'s to say. A node may die: it says nothing any more, and its coordinators are
gone.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

from addresses import address
from cluster_lab import NAMESPACE
from played_training import Training

from scalerl_api.wire import PORT_HTTP
from scalerl_operator.kube.client import LEASES, PODS, Json, KubeClient, KubeError

NODES = ("played-a", "played-b")
SCHEDULER = "played"  # the pods that are meant for these nodes name it, so that nobody else schedules them
TURN_SECONDS = 0.2
BEAT_SECONDS = 5.0
LEASE_NAMESPACE = "kube-node-lease"
KILLED = 137


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class _Coordinator:
    """A coordinator's process."""

    run: str
    server: asyncio.Server
    node: str


@dataclass
class PlayedKubelet:
    """Plays every pod of NAMESPACE that names SCHEDULER."""

    kube: KubeClient
    trainings: dict[str, Training] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    """Nodes that have died."""
    killed: set[str] = field(default_factory=set)
    """uids of pods whose process was killed."""
    _coordinators: dict[str, _Coordinator] = field(default_factory=dict)
    _addresses: dict[str, str] = field(default_factory=dict)
    _beaten: float = 0.0

    async def register(self) -> None:
        """Make the nodes."""
        for name in NODES:
            head = {"name": name}
            ready = {"type": "Ready", "status": "True", "reason": "Played", "lastHeartbeatTime": _now()}
            node = {"apiVersion": "v1", "kind": "Node", "metadata": head, "spec": {"unschedulable": True}}
            await self._write("POST", "/api/v1/nodes", node)
            await self._write("PATCH", f"/api/v1/nodes/{name}/status", {"status": {"conditions": [ready]}})
            lease = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": self._exactly()}
            head = {"name": name, "namespace": LEASE_NAMESPACE}
            await self.kube.create(
                LEASES, {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": head, "spec": lease}
            )

    async def _write(self, method: str, path: str, body: Json) -> None:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        await self.kube._call(method, path, body=body, kind=kind)  # what only a kubelet does has no call of its own

    def _exactly(self) -> str:
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    async def run(self) -> None:
        """Go on until cancelled; an API server may be away."""
        while True:
            for training in self.trainings.values():
                training.tick(time.monotonic())
            try:
                await self._beat()
                await self._turn()
            except KubeError as error:
                if error.status not in (0, 404, 409, 429, 500, 503):
                    raise
            await asyncio.sleep(TURN_SECONDS)

    async def _beat(self) -> None:
        if time.monotonic() - self._beaten > BEAT_SECONDS:
            self._beaten = time.monotonic()
            for name in NODES:
                if name not in self.dead:
                    renewed = {"spec": {"renewTime": self._exactly()}}
                    await self.kube.merge(LEASES, LEASE_NAMESPACE, name, renewed)

    def die(self, name: str) -> None:
        """The node `name` loses its power."""
        self.dead.add(name)
        for uid, coordinator in list(self._coordinators.items()):
            if coordinator.node == name:
                self._stop(uid)

    def _stop(self, uid: str) -> None:
        """The coordinator's process is gone."""
        coordinator = self._coordinators.pop(uid, None)
        if coordinator is not None:
            coordinator.server.close()
            self.trainings[coordinator.run].kill(time.monotonic())

    async def _turn(self) -> None:
        pods, _ = await self.kube.list(PODS, NAMESPACE)
        for uid in set(self._coordinators) - {pod["metadata"]["uid"] for pod in pods}:
            self._stop(uid)  # deleted without grace
        mine = [pod for pod in pods if pod["spec"].get("schedulerName") == SCHEDULER]
        results = await asyncio.gather(*map(self._play, mine), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _play(self, pod: Json) -> None:
        phase, node = pod.get("status", {}).get("phase"), pod["spec"].get("nodeName")
        if not node:
            await self._bind(pod)
        elif node in self.dead:
            return
        elif "deletionTimestamp" in pod["metadata"]:
            await self._wind_up(pod, phase)
        elif phase == "Pending":
            await self._start(pod, node)
        elif phase == "Running" and pod["metadata"]["uid"] in self.killed:
            self._stop(pod["metadata"]["uid"])
            await self._end(pod, KILLED, "")

    async def _bind(self, pod: Json) -> None:
        node = next(name for name in NODES if name not in self.dead)
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod["metadata"]["name"], "namespace": NAMESPACE},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        await self._write("POST", PODS.path(NAMESPACE, pod["metadata"]["name"], "binding"), binding)

    async def _wind_up(self, pod: Json, phase: str) -> None:
        uid = pod["metadata"]["uid"]
        coordinator = self._coordinators.get(uid)
        if coordinator is not None:
            training = self.trainings[coordinator.run]
            if not training.ending:
                training.ask_to_end(time.monotonic())
            if training.state != "ended":
                return
            self._coordinators.pop(uid).server.close()
            words = {"reason": "Stopped", "step": training.step, "checkpoint": training.checkpoint(time.time())}
            await self._end(pod, 0, json.dumps(words))
        elif phase == "Running":
            await self._end(pod, 0, "")
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        await self.kube.delete(PODS, NAMESPACE, pod["metadata"]["name"], options)

    async def _start(self, pod: Json, node: str) -> None:
        labels, uid = pod["metadata"]["labels"], pod["metadata"]["uid"]
        if uid not in self._addresses:
            self._addresses[uid] = address(len(self._addresses))
        run = labels["scalerl.io/run"]
        is_coordinator = (labels["scalerl.io/role"], labels["scalerl.io/index"]) == ("trainer", "0")
        if (
            is_coordinator and uid not in self._coordinators
        ):  # else it runs, and the API server was not there to hear it
            training = self.trainings.setdefault(run, Training())
            server = await asyncio.start_server(self._answer(run), self._addresses[uid], PORT_HTTP)
            self._coordinators[uid] = _Coordinator(run, server, node)
            training.begin(int(labels["scalerl.io/attempt"]), time.monotonic())
        state = {"running": {"startedAt": _now()}}
        ip = self._addresses[uid]
        await self._report(pod, {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}, state)

    async def _end(self, pod: Json, code: int, words: str) -> None:
        state = {
            "exitCode": code,
            "startedAt": _now(),
            "finishedAt": _now(),
            "reason": "Error" if code else "Completed",
            "message": words,
        }
        await self._report(pod, {"phase": "Failed" if code else "Succeeded"}, {"terminated": state})

    async def _report(self, pod: Json, status: Json, state: Json) -> None:
        ready = "running" in state
        container = {"name": "runtime", "ready": ready, "restartCount": 0, "image": "x", "imageID": "x", "state": state}
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        body = {"status": {**status, "conditions": conditions, "containerStatuses": [container]}}
        await self._write("PATCH", PODS.path(NAMESPACE, pod["metadata"]["name"], "status"), body)

    def _answer(self, run: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            request = await reader.readuntil(b"\r\n\r\n")
            query = parse_qs(urlsplit(request.split(b" ", 2)[1].decode()).query)
            said = self.trainings[run].say(run, int(query.get("since", ["0"])[0]), time.time())
            body = json.dumps(said).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
            await writer.drain()
            writer.close()

        return answer
