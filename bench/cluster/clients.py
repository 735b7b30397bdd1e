"""Our Kubernetes client beside libraries: `python bench/cluster/clients.py --client NAME=PYTHON ...`. I/O.

A real API server and the calls that the operator makes, each client in a process of its own. A round is a pair: a
library and ours, in alternating order, because the machine's other load changes from minute to minute. The ratios
within pairs count. No node runs the pods and no scheduler takes them, so that the cost is the calls'.
PYTHON is an interpreter that has the library and this project, for example

    uv venv --python .venv/bin/python /tmp/lightkube
    uv pip install --python /tmp/lightkube/bin/python -c VERSIONS lightkube      # VERSIONS: requirements/cpu.txt's
    echo "import site; site.addsitedir('$PWD/.venv/lib/python3.11/site-packages')" \
        > /tmp/lightkube/lib/python3.11/site-packages/scalerl.pth
"""

import argparse
import asyncio
import json
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from client_libraries import run_all
from cluster_lab import (
    GENERATORS,
    ROOT,
    TRAINERS,
    WAIT_SECONDS,
    Testbed,
    build_run,
    build_table,
    describe_measurement,
    started_testbed,
)

from scalerl_api import parse_run
from scalerl_operator.kube.client import PODS, RUNS, Json, KubeClient, KubeError, Resource
from scalerl_operator.resources.names import PodRole
from scalerl_operator.resources.owner import Owner, PodOptions
from scalerl_operator.resources.pod import build_pod
from scalerl_operator.resources.shared import build_common

PLAYER = Path(__file__).with_name("client_player.py")
PLACES = [PodRole("trainer", index) for index in range(TRAINERS)]
PLACES += [PodRole("generator", index) for index in range(GENERATORS)]
PLAYED_IN, LISTED_IN = "played", "listed"
BINDINGS = Resource("/apis/admissionregistration.k8s.io/v1", "validatingadmissionpolicybindings")
PARALLEL = 32  # as the operator's client
ROUND_SECONDS = 180.0
Found = dict[str, Any]
"""Measurements of one process."""


def build_pods(run: Json) -> Iterator[Json]:
    """Return the ten pods of a stored run as the operator makes them, with a scheduler name that nobody serves."""
    bare = {key: run[key] for key in ("apiVersion", "kind", "spec")}
    name, namespace, uid = (run["metadata"][key] for key in ("name", "namespace", "uid"))
    parsed = parse_run({**bare, "metadata": {"name": name, "namespace": namespace}})
    owner = Owner(parsed, uid, document=json.dumps(bare), token="0" * 64)
    options = PodOptions("registry.test/runtime:1", exit_seconds=30.0)
    for place in PLACES:
        pod = build_pod(owner, place, 1, options)
        yield {**pod, "spec": {**pod["spec"], "schedulerName": "nobody"}}
    yield next(each for each in build_common(owner, options) if each["kind"] == "ConfigMap")


def build_status(run: Json, step: int) -> Json:
    """Return the status of a run that trains, as the body of an apply."""
    since = "2026-05-04T12:00:00Z"
    kinds = ("Ready", "Progressing", "ForecastReady", "StopRecommended", "Complete", "Failed", "Healthy")
    head = {"status": "True", "reason": "Training", "message": "", "lastTransitionTime": since, "observedGeneration": 1}
    progress = {"phase": "Training", "step": step, "version": step, "passRate": 0.4, "computeGpuHours": step / 100}
    status = {
        "observedGeneration": 1,
        "conditions": [{"type": kind, **head} for kind in kinds],
        "roles": [
            {"name": "trainer", "desired": TRAINERS, "ready": TRAINERS, "restarts": 0},
            {"name": "generator", "desired": GENERATORS, "ready": GENERATORS, "restarts": 0},
        ],
        "attempt": 1,
        "progress": progress,
        "attempts": [{"number": 1, "replicas": TRAINERS, "created": since, "started": since, "seen": True}],
    }
    metadata = {key: run["metadata"][key] for key in ("name", "namespace", "uid")}
    return {"apiVersion": run["apiVersion"], "kind": run["kind"], "metadata": metadata, "status": status}


