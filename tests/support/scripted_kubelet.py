"""A kubelet whose pods follow a test's script: they start, their coordinators answer, they end. I/O.

`python tests/support/scripted_kubelet.py NAMESPACE` serves one namespace of KUBECONFIG's cluster until it is killed.
The ConfigMap `behave-<run>` scripts a run's coordinator, as JSON under `coordinator`: `step`, `evals`, `vitals`,
`phase` and `still` (seconds without a step) are its answer. `waiting` is the reason why its container does not start.
`exit` (a code), `words` (its Termination) and `lost` are its end. `room` is the number of trainers that get a node, in
every attempt but the first. `attempt` is the scripted attempt, 1 by default. The
node is `stand-in-<namespace>`.
"""

import asyncio
import json
import os
import sys
import time
from base64 import b64decode
from collections.abc import Sequence
from typing import Any

from kubelet import Kubelet, is_coordinator
from progress_server import serve_progress

from scalerl_operator.kube.client import CHILDREN, Json, KubeClient, load_connection

STOPPED = json.dumps(
    {"reason": "Stopped", "step": 7, "checkpoint": {"step": 7, "time": 1.7e9, "path": "/run/checkpoints"}}
)
TURN_SECONDS = 0.2
NETWORK = 70 + os.getpid() % 180  # its own: the coordinators of two clones' tests all listen on one port


def address(index: int) -> str:
    """Return the address of pod number `index`."""
    return f"127.{NETWORK}.{1 + index // 249}.{1 + index % 249}"


class ScriptedKubelet(Kubelet):
    """Run the script of every pod of the namespace."""

    def __init__(self, kube: KubeClient, namespace: str, turn_seconds: float = TURN_SECONDS):
        super().__init__(kube, namespace, [f"stand-in-{namespace}"], address, turn_seconds)
        self.servers: dict[str, asyncio.Server] = {}
        """uid of a coordinator's pod -> its server."""
        self.behaviour: dict[str, Any] = {}

    async def look(self, pods: Sequence[Json]) -> None:
        """Read the coordinators' scripts."""
        del pods
        found, _ = await self.kube.list(CHILDREN["ConfigMap"], self.namespace)
        self.behaviour = {
            each["metadata"]["name"].removeprefix("behave-"): json.loads(each["data"]["coordinator"])
            for each in found
            if each["metadata"]["name"].startswith("behave-")
        }

    async def play(self, pod: Json) -> None:
        """Move the pod to its next state."""
        metadata, phase = pod["metadata"], pod.get("status", {}).get("phase")
        behaviour = self._behaviour_of(pod)
        if "deletionTimestamp" in metadata:
            await self.end(pod, 0, STOPPED if is_coordinator(pod) else "")
            await self.remove(pod)
        elif not pod["spec"].get("nodeName"):
            await (self.bind(pod) if self._has_room(pod) else self.report_no_room(pod))
        elif phase == "Pending" and "waiting" in behaviour:
            await self.report(pod, {"phase": "Pending"}, {"waiting": behaviour["waiting"]})
        elif phase == "Pending":
            await self.start(pod)
        elif phase == "Running" and "exit" in behaviour:
            words = json.dumps(behaviour.get("words", {}))
            await self.end(pod, behaviour["exit"], words, lost=behaviour.get("lost", False))

    def _has_room(self, pod: Json) -> bool:
        labels = pod["metadata"]["labels"]
        room = self.behaviour.get(labels["scalerl.io/run"], {}).get("room")
        if room is None or int(labels.get("scalerl.io/attempt", 1)) == 1:
            return True
        return int(labels["scalerl.io/index"]) < int(room)

    def _behaviour_of(self, pod: Json) -> Json:
        """Return the script of this pod; empty for members and for other attempts."""
        labels = pod["metadata"]["labels"]
        found: Json = self.behaviour.get(labels["scalerl.io/run"], {}) if is_coordinator(pod) else {}
        return found if found.get("attempt", 1) == int(labels.get("scalerl.io/attempt", 1)) else {}

    async def start(self, pod: Json) -> None:
        """Let the pod run; a coordinator answers from then on."""
        uid = pod["metadata"]["uid"]
        if is_coordinator(pod) and uid not in self.servers:
            self.servers[uid] = await self.serve(pod)
        await self.report_running(pod)

    async def end(self, pod: Json, code: int, message: str, *, lost: bool = False) -> None:
        """End the pod's container and its server."""
        server = self.servers.pop(pod["metadata"]["uid"], None)
        if server is not None:
            server.close()
        await self.report_end(pod, code, message, lost=lost)

    async def read_token(self, run: str) -> str:
        """Return the run's token."""
        secret = await self.kube.get(CHILDREN["Secret"], self.namespace, f"{run}-token")
        return b64decode(secret["data"]["token"]).decode()

    async def serve(self, pod: Json) -> asyncio.Server:
        """Serve progress at the pod's address."""
        labels = pod["metadata"]["labels"]
        run, attempt = labels["scalerl.io/run"], int(labels["scalerl.io/attempt"])
        token = await self.read_token(run)
        return await serve_progress(
            [self.address(pod)], lambda _, since: self._progress(run, attempt, since), token=token
        )

    def _progress(self, run: str, attempt: int, since: int) -> Json:
        script = self.behaviour.get(run, {})
        own = script if script.get("attempt", 1) == attempt else {}
        step = script.get("step", 1)
        return {
            "run": run,
            "attempt": attempt,
            "phase": script.get("phase", "training"),
            "step": step,
            "version": step,
            "computeGpuHours": 0.01 * step,
            "gpuSeconds": {"trainer": 12.0},
            "generatorsReady": 3,
            "vitals": own.get("vitals", []),
            "stillSeconds": own.get("still", 0.0),
            "evals": [each for each in script.get("evals", []) if each["index"] >= since],
            "checkpoint": {"step": step, "time": time.time(), "path": "/run/checkpoints"} if step > 1 else None,
            "time": time.time(),
        }


async def main(namespace: str) -> None:
    """Serve until killed."""
    kubelet = ScriptedKubelet(KubeClient(load_connection(os.environ)), namespace)
    await kubelet.register()
    await kubelet.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
