"""A cluster to measure the operator on: the tests' API server, kwok's fake nodes, operators as processes. I/O."""

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import urlopen

import psutil
from addresses import owned_addresses
from prometheus_client.parser import text_string_to_metric_families

from scalerl_api.rlrun import API_VERSION, KIND
from scalerl_operator.kube.client import Connection, Json, load_connection

ROOT = Path(__file__).parents[2]
TESTBED = ROOT / "tests/cluster/testbed"
LATE_DELETIONS = ROOT / "bench/cluster/late_deletions.yaml"
TOKEN_KEY = b"0123456789abcdef0123456789abcdef"
NAMESPACE = "scale"
NODES, PODS_PER_NODE = 40, 500
TRAINERS, GENERATORS = 2, 8  # pods of one run
WAIT_SECONDS = 600.0
ANSWER_SECONDS = 30.0


@dataclass(frozen=True)
class Testbed:
    """A running control plane."""

    state: Path
    kubeconfig: Path

    def programs(self) -> dict[str, psutil.Process]:
        """Return its processes by name."""
        lines = (self.state / "processes").read_text().splitlines()
        return {line.split()[0]: psutil.Process(int(line.split()[1])) for line in lines}

    def connection(self) -> Connection:
        """Return the connection to its API server."""
        return load_connection({"KUBECONFIG": str(self.kubeconfig)})

    def restart(self, program: str) -> None:
        """Kill one of its programs (SIGKILL) and start it anew."""
        command = [sys.executable, str(TESTBED), "--state", str(self.state), "restart", program]
        subprocess.run(command, check=True, env=_without_kubeconfig())


def _without_kubeconfig() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}


@contextmanager
def started_testbed(state: Path, *, nodes: int = NODES, namespaces: Sequence[str] = (NAMESPACE,)) -> Iterator[Testbed]:
    """Start a control plane with our CRD, policy and roles, kwok's nodes, and namespaces with a claim in each."""
    environment = _without_kubeconfig()
    command = [sys.executable, str(TESTBED), "--state", str(state)]
    subprocess.run([*command, "up"], check=True, env=environment, stdout=subprocess.DEVNULL)
    try:
        kubectl = [json.loads((state / "programs.json").read_text())["kubectl"], "--kubeconfig", state / "kubeconfig"]
        for path in (*sorted((ROOT / "crds").glob("*.yaml")), LATE_DELETIONS):
            subprocess.run([*kubectl, "create", "-f", path], check=True, stdout=subprocess.DEVNULL)
        established = ["wait", "--for=condition=Established", "crd/rlruns.scalerl.io", "--timeout=60s"]
        subprocess.run([*kubectl, *established], check=True, stdout=subprocess.DEVNULL)
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": [*_nodes(nodes), *_homes(namespaces)]})
        subprocess.run([*kubectl, "create", "-f", "-"], check=True, input=text, text=True, stdout=subprocess.DEVNULL)
        yield Testbed(state, state / "kubeconfig")
    finally:
        subprocess.run([*command, "down"], check=True, env=environment)


def _nodes(nodes: int) -> Iterator[Json]:
    size = {"cpu": "64", "memory": "512Gi", "pods": str(PODS_PER_NODE), "nvidia.com/gpu": "8"}
    for index in range(nodes):
        head = {"name": f"scale-{index}", "annotations": {"kwok.x-k8s.io/node": "fake"}}
        status = {"capacity": size, "allocatable": size}
        yield {"apiVersion": "v1", "kind": "Node", "metadata": head, "status": status}


def _homes(namespaces: Sequence[str]) -> Iterator[Json]:
    common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    for name in {NAMESPACE, *namespaces}:
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        claim, head = {"namespace": name, "name": "checkpoints"}, {"name": f"{name}-checkpoints"}
        volume = {**common, "capacity": {"storage": "1Ti"}, "hostPath": {"path": "/nowhere"}, "claimRef": claim}
        yield {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": head, "spec": volume}
        wanted = {**common, "resources": {"requests": {"storage": "1Ti"}}, "volumeName": head["name"]}
        yield {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": claim, "spec": wanted}


def build_run(name: str, address: str, *, namespace: str = NAMESPACE) -> Json:
    """Return a run of ten pods; `address` is that of its simulated coordinator."""
    template = {"metadata": {"annotations": {"played.test/ip": address}}}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"source": "Qwen/Qwen3-8B-Base"},
            "data": {"train": {"source": "reasoning_gym:chain_sum", "size": 5000}, "heldOut": {"prompts": 250}},
            "reward": {"verifier": "reasoning_gym"},
            "budget": {"steps": 7400, "evalEverySteps": 100},
            "trainer": {"replicas": TRAINERS, "gpusPerReplica": 0, "template": template},
            "generator": {"minReplicas": GENERATORS, "maxReplicas": GENERATORS, "gpusPerReplica": 0},
            "checkpoint": {"claimName": "checkpoints"},
        },
    }


def free_port() -> int:
    """Return a TCP port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Samples = dict[str, float]
"""Metric with its labels, as Prometheus writes it -> value."""


@dataclass(frozen=True)
class Operator:
    """One replica in a process of its own."""

    identity: str
    process: "subprocess.Popen[bytes]"
    port: int
    log: Path

    def fetch(self, path: str) -> str:
        """Request a page of its HTTP server. Raises OSError."""
        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=ANSWER_SECONDS) as answer:
            text: str = answer.read().decode()
            return text

    def metrics(self) -> Samples:
        """Return its metrics. Raises OSError while it does not answer."""
        found: Samples = {}
        for family in text_string_to_metric_families(self.fetch("/metrics")):
            for sample in family.samples:
                labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}"] = sample.value
        return found

    def is_leading(self) -> bool:
        """Whether its metrics report leadership."""
        try:
            return self.metrics().get("scalerl_operator_leader{}") == 1.0
        except OSError:
            return False

    def answers(self) -> bool:
        """Whether its HTTP server answers."""
        try:
            return bool(self.fetch("/healthz"))
        except OSError:
            return False

    def memory_mib(self, field: str = "VmRSS") -> float:
        """Return the memory of the process; `VmHWM`: its peak."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
        assert found is not None, text
        return int(found.group(1)) / 1024


