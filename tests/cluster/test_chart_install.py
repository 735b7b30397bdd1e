"""The chart on a real API server: it accepts the objects, and their account has the operator's rights."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
import yaml
from kubernetes import client

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/scalerl"
CRD = "files/crds/scalerl.io_rlruns.yaml"
SECONDS = 240.0
Json = dict[str, Any]


@dataclass(frozen=True)
class Release:
    """An installed chart."""

    helm: Callable[..., str]
    kubectl: Callable[..., str]
    namespace: str
    served: str

    def key(self) -> str:
        found: str = json.loads(self.kubectl("get", "secret", "rl-scalerl-token-key", "-o", "json"))["data"][
            "token-key"
        ]
        return found

    def deployed(self) -> tuple[int, str]:
        """Return the release's revision, and its chart with the version."""
        (found,) = json.loads(self.helm("list", "-o", "json"))
        return int(found["revision"]), found["chart"]

    def columns(self) -> list[Json]:
        """Return the columns that kubectl prints for runs, from the cluster's CRD."""
        crd: Json = json.loads(self.kubectl("get", "crd", "rlruns.scalerl.io", "-o", "json"))
        return columns_of(crd)

    def run(self, name: str) -> tuple[str, Json]:
        """Return a run's uid and spec."""
        found = json.loads(self.kubectl("get", "rlrun", name, "-n", self.served, "-o", "json"))
        return found["metadata"]["uid"], found["spec"]


def columns_of(crd: Json) -> list[Json]:
    (version,) = crd["spec"]["versions"]
    found: list[Json] = version["additionalPrinterColumns"]
    return found


