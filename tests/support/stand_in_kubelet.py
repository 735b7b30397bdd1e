"""A kubelet that runs nothing: gives pods addresses, answers as their coordinators, and ends them as a test says.

`python tests/support/stand_in_kubelet.py NAMESPACE` serves one namespace of KUBECONFIG's cluster until it is killed.
How a run's coordinator behaves is in the ConfigMap `behave-<run>`, a JSON document under `coordinator`: `step`,
`evals`,
`vitals`, `phase` and `still` (seconds without a step) are what it tells; `waiting` is why its container does not start;
`exit` (a code), `words` (its Termination) and `lost` are how it ends; `attempt` whose it is, 1 unless it says so.

Its node is a real object, `stand-in-<namespace>`, with a heartbeat: Kubernetes deletes the pods of nodes that are not.
"""

import http.server
import json
import os
import sys
import threading
import time
from base64 import b64decode
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

PORT = 8480
BEAT_SECONDS = 5.0
NODE_LEASES = "kube-node-lease"
GONE = 404
STOPPED = json.dumps(
    {"reason": "Stopped", "step": 7, "checkpoint": {"step": 7, "time": 1.7e9, "path": "/run/checkpoints"}}
)
Pod = dict[str, Any]


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class StandIn:
    """Plays every pod of the namespace."""

    def __init__(self, namespace: str):
        config.load_kube_config()
        self.core = client.CoreV1Api()
        self.leases = client.CoordinationV1Api()
        self.namespace = namespace
        self.node = f"stand-in-{namespace}"
        self.beaten = 0.0
        self.coordinators: dict[str, http.server.ThreadingHTTPServer] = {}
        network = 70 + os.getpid() % 180  # its own: the coordinators of two clones' tests all listen on one port
        self.addresses = iter(f"127.{network}.{b}.{c}" for b in range(1, 250) for c in range(1, 250))
        self.behaviour: dict[str, Any] = {}

    def register(self) -> None:
        """Make the node; nothing else may be scheduled on it."""
        node = self.core.create_node({"metadata": {"name": self.node}, "spec": {"unschedulable": True}})
        ready = {"type": "Ready", "status": "True", "reason": "StandIn", "lastHeartbeatTime": now()}
        self.core.patch_node_status(self.node, {"status": {"conditions": [ready]}})
        owner = {"apiVersion": "v1", "kind": "Node", "name": self.node, "uid": node.metadata.uid}
        lease = {
            "metadata": {"name": self.node, "namespace": NODE_LEASES, "ownerReferences": [owner]},
            "spec": {"holderIdentity": self.node, "leaseDurationSeconds": 40, "renewTime": self.now_exactly()},
        }
        self.leases.create_namespaced_lease(NODE_LEASES, lease)

    def now_exactly(self) -> str:
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def beat(self) -> None:
        if time.monotonic() - self.beaten > BEAT_SECONDS:
            self.beaten = time.monotonic()
            self.leases.patch_namespaced_lease(self.node, NODE_LEASES, {"spec": {"renewTime": self.now_exactly()}})

    def turn(self) -> None:
        """Look once at every pod."""
        self.beat()
        found = client.ApiClient().sanitize_for_serialization(self.core.list_namespaced_config_map(self.namespace))
        self.behaviour = {
            each["metadata"]["name"].removeprefix("behave-"): json.loads(each["data"]["coordinator"])
            for each in found["items"]
            if each["metadata"]["name"].startswith("behave-")
        }
        pods = client.ApiClient().sanitize_for_serialization(self.core.list_namespaced_pod(self.namespace))
        for pod in pods["items"]:
            try:
                self.play(pod)
            except ApiException as error:
                if error.status not in (GONE, 409):
                    raise

    def play(self, pod: Pod) -> None:
        metadata, status = pod["metadata"], pod.get("status", {})
        uid, run = metadata["uid"], metadata["labels"]["scalerl.io/run"]
        is_coordinator = metadata["labels"]["app.kubernetes.io/component"] == "trainer" and (
            metadata["labels"]["scalerl.io/index"] == "0"
        )
        behaviour = self.behaviour.get(run, {}) if is_coordinator else {}
        if behaviour.get("attempt", 1) != int(metadata["labels"].get("scalerl.io/attempt", 1)):
            behaviour = {}
        if "deletionTimestamp" in metadata:
            self.end(pod, 0, STOPPED if is_coordinator else "")
            self.core.delete_namespaced_pod(metadata["name"], self.namespace, grace_period_seconds=0)
        elif not pod["spec"].get("nodeName"):
            self.bind(pod)
        elif status.get("phase") == "Pending" and "waiting" in behaviour:
            self.report(pod, {"phase": "Pending"}, {"waiting": behaviour["waiting"]})
        elif status.get("phase") == "Pending":
            self.start(pod, is_coordinator, run)
        elif status.get("phase") == "Running" and "exit" in behaviour:
            self.end(pod, behaviour["exit"], json.dumps(behaviour.get("words", {})), lost=behaviour.get("lost", False))
        if uid in self.coordinators and status.get("phase") in ("Succeeded", "Failed"):
            self.coordinators.pop(uid).shutdown()

    def bind(self, pod: Pod) -> None:
        body = client.V1Binding(
            metadata=client.V1ObjectMeta(name=pod["metadata"]["name"]),
            target=client.V1ObjectReference(api_version="v1", kind="Node", name=self.node),
        )
        self.core.create_namespaced_binding(self.namespace, body, _preload_content=False)

    def start(self, pod: Pod, is_coordinator: bool, run: str) -> None:
        address = next(self.addresses)
        if is_coordinator:
            self.serve(pod["metadata"]["uid"], address, run, int(pod["metadata"]["labels"]["scalerl.io/attempt"]))
        self.report(
            pod,
            {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "startTime": now()},
            {"running": {"startedAt": now()}},
        )

    def end(self, pod: Pod, code: int, message: str, *, lost: bool = False) -> None:
        state = {
            "exitCode": code,
            "startedAt": now(),
            "finishedAt": now(),
            "reason": "Error" if code else "Completed",
            "message": message,
        }
        if pod["metadata"]["uid"] in self.coordinators:
            self.coordinators.pop(pod["metadata"]["uid"]).shutdown()
        phase = "Failed" if code else "Succeeded"
        self.report(pod, {"phase": phase}, {"terminated": state}, lost=lost)

    def report(self, pod: Pod, status: Pod, state: Pod, *, lost: bool = False) -> None:
        ready = "running" in state
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        if lost:
            conditions.append({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"})
        container = {"name": "runtime", "ready": ready, "restartCount": 0, "image": "x", "imageID": "x", "state": state}
        body = {"status": {**status, "conditions": conditions, "containerStatuses": [container]}}
        self.core.patch_namespaced_pod_status(pod["metadata"]["name"], self.namespace, body)

    def serve(self, uid: str, address: str, run: str, attempt: int) -> None:
        secret = self.core.read_namespaced_secret(f"{run}-token", self.namespace)
        token = b64decode(secret.data["token"]).decode()
        stand_in = self

        class Coordinator(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.headers.get("Authorization") != f"Bearer {token}":
                    self.send_error(401)
                    return
                since = int(parse_qs(urlsplit(self.path).query).get("since", ["0"])[0])
                body = json.dumps(stand_in.progress(run, attempt, since)).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer((address, PORT), Coordinator)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.coordinators[uid] = server

    def progress(self, run: str, attempt: int, since: int) -> Pod:
        told = self.behaviour.get(run, {})
        mine = told if told.get("attempt", 1) == attempt else {}
        step = told.get("step", 1)
        return {
            "run": run,
            "attempt": attempt,
            "phase": told.get("phase", "training"),
            "step": step,
            "version": step,
            "computeGpuHours": 0.01 * step,
            "gpuSeconds": {"trainer": 12.0},
            "generatorsReady": 3,
            "vitals": mine.get("vitals", []),
            "stillSeconds": mine.get("still", 0.0),
            "evals": [each for each in told.get("evals", []) if each["index"] >= since],
            "checkpoint": {"step": step, "time": time.time(), "path": "/run/checkpoints"} if step > 1 else None,
            "time": time.time(),
        }


if __name__ == "__main__":
    player = StandIn(sys.argv[1])
    player.register()
    while True:
        player.turn()
        time.sleep(0.2)