def start_operator(
    testbed: Testbed, identity: str, folder: Path, *, poll_seconds: float = 10.0, everywhere: bool = False
) -> Operator:
    """Start a replica that serves NAMESPACE, or all namespaces, with its log in `folder`."""
    (folder / "key").write_bytes(TOKEN_KEY)
    port, log = free_port(), folder / f"{identity}.log"
    command = [sys.executable, "-m", "scalerl_operator", "operator", "--image", "registry.test/runtime:1"]
    command += ["--token-key-file", str(folder / "key"), "--lease-namespace", NAMESPACE]
    command += [] if everywhere else ["--namespace", NAMESPACE]
    command += ["--identity", identity, "--http", str(port), "--poll-seconds", str(poll_seconds)]
    with log.open("wb") as out:
        environment = {**os.environ, "KUBECONFIG": str(testbed.kubeconfig)}
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    return Operator(identity, process, port, log)


@dataclass
class Team:
    """Replicas of the operator; each has its own name, also those that are started later."""

    testbed: Testbed
    folder: Path
    poll_seconds: float = 10.0
    members: list[Operator] = field(default_factory=list)
    started: int = 0

    def start(self) -> None:
        """Start one more."""
        self.started += 1
        name = f"replica-{self.started}"
        self.members.append(start_operator(self.testbed, name, self.folder, poll_seconds=self.poll_seconds))


async def until(what: str, holds: Callable[[], bool], seconds: float = WAIT_SECONDS) -> float:
    """Wait; return the seconds. Raises TimeoutError with the name of the condition."""
    began = time.monotonic()
    while not await asyncio.to_thread(holds):
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        await asyncio.sleep(0.1)
    return time.monotonic() - began


def difference(after: Samples, before: Samples) -> Samples:
    """Return the increases of counters."""
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


def writes_by_kind(samples: Samples) -> dict[str, int]:
    """Return writes to the API server by `verb kind`, without those that are none."""
    found = {}
    for name, value in samples.items():
        match = re.fullmatch(r"scalerl_operator_writes_total\{kind=(.*),verb=(.*)\}", name)
        if match and value:
            found[f"{match.group(2)} {match.group(1)}"] = int(value)
    return dict(sorted(found.items()))


def quantile(samples: Mapping[str, float], histogram: str, share: float) -> float | None:
    """Return the histogram's quantile as Prometheus estimates it: linear inside its bucket. None without samples.

    Above the last bound that is the last bound.
    """
    pattern = re.compile(rf"{histogram}_bucket\{{le=(.*)\}}")
    counts = sorted((float(m.group(1)), value) for name, value in samples.items() if (m := pattern.fullmatch(name)))
    if not counts or counts[-1][1] <= 0:
        return None
    rank, lower, below = share * counts[-1][1], 0.0, 0.0
    for bound, count in counts:
        if count >= rank:
            return lower if bound == float("inf") else lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = bound, count
    return lower


def build_parser(about: str | None, document: str) -> argparse.ArgumentParser:
    """Return the options that all measurements have; each adds its own."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/scale", help="of results and logs")
    parser.add_argument("--state", type=Path, default=ROOT / ".cluster-bench", help="of the cluster")
    parser.add_argument("--write", action="store_true", help=f"put the results into {document}")
    parser.add_argument("--only-write", action="store_true", help="measure nothing: write what was found last")
    return parser


def find_results(
    options: argparse.Namespace,
    name: str,
    measure: Callable[[Testbed], Json],
    *,
    nodes: int = NODES,
    namespaces: Sequence[str] = (NAMESPACE,),
) -> Json:
    """Measure on a cluster of its own and keep the results in FOLDER/`name`; with --only-write read them there."""
    path = options.folder / name
    if not options.only_write:
        options.folder.mkdir(parents=True, exist_ok=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the cluster is stopped
        with owned_addresses(), started_testbed(options.state, nodes=nodes, namespaces=namespaces) as testbed:
            path.write_text(json.dumps({**describe_measurement(), **measure(testbed)}, indent=1))
    found: Json = json.loads(path.read_text())
    return found


def report_faults(faults: Sequence[str]) -> int:
    """Print the faults; return the exit status."""
    for fault in faults:
        print(f"FAILED: {fault}", flush=True)
    return 1 if faults else 0


def describe_measurement() -> Json:
    """Return command, time and machine of a measurement."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": describe_machine(),
    }


def describe_machine() -> str:
    """Return processor, cores and memory, as the tables' readers need them."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} cores ({model.group(1) if model else 'unknown'}), {memory:.0f} GiB"


def write_part(document: Path, name: str, text: str) -> None:
    """Replace the text between `<!-- bench: NAME -->` and `<!-- end -->`. Raises ValueError where that is missing."""
    pattern = re.compile(rf"(<!-- bench: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    before = document.read_text(encoding="utf-8")
    if not pattern.search(before):
        raise ValueError(f"{document} has no part {name!r}")
    after = pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", before)
    document.write_text(after, encoding="utf-8")


def build_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
