"""A kubelet that runs the coordinators of runs for real, as processes of this machine; all other pods run nothing.

`python tests/support/process_kubelet.py NAMESPACE FOLDER` serves one namespace of KUBECONFIG's cluster until it is
killed. A run's records lie in FOLDER/<run>-<uid>; FOLDER/targets.json lists the coordinators for Prometheus, with the
labels that the chart's PodMonitor gives them. A coordinator's pod has an address that forwards to its process.

On this machine one process holds the whole Ray cluster of a run, so members and generators need none. I/O.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from kubelet import is_coordinator
from scripted_kubelet import ScriptedKubelet

from scalerl_api.wire import PORT_HTTP
from scalerl_operator.kube.client import CHILDREN, Json, KubeClient, load_connection
from scalerl_operator.local.coordinator_process import COORDINATOR_COMMAND, CoordinatorProcess
from scalerl_operator.local.durable_files import save_text
from scalerl_operator.local.run_folder import RunFolder, load_termination

TURN_SECONDS = 0.5
GRACE_SECONDS = 120.0
FORWARD_SECONDS = 10.0


class ProcessKubelet(ScriptedKubelet):
    """Set the status of every pod of the namespace, and run coordinators."""

    def __init__(self, kube: KubeClient, namespace: str, folder: Path):
        super().__init__(kube, namespace, TURN_SECONDS)
        self.folder = folder
        self.processes: dict[str, CoordinatorProcess] = {}
        self.ending: set[str] = set()
        self.targets: dict[str, dict[str, str]] = {}
        self.runners: dict[str, web.AppRunner] = {}
        self._save_targets()

    async def play(self, pod: Json) -> None:
        """End the pods whose process has ended."""
        uid = pod["metadata"]["uid"]
        process = self.processes.get(uid)
        if process is None:
            await super().play(pod)
            return
        code = process.poll()
        if code is not None:
            await self._take_end(pod, process, code)
        elif "deletionTimestamp" in pod["metadata"] and uid not in self.ending:
            self.ending.add(uid)
            process.terminate()

    async def _take_end(self, pod: Json, process: CoordinatorProcess, code: int) -> None:
        uid, termination = pod["metadata"]["uid"], load_termination(process.folder)
        message = termination.model_dump_json(by_alias=True) if termination is not None else ""
        await self.end(pod, code, message)
        del self.processes[uid]
        self.targets.pop(uid, None)
        self._save_targets()
        if uid in self.runners:
            await self.runners.pop(uid).cleanup()
        if "deletionTimestamp" in pod["metadata"]:
            await self.remove(pod)

    async def start(self, pod: Json) -> None:
        """Start the coordinator's process, then let the pod run."""
        uid = pod["metadata"]["uid"]
        if is_coordinator(pod) and uid not in self.processes:
            await self._start_process(pod)
            await self._forward(pod)
        await self.report_running(pod)

    async def _start_process(self, pod: Json) -> None:
        labels, uid = pod["metadata"]["labels"], pod["metadata"]["uid"]
        run, run_uid = labels["scalerl.io/run"], labels["scalerl.io/run-uid"]
        folder = RunFolder(self.folder / f"{run}-{run_uid[:8]}")
        folder.path.mkdir(parents=True, exist_ok=True)
        spec = await self.kube.get(CHILDREN["ConfigMap"], self.namespace, f"{run}-spec")
        save_text(folder.spec, spec["data"]["run.yaml"])
        attempt = int(labels["scalerl.io/attempt"])
        self.processes[uid] = CoordinatorProcess(folder, attempt, COORDINATOR_COMMAND, grace_seconds=GRACE_SECONDS)
        self.targets[uid] = {
            "__address__": f"{self.address(pod)}:{PORT_HTTP}",
            "namespace": self.namespace,
            "pod": pod["metadata"]["name"],
            "run": run,
            "run_uid": run_uid,
            "attempt": str(attempt),
        }
        self._save_targets()

    async def _forward(self, pod: Json) -> None:
        """Forward requests at the pod's address to the process, with its own token in place of the run's."""
        process = self.processes[pod["metadata"]["uid"]]
        token = await self.read_token(pod["metadata"]["labels"]["scalerl.io/run"])

        async def answer(request: web.Request) -> web.Response:
            if request.path.startswith("/v1") and request.headers.get("Authorization") != f"Bearer {token}":
                return web.Response(status=401)
            address = process.read_address()
            if address is None:
                return web.Response(status=503)
            return await _fetch(f"http://{address}{request.path_qs}", process.token)

        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        runner = self.runners[pod["metadata"]["uid"]] = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, self.address(pod), PORT_HTTP).start()

    def _save_targets(self) -> None:
        found: list[dict[str, Any]] = []
        for target in self.targets.values():
            labels = {name: text for name, text in target.items() if name != "__address__"}
            found.append({"targets": [target["__address__"]], "labels": labels})
        save_text(self.folder / "targets.json", json.dumps(found))

    def close(self) -> None:
        """End every process."""
        for process in self.processes.values():
            process.kill()


async def _fetch(url: str, token: str) -> web.Response:
    limit = aiohttp.ClientTimeout(total=FORWARD_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.get(url, headers={"Authorization": f"Bearer {token}"}) as found,
        ):
            kind = {"Content-Type": found.headers.get("Content-Type", "text/plain")}
            return web.Response(status=found.status, body=await found.read(), headers=kind)
    except (aiohttp.ClientError, TimeoutError, OSError):
        return web.Response(status=502)


async def main(namespace: str, folder: Path) -> None:
    """Serve until SIGTERM."""
    kubelet = ProcessKubelet(KubeClient(load_connection(os.environ)), namespace, folder)
    await kubelet.register()
    serving = asyncio.create_task(kubelet.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        return
    finally:
        kubelet.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]).absolute()))
