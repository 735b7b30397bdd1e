"""A kubelet that runs the coordinators of runs for real, as processes of this machine; all other pods it only plays.

`python tests/support/process_kubelet.py NAMESPACE FOLDER` serves one namespace of KUBECONFIG's cluster until it is
killed. A run's records lie in FOLDER/<run>-<uid>; FOLDER/targets.json names the coordinators to a Prometheus, with the
labels that the chart's PodMonitor gives them. A coordinator's pod has an address that forwards to its process.

On this machine one process holds the whole Ray cluster of a run, so members and generators need none.
"""

import http.server
import json
import signal
import sys
import threading
import time
from base64 import b64decode
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from kubernetes.client.exceptions import ApiException
from stand_in_kubelet import PORT, Pod, StandIn

from scalerl_operator.local.coordinator_process import COORDINATOR_COMMAND, CoordinatorProcess
from scalerl_operator.local.durable_files import save_text
from scalerl_operator.local.run_folder import RunFolder, load_termination


class Forward(http.server.BaseHTTPRequestHandler):
    """The pod's address."""

    process: CoordinatorProcess
    token: str

    def do_GET(self) -> None:
        place = self.process.read_address()
        if self.path.startswith("/v1") and self.headers.get("Authorization") != f"Bearer {self.token}":
            self.send_error(401)
        elif place is None:
            self.send_error(503)
        else:
            given = {"Authorization": f"Bearer {self.process.token}"}
            self.forward(Request(f"http://{place}{self.path}", headers=given))

    def forward(self, request: Request) -> None:
        try:
            with urlopen(request, timeout=10) as answer:
                body, kind = answer.read(), answer.headers["Content-Type"]
        except HTTPError as error:
            self.send_error(error.code)
        except (URLError, OSError):
            self.send_error(502)
        else:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class ProcessKubelet(StandIn):
    """Plays every pod of the namespace, and runs coordinators."""

    def __init__(self, namespace: str, folder: Path):
        super().__init__(namespace)
        self.folder = folder
        self.processes: dict[str, CoordinatorProcess] = {}
        self.asked: set[str] = set()
        self.targets: dict[str, dict[str, str]] = {}
        self._write_targets()

    def play(self, pod: Pod) -> None:
        """A pod with a process ends when that does."""
        uid = pod["metadata"]["uid"]
        process = self.processes.get(uid)
        if process is None:
            super().play(pod)
            return
        code = process.poll()
        if code is not None:
            self._bury(pod, process, code)
        elif "deletionTimestamp" in pod["metadata"] and uid not in self.asked:
            self.asked.add(uid)
            process.terminate()

    def _bury(self, pod: Pod, process: CoordinatorProcess, code: int) -> None:
        metadata = pod["metadata"]
        words = load_termination(process.folder)
        message = words.model_dump_json(by_alias=True) if words is not None else ""
        del self.processes[metadata["uid"]]
        self.targets.pop(metadata["uid"], None)
        self._write_targets()
        self.end(pod, code, message)
        if "deletionTimestamp" in metadata:
            self.core.delete_namespaced_pod(metadata["name"], self.namespace, grace_period_seconds=0)

    def start(self, pod: Pod, is_coordinator: bool, run: str) -> None:
        """Start the coordinator's process, then say that the pod runs."""
        if is_coordinator:
            labels = pod["metadata"]["labels"]
            uid, run_uid = pod["metadata"]["uid"], labels["scalerl.io/run-uid"]
            folder = RunFolder(self.folder / f"{run}-{run_uid[:8]}")
            folder.path.mkdir(parents=True, exist_ok=True)
            spec = self.core.read_namespaced_config_map(f"{run}-spec", self.namespace).data["run.yaml"]
            save_text(folder.spec, spec)
            attempt = int(labels["scalerl.io/attempt"])
            self.processes[uid] = CoordinatorProcess(folder, attempt, COORDINATOR_COMMAND, grace_seconds=120.0)
            self.targets[uid] = {
                "namespace": self.namespace,
                "pod": pod["metadata"]["name"],
                "run": run,
                "run_uid": run_uid,
                "attempt": str(attempt),
            }
        super().start(pod, is_coordinator, run)

    def serve(self, uid: str, address: str, run: str, attempt: int) -> None:
        """Forward what is asked at the pod's address to the process, with its own token in place of the run's."""
        del attempt
        secret = self.core.read_namespaced_secret(f"{run}-token", self.namespace)
        token = b64decode(secret.data["token"]).decode()
        found = type("OfThisRun", (Forward,), {"process": self.processes[uid], "token": token})
        server = http.server.ThreadingHTTPServer((address, PORT), found)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.coordinators[uid] = server
        self.targets[uid]["__address__"] = f"{address}:{PORT}"
        self._write_targets()

    def _write_targets(self) -> None:
        found: list[dict[str, Any]] = []
        for labels in self.targets.values():
            if address := labels.get("__address__"):
                shown = {name: text for name, text in labels.items() if name != "__address__"}
                found.append({"targets": [address], "labels": shown})
        save_text(self.folder / "targets.json", json.dumps(found))

    def close(self) -> None:
        """Leave nothing alive."""
        for process in self.processes.values():
            process.kill()


def main(namespace: str, folder: Path) -> None:
    kubelet = ProcessKubelet(namespace, folder)
    kubelet.register()
    try:
        while True:
            try:
                kubelet.turn()
            except ApiException as error:
                sys.stderr.write(f"{error}\n")
            time.sleep(0.5)
    finally:
        kubelet.close()


def end(*_: object) -> None:
    sys.exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    main(sys.argv[1], Path(sys.argv[2]).absolute())
