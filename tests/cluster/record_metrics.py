"""Record the samples that a real Prometheus scrapes of a real operator and of its real run.

`python tests/cluster/record_metrics.py OUT` starts an API server, two operators, a kubelet that runs coordinators as
processes of this machine (process_kubelet.py) and a Prometheus that scrapes them all, labelled as the chart labels
them. It applies the quickstart with a policy that ends it, one small run, and some that never start; kills the run's
coordinator once, and the leading operator once. OUT.tar.gz holds the server's data, OUT.json when that was and what to
look at.

About 25 minutes on two quiet cores, nothing else on them. tests/prometheus asks the dashboards' questions of it.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SUPPORT = ROOT / "tests/support"
NAMESPACE, OPERATORS = "research", "scalerl-system"
SCRAPE_SECONDS = 5
START_SECONDS, RUN_SECONDS = 3600.0, 7200.0
AFTER_SECONDS = 60.0  # of quiet at the end, so that its last state is scraped
KILL_STEP = 110
Json = dict[str, Any]

QUICKSTART = yaml.safe_load((ROOT / "examples/quickstart.yaml").read_text())["spec"]
ENOUGH = [
    {"name": "enough", "when": {"passRate": {"above": 0.64}}, "for": 3, "mode": "Enforce"},
    *QUICKSTART["stopPolicies"],
]
SHORT = {
    "warmStart": {**QUICKSTART["warmStart"], "steps": 60, "wrongSteps": 10},
    "data": {**QUICKSTART["data"], "heldOut": {"prompts": 48, "samplesPerPrompt": 2}},
    "budget": {"steps": 16, "evalEverySteps": 4},
    "stopPolicies": [],
}
RUNS: dict[str, Json] = {
    "waits": {**QUICKSTART, "suspend": True},
    "misspelt": {**QUICKSTART, "trainer": {"gpusPerReplica": 0, "template": {"spec": {"hostname": "x"}}}},
    "smoke": {**QUICKSTART, **SHORT},
    "sums": {**QUICKSTART, "stopPolicies": ENOUGH},
}
STAND_IN = {"template": {"spec": {"schedulerName": "stand-in"}}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def document(name: str) -> Json:
    spec = RUNS[name]
    for role in ("trainer", "generator"):
        given = spec.get(role, {})
        inner = {**STAND_IN["template"]["spec"], **given.get("template", {}).get("spec", {})}
        spec = {**spec, role: {**given, "template": {"spec": inner}}}
    head = {"apiVersion": "scalerl.io/v1alpha1", "kind": "RLRun"}
    return {**head, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


class Recording:
    """The processes of the recording; `stack` ends them."""

    def __init__(self, folder: Path, stack: ExitStack):
        self.folder, self.stack = folder, stack
        self.environment = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
        self.operators: dict[str, tuple[subprocess.Popen[bytes], int]] = {}
        self.began = time.time()

    def spawn(self, name: str, *command: str) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        self.stack.callback(self._end, process)
        return process

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        process.terminate()
        try:
            process.wait(150)
        except subprocess.TimeoutExpired:
            process.kill()

    def start_cluster(self) -> None:
        testbed = [sys.executable, str(HERE / "testbed"), "--state", str(self.folder / "cluster")]
        self.stack.callback(subprocess.run, [*testbed, "down"], check=False)
        subprocess.run([*testbed, "up"], check=True, stdout=subprocess.DEVNULL, env=self.environment)
        programs = json.loads((self.folder / "cluster/programs.json").read_text())
        self.environment["KUBECONFIG"] = str(self.folder / "cluster/kubeconfig")
        self.environment["PATH"] = f"{Path(programs['kubectl']).parent}:{os.environ['PATH']}"
        files = [part for path in sorted((ROOT / "crds").glob("*.yaml")) for part in ("-f", str(path))]
        self.kubectl("apply", "--server-side", *files)
        self.kubectl("wait", "--for=condition=Established", "crd/rlruns.scalerl.io", "--timeout=60s")
        for name in (NAMESPACE, OPERATORS):
            self.kubectl("create", "namespace", name)

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        command = ["kubectl", *arguments]
        done = subprocess.run(command, env=self.environment, input=text, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def start_operator(self, name: str) -> None:
        key = self.folder / "key"
        key.write_bytes(b"0123456789abcdef0123456789abcdef")
        port = self.operators[name][1] if name in self.operators else free_port()
        command = [sys.executable, "-m", "scalerl_operator", "operator", "--image", "registry.test/runtime:1"]
        command += ["--token-key-file", str(key), "--namespace", NAMESPACE, "--lease-namespace", OPERATORS]
        command += ["--identity", name, "--http", str(port)]
        self.operators[name] = (self.spawn(name, *command), port)

    def start_prometheus(self) -> None:
        """Return targets with the labels of serviceMonitor and podMonitor."""
        operators = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": OPERATORS, "pod": name}}
            for name, (_, port) in self.operators.items()
        ]
        config = {
            "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "scrape_timeout": f"{SCRAPE_SECONDS}s"},
            "scrape_configs": [
                {"job_name": "scalerl", "honor_labels": True, "static_configs": operators},
                {"job_name": "scalerl-runs", "file_sd_configs": [{"files": [str(self.folder / "runs/targets.json")]}]},
            ],
        }
        (self.folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self.port = free_port()
        self.spawn(
            "prometheus",
            "prometheus",
            f"--config.file={self.folder}/prometheus.yaml",
            f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--web.enable-admin-api",
        )

    def apply(self, name: str) -> None:
        self.kubectl("create", "-f", "-", text=json.dumps(document(name)))

    def progress(self, name: str) -> Json:
        found: Json = json.loads(self.kubectl("get", "rlrun", name, "-n", NAMESPACE, "-o", "json"))
        return dict(found.get("status", {}).get("progress", {}))

    def until(self, what: str, holds: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise SystemExit(f"{what}: not within {seconds:g} s; logs are in {self.folder}")
            time.sleep(2.0)
        say(f"{what}, after {time.time() - self.began:.0f} s")

    def kill_coordinator(self, name: str) -> None:
        """Kill the run's coordinator alone, as a fault of its node would; its environment names the run's folder."""
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            mine = any(each.startswith(f"SCALERL_FOLDER={self.folder}/runs/{name}-".encode()) for each in variables)
            if mine and words[1:4] == [b"-m", b"scalerl_runtime", b"coordinator"]:
                os.kill(int(entry.name), signal.SIGKILL)

    def snapshot(self, out: Path, since: float) -> None:
        request = Request(f"http://127.0.0.1:{self.port}/api/v1/admin/tsdb/snapshot", method="POST")
        with urlopen(request, timeout=60) as answer:
            name = json.load(answer)["data"]["name"]
        out.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(out.with_suffix(".tar.gz"), "w:gz") as archive:
            archive.add(self.folder / "data/snapshots" / name, arcname="data", filter=anonymous)
        description = {
            "from": round(since),
            "to": round(time.time()),
            "recorded": datetime.now(UTC).strftime("%Y-%m-%d"),
            "variables": {"namespace": NAMESPACE, "run": "sums"},
        }
        out.with_suffix(".json").write_text(json.dumps(description, indent=2) + "\n")


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def play(recording: Recording) -> None:
    """Start everything, kill the coordinator, and wait for the run's end."""
    for name in ("waits", "misspelt", "smoke"):
        recording.apply(name)
    recording.until("the small run ends", lambda: recording.progress("smoke").get("phase") == "Finished", START_SECONDS)
    recording.apply("sums")
    reached = "the run reaches the step at which its coordinator is killed"
    recording.until(reached, lambda: recording.progress("sums").get("step", 0) >= KILL_STEP, RUN_SECONDS)
    recording.kill_coordinator("sums")
    recording.until("it goes on", lambda: recording.progress("sums").get("step", 0) >= KILL_STEP + 20, RUN_SECONDS)
    recording.operators["operator-a"][0].send_signal(signal.SIGKILL)
    recording.operators["operator-a"][0].wait()
    time.sleep(30.0)
    recording.start_operator("operator-a")
    over = ("StoppedByPolicy", "Finished")
    recording.until("the run ends", lambda: recording.progress("sums").get("phase") in over, RUN_SECONDS)
    time.sleep(AFTER_SECONDS)


def say(text: str) -> None:
    sys.stderr.write(f"record: {text}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="OUT.tar.gz and OUT.json are written")
    out: Path = parser.parse_args().out.absolute()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the started processes are stopped
    folder = Path(tempfile.mkdtemp(prefix="scalerl-record-"))
    with ExitStack() as stack:
        recording = Recording(folder, stack)
        recording.start_cluster()
        (folder / "runs").mkdir()
        recording.spawn("kubelet", sys.executable, str(SUPPORT / "process_kubelet.py"), NAMESPACE, str(folder / "runs"))
        for name in ("operator-a", "operator-b"):
            recording.start_operator(name)
        recording.start_prometheus()
        say(f"logs and records are in {folder}")
        time.sleep(20.0)
        since = time.time() - 15.0
        play(recording)
        recording.snapshot(out, since)
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