@pytest.fixture(scope="module")
def release(helm: str, cluster: Any, api: client.ApiClient) -> Iterator[Release]:
    """Install the chart in a namespace that accepts restricted pods only; it serves another namespace."""
    namespace, served = f"chart-{os.getpid()}", f"served-{os.getpid()}"
    core = client.CoreV1Api(api)
    for name in (namespace, served):
        core.create_namespace(
            {"metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
        )

    def run_helm(*arguments: str) -> str:
        environment = {**os.environ, "KUBECONFIG": cluster.kubeconfig}
        done = subprocess.run(
            [helm, *arguments, "--namespace", namespace], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def kubectl(*arguments: str, text: str | None = None) -> str:
        done = cluster.kubectl("--namespace", namespace, *arguments, text=text)
        assert done.returncode == 0, done.stderr
        found: str = done.stdout
        return found

    found = Release(run_helm, kubectl, namespace, served)
    # The session's CRD exists already, as on a cluster where an administrator installed it.
    found.helm(
        "install", "rl", str(CHART), "--take-ownership", "--force-conflicts", "--set", f"watch.namespaces={{{served}}}"
    )
    try:
        yield found
    finally:
        for name in (namespace, served):
            core.delete_namespace(name)


def test_pods_meet_the_restricted_standard(release: Release) -> None:
    deployment = json.loads(release.kubectl("get", "deployment", "rl-scalerl", "-o", "json"))
    template = deployment["spec"]["template"]
    template["metadata"]["name"] = "like-the-deployments"
    hooks = [each for each in yaml.safe_load_all(release.helm("get", "hooks", "rl")) if each]
    pods = [{"apiVersion": "v1", "kind": "Pod", **template}, *hooks]
    assert len(pods) == 2
    for pod in pods:
        release.kubectl("create", "--dry-run=server", "-f", "-", text=json.dumps(pod))


def copy_older_chart(folder: Path) -> Path:
    """An older chart: a lower version, and a CRD that does not print the verdict."""
    shutil.copytree(CHART, folder)
    for name, pattern, older in (
        ("Chart.yaml", r"^version: [0-9.]+", "version: 0.0.1"),
        (CRD, r"^    - name: Verdict\n(?:      .*\n)+", ""),
    ):
        text, count = re.subn(pattern, older, (folder / name).read_text(), flags=re.MULTILINE)
        assert count == 1, name
        (folder / name).write_text(text)
    return folder


def test_key_crd_and_runs_outlive_upgrade_and_uninstall(
    release: Release, tmp_path: Path, edit: Callable[[Json], Json]
) -> None:
    key, watched = release.key(), ("--force-conflicts", "--set", f"watch.namespaces={{{release.served}}}")
    release.helm("uninstall", "rl")
    release.helm("install", "rl", str(copy_older_chart(tmp_path / "scalerl")), *watched)
    assert release.deployed() == (1, "scalerl-0.0.1")
    columns = columns_of(yaml.safe_load((CHART / CRD).read_text()))
    assert release.columns() == [each for each in columns if each["name"] != "Verdict"]
    release.kubectl("create", "-n", release.served, "-f", "-", text=json.dumps(edit({"metadata.name": "kept"})))
    run = release.run("kept")

    release.helm("upgrade", "rl", str(CHART), "--reuse-values", "--force-conflicts", "--set", "pollSeconds=5")
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    assert release.deployed() == (2, f"scalerl-{version}")
    assert (release.columns(), release.run("kept"), release.key()) == (columns, run, key)

    release.helm("uninstall", "rl")
    assert (release.columns(), release.run("kept"), release.key()) == (columns, run, key)
    release.kubectl("get", "validatingadmissionpolicybinding", "rlruns.scalerl.io")
    release.helm("install", "rl", str(CHART), *watched)
    assert (release.run("kept"), release.key()) == (run, key)
    release.kubectl("delete", "rlrun", "kept", "-n", release.served)


def test_account_is_enough_for_the_operator_and_for_the_charts_test(
    release: Release, cluster: Any, tmp_path: Path, edit: Callable[[Json], Json]
) -> None:
    """Run the operator with the chart's account and the Deployment's arguments, then the program of `helm test`."""
    kubeconfig = tmp_path / "kubeconfig"
    settings = yaml.safe_load(Path(cluster.kubeconfig).read_text())
    token = release.kubectl("create", "token", "rl-scalerl").strip()
    settings["users"] = [{"name": user["name"], "user": {"token": token}} for user in settings["users"]]
    kubeconfig.write_text(yaml.safe_dump(settings))
    kubeconfig.chmod(0o600)
    key = tmp_path / "key"
    key.write_text("0123456789abcdef0123456789abcdef")
    deployment = json.loads(release.kubectl("get", "deployment", "rl-scalerl", "-o", "json"))
    given = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    arguments = [each for each in given if not each.startswith(("--token-key-file", "--http"))]
    command = [sys.executable, "-m", "scalerl_operator", "operator", *arguments]
    command += ["--token-key-file", str(key), "--http", "0"]
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    log = tmp_path / "log"
    with log.open("wb") as out, _kept_running(command, environment, out) as keep:
        release.kubectl("create", "-n", release.served, "-f", "-", text=json.dumps(edit({"metadata.name": "tried"})))
        deadline = time.monotonic() + SECONDS
        while not _made(release):
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            keep()
            time.sleep(0.5)
        hook = yaml.safe_load(release.helm("get", "hooks", "rl"))
        program = [sys.executable, "-c", *hook["spec"]["containers"][0]["args"]]
        tried = subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while tried.poll() is None:
            keep()
            time.sleep(0.5)
        output = tried.communicate()[0]
        assert tried.returncode == 0, output
        assert "leads" in output
    text = log.read_text()
    assert " 403 " not in text, text[-3000:]


@contextmanager
def _kept_running(command: list[str], environment: dict[str, str], out: IO[bytes]) -> Iterator[Callable[[], None]]:
    """Run the operator and restart it as a kubelet does: it exits when it loses the lease."""
    processes = [subprocess.Popen(command, env=environment, stdout=out, stderr=out)]

    def keep() -> None:
        if processes[-1].poll() is not None:
            processes.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))

    try:
        yield keep
    finally:
        processes[-1].terminate()
        processes[-1].wait(60)


def _made(release: Release) -> bool:
    """Whether a pod of the run, its events and its shared objects exist."""
    kinds = "pod,service,configmap,secret,persistentvolumeclaim,poddisruptionbudget,networkpolicy"
    found = json.loads(release.kubectl("get", kinds, "-n", release.served, "-l", "scalerl.io/run=tried", "-o", "json"))
    about = "involvedObject.kind=RLRun,involvedObject.name=tried"
    events = release.kubectl("get", "events", "-n", release.served, "--field-selector", about, "-o", "name")
    run = json.loads(release.kubectl("get", "rlrun", "tried", "-n", release.served, "-o", "json"))
    kinds_found = {each["kind"] for each in found["items"]}
    return len(kinds_found) >= 6 and {"Pod", "NetworkPolicy"} <= kinds_found and bool(events) and "status" in run