async def store_runs(testbed: Testbed, runs: int, listed: int) -> list[Json]:
    """Create the runs whose objects the clients make, and the pods that they list; return the runs."""
    kube = KubeClient(testbed.connection(), parallel=PARALLEL)
    try:
        # The policy is for fake kubelets; it refuses every delete without a uid, and one library cannot name one.
        await kube.delete(BINDINGS, "", "late-deletions", {})
        for namespace in (PLAYED_IN, LISTED_IN):
            await _wait_for_account(kube, namespace)
        stored = [await kube.create(RUNS, build_run(f"r{n}", "", namespace=PLAYED_IN)) for n in range(runs)]
        of_lists = [await kube.create(RUNS, build_run(f"l{n}", "", namespace=LISTED_IN)) for n in range(listed // 10)]
        pods = [pod for run in of_lists for pod in build_pods(run) if pod["kind"] == "Pod"]
        await run_all(PARALLEL, [partial(kube.create, PODS, pod) for pod in pods])
        return stored
    finally:
        await kube.close()


async def _wait_for_account(kube: KubeClient, namespace: str) -> None:
    """Wait for the namespace's service account: without it the API server refuses pods."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                await kube.get(Resource("/api/v1", "serviceaccounts"), namespace, "default")
                return
            except KubeError:
                await asyncio.sleep(0.2)


def build_work(testbed: Testbed, runs: Sequence[Json], options: argparse.Namespace, turn: int) -> Json:
    """Return one process's calls; turns differ, so that every status and object changes something on the server."""
    objects = [each for run in runs for each in build_pods(run)]
    configs = [each for each in objects if each["kind"] == "ConfigMap"]
    for config in configs:
        config["data"]["turn"] = str(turn)
    head = {"name": f"lease-{turn}", "namespace": PLAYED_IN}
    spec = {"holderIdentity": "me", "leaseDurationSeconds": 15}
    return {
        "kubeconfig": str(testbed.kubeconfig),
        "parallel": options.parallel,
        "pods": [each for each in objects if each["kind"] == "Pod"],
        "statuses": [build_status(run, 1 + turn * 10 + n) for n in range(4) for run in runs],
        "objects": configs,
        "lease": {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": head, "spec": spec},
        "renewals": 100,
        "listed_in": LISTED_IN,
        "listed": options.listed // 10 * 10,
    }


def play(python: str, client: str, work: Json, folder: Path) -> Found:
    """Run one client's work in a process of its own."""
    path = folder / "client-work.json"
    path.write_text(json.dumps(work))
    command = [python, str(PLAYER), client, str(path)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=ROUND_SECONDS)
    result: Found = json.loads(found.stdout)
    return result


def measure(options: argparse.Namespace, testbed: Testbed) -> Found:
    """Run all pairs; return the pairs by library, the library's result first."""
    runs, turn = asyncio.run(store_runs(testbed, options.runs, options.listed)), 0
    play(sys.executable, "ours", build_work(testbed, runs, options, turn), options.folder)  # the server's first calls
    pairs: dict[str, list[dict[str, Found]]] = {}
    for number in range(options.rounds):
        for name, python in options.client:
            order = ["ours", name] if number % 2 else [name, "ours"]
            pair = {}
            for client in order:
                turn += 1
                interpreter = sys.executable if client == "ours" else python
                pair[client] = play(interpreter, client, build_work(testbed, runs, options, turn), options.folder)
            pairs.setdefault(name, []).append(pair)
            print(f"round {number + 1}, {name}:", _describe(name, pair), flush=True)
    return {**describe_measurement(), "pairs": pairs}


def _describe(name: str, pair: dict[str, Found]) -> str:
    ratios = {part: _rate(pair[name], part) / _rate(pair["ours"], part) for part in pair["ours"]["parts"]}
    return "calls/s, theirs over ours: " + ", ".join(f"{part} {ratio:.2f}" for part, ratio in ratios.items())


def build_tables(found: Found) -> Iterator[str]:
    """Return two tables a library: medians of both and the ratios within pairs with their range; and memory."""
    for name, pairs in found["pairs"].items():
        header = [f"{name}, ours; {len(pairs)} pairs", "calls/s", "ratio (range)", "CPU ms a call", "ratio (range)"]
        parts = pairs[0]["ours"]["parts"]
        yield build_table(header, [[part, *_cells(pairs, name, part)] for part in parts])
        steps = list(pairs[0]["ours"]["memory"])
        rows = [[who, *(f"{_median(p[who]['memory'][step] for p in pairs):.1f}" for step in steps)] for who in pairs[0]]
        yield build_table(["memory, MiB", *steps], rows)


def _cells(pairs: Sequence[dict[str, Found]], name: str, part: str) -> Iterator[str]:
    for measure_one in (_rate, _cost):
        values = [(measure_one(pair[name], part), measure_one(pair["ours"], part)) for pair in pairs]
        ratios = [theirs / ours for theirs, ours in values]
        yield ", ".join(f"{_median(column):.3g}" for column in zip(*values, strict=True))
        yield f"{_median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _rate(found: Found, part: str) -> float:
    return float(found["parts"][part]["calls"] / found["parts"][part]["seconds"])


def _cost(found: Found, part: str) -> float:
    return float(1000.0 * found["parts"][part]["cpu"] / found["parts"][part]["calls"])


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--client", action="append", required=True, type=lambda text: text.split("=", 1))
    parser.add_argument("--rounds", type=int, default=3, help="pairs for each library (default: 3)")
    parser.add_argument("--runs", type=int, default=30, help="of ten pods, that a process creates (default: 30)")
    parser.add_argument("--listed", type=int, default=3000, help="pods to list and to watch (default: 3000)")
    parser.add_argument("--parallel", type=int, default=PARALLEL, help="calls at a time (default: the operator's)")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/scale", help="of results")
    parser.add_argument("--state", type=Path, default=ROOT / ".cluster-bench", help="of the cluster")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the cluster is stopped
    with started_testbed(options.state, nodes=0, namespaces=(PLAYED_IN, LISTED_IN)) as testbed:
        found = measure(options, testbed)
    (options.folder / "clients.json").write_text(json.dumps(found, indent=1))
    print("\n\n".join(build_tables(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
