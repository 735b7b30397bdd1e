"""A kubelet whose coordinators run `simulated_training`, on two nodes that can die. I/O."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from addresses import address
from cluster_lab import NAMESPACE
from kubelet import Kubelet, is_coordinator
from progress_server import serve_progress
from simulated_training import Training

from scalerl_operator.kube.client import Json, KubeClient

NODES = ("played-a", "played-b")
SCHEDULER = "played"  # pods for these nodes name it, so that no other scheduler takes them
TURN_SECONDS = 0.2
KILLED = 137


@dataclass
class _Coordinator:
    """A coordinator's process."""

    run: str
    server: asyncio.Server
    node: str


class SimulatedKubelet(Kubelet):
    """Simulate every pod of NAMESPACE that names SCHEDULER."""

    def __init__(self, kube: KubeClient):
        super().__init__(kube, NAMESPACE, NODES, address, TURN_SECONDS)
        self.trainings: dict[str, Training] = {}
        self.killed: set[str] = set()
        """uids of the pods with a killed process."""
        self.crowded: set[str] = set()
        """Runs for whose trainer pods but the first no node has room."""
        self._coordinators: dict[str, _Coordinator] = {}

    async def turn(self) -> None:
        """Advance the trainings, then play every pod."""
        for training in self.trainings.values():
            training.tick(time.monotonic())
        await super().turn()

    def die(self, name: str) -> None:
        """Cut the power of the node `name`."""
        self.dead.add(name)
        for uid, coordinator in list(self._coordinators.items()):
            if coordinator.node == name:
                self._stop(uid)

    def _stop(self, uid: str) -> None:
        """End the coordinator's process."""
        coordinator = self._coordinators.pop(uid, None)
        if coordinator is not None:
            coordinator.server.close()
            self.trainings[coordinator.run].kill(time.monotonic())

    async def look(self, pods: Sequence[Json]) -> None:
        """End the processes of pods that were deleted without grace."""
        for uid in set(self._coordinators) - {pod["metadata"]["uid"] for pod in pods}:
            self._stop(uid)

    async def play(self, pod: Json) -> None:
        """Move the pod to its next state; a dead node's pods stay as they are."""
        if pod["spec"].get("schedulerName") != SCHEDULER:
            return
        phase, node = pod.get("status", {}).get("phase"), pod["spec"].get("nodeName")
        if not node and self._has_room(pod):
            await self.bind(pod)
        elif not node:
            await self.report_no_room(pod)
        elif node in self.dead:
            return
        elif "deletionTimestamp" in pod["metadata"]:
            await self._finish(pod, phase)
        elif phase == "Pending":
            await self._start(pod, node)
        elif phase == "Running" and pod["metadata"]["uid"] in self.killed:
            self._stop(pod["metadata"]["uid"])
            await self.report_end(pod, KILLED, "")

    def _has_room(self, pod: Json) -> bool:
        labels = pod["metadata"]["labels"]
        is_member = labels["scalerl.io/role"] == "trainer" and not is_coordinator(pod)
        return not (is_member and labels["scalerl.io/run"] in self.crowded)

    async def _finish(self, pod: Json, phase: str) -> None:
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
            await self.report_end(pod, 0, json.dumps(words))
        elif phase == "Running":
            await self.report_end(pod, 0, "")
        await self.remove(pod)

    async def _start(self, pod: Json, node: str) -> None:
        labels, uid = pod["metadata"]["labels"], pod["metadata"]["uid"]
        run = labels["scalerl.io/run"]
        # A started process already runs: the API server was unreachable when its start was to be reported.
        if is_coordinator(pod) and uid not in self._coordinators:
            training = self.trainings.setdefault(run, Training())
            server = await serve_progress(
                [self.address(pod)], lambda _, since: self.trainings[run].progress(run, since, time.time())
            )
            self._coordinators[uid] = _Coordinator(run, server, node)
            training.begin(int(labels["scalerl.io/attempt"]), time.monotonic())
        await self.report_running(pod)
