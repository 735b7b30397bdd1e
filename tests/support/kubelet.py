"""A kubelet that runs no container: nodes with heartbeats, and pods whose status a subclass decides. I/O.

Its nodes are real objects with leases: Kubernetes deletes the pods of nodes that are not.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from scalerl_operator.kube.client import LEASES, PODS, Json, KubeClient, KubeError

HEARTBEAT_SECONDS = 5.0
NODE_LEASES = "kube-node-lease"
PASSING = (0, 404, 409, 429, 500, 503)  # answers after which the next turn tries again


def now() -> str:
    """Return the time in Kubernetes' format."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _now_exactly() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def is_coordinator(pod: Json) -> bool:
    """Whether the pod is a run's coordinator."""
    labels = pod["metadata"]["labels"]
    return (labels["scalerl.io/role"], labels["scalerl.io/index"]) == ("trainer", "0")


class Kubelet:
    """Serve the pods of one namespace; `play` decides each pod's next state."""

    def __init__(
        self, kube: KubeClient, namespace: str, nodes: Sequence[str], address: Callable[[int], str], turn_seconds: float
    ):
        """`address(i)` returns the address of the i-th pod that starts."""
        self.kube, self.namespace, self.nodes = kube, namespace, nodes
        self.dead: set[str] = set()
        """Nodes without power."""
        self._address, self._turn_seconds = address, turn_seconds
        self._addresses: dict[str, str] = {}
        self._renewed = 0.0

    async def register(self) -> None:
        """Create the nodes; only pods that this kubelet binds run on them."""
        for name in self.nodes:
            node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"unschedulable": True}}
            made = await self._write("POST", "/api/v1/nodes", node)
            ready = {"type": "Ready", "status": "True", "reason": "Simulated", "lastHeartbeatTime": now()}
            await self._write("PATCH", f"/api/v1/nodes/{name}/status", {"status": {"conditions": [ready]}})
            owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": made["metadata"]["uid"]}
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": name, "namespace": NODE_LEASES, "ownerReferences": [owner]},
                "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": _now_exactly()},
            }
            await self.kube.create(LEASES, lease)

    async def run(self) -> None:
        """Serve until cancelled; the API server may be unreachable meanwhile."""
        while True:
            try:
                await self._heartbeat()
                await self.turn()
            except KubeError as error:
                if error.status not in PASSING:
                    raise
            await asyncio.sleep(self._turn_seconds)

    async def _heartbeat(self) -> None:
        if time.monotonic() - self._renewed > HEARTBEAT_SECONDS:
            self._renewed = time.monotonic()
            for name in self.nodes:
                if name not in self.dead:
                    await self.kube.merge(LEASES, NODE_LEASES, name, {"spec": {"renewTime": _now_exactly()}})

    async def turn(self) -> None:
        """Play every pod once."""
        pods, _ = await self.kube.list(PODS, self.namespace)
        await self.look(pods)
        for result in await asyncio.gather(*map(self.play, pods), return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def look(self, pods: Sequence[Json]) -> None:
        """Receive all pods before the first is played."""

    async def play(self, pod: Json) -> None:
        """Write the next state of `pod`, if it changes."""
        raise NotImplementedError

    def address(self, pod: Json) -> str:
        """Return the pod's address; it never changes."""
        return self._addresses.setdefault(pod["metadata"]["uid"], self._address(len(self._addresses)))

    async def bind(self, pod: Json) -> None:
        """Schedule the pod on the first node with power."""
        node = next(name for name in self.nodes if name not in self.dead)
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod["metadata"]["name"], "namespace": self.namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        await self._write("POST", PODS.path(self.namespace, pod["metadata"]["name"], "binding"), binding)

    async def report_no_room(self, pod: Json) -> None:
        """Report as the scheduler does that no node has room for the pod."""
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
        body = {"status": {"conditions": [condition]}}
        await self._write("PATCH", PODS.path(self.namespace, pod["metadata"]["name"], "status"), body)

    async def report_running(self, pod: Json) -> None:
        """Report that the container has started."""
        ip = self.address(pod)
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now()}
        await self.report(pod, status, {"running": {"startedAt": now()}})

    async def report_end(self, pod: Json, code: int, message: str, *, lost: bool = False) -> None:
        """Report that the container has ended, with `message` as its termination message; `lost`: by an eviction."""
        reason = "Error" if code else "Completed"
        state = {"exitCode": code, "startedAt": now(), "finishedAt": now(), "reason": reason, "message": message}
        await self.report(pod, {"phase": "Failed" if code else "Succeeded"}, {"terminated": state}, lost=lost)

    async def report(self, pod: Json, status: Json, state: Json, *, lost: bool = False) -> None:
        """Write the pod's status; `state` is its container's."""
        ready = "running" in state
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        if lost:
            conditions.append({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"})
        container = {"name": "runtime", "ready": ready, "restartCount": 0, "image": "x", "imageID": "x", "state": state}
        body = {"status": {**status, "conditions": conditions, "containerStatuses": [container]}}
        await self._write("PATCH", PODS.path(self.namespace, pod["metadata"]["name"], "status"), body)

    async def remove(self, pod: Json) -> None:
        """Delete the pod, whose containers have ended."""
        precondition = {"uid": pod["metadata"]["uid"]}
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": precondition}
        await self.kube.delete(PODS, self.namespace, pod["metadata"]["name"], options)

    async def _write(self, method: str, path: str, body: Json) -> Json:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        return await self.kube._call(method, path, body=body, kind=kind)  # a kubelet's own calls have no method
