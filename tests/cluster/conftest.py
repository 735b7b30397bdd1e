"""An API server for the session (KUBECONFIG's, or one started here) with our objects; a namespace per test."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TESTBED = HERE / "testbed"
STATE = ROOT / ".cluster-tests"  # beside the one of `make cluster-up`
OBJECTS = sorted((ROOT / "crds").glob("*.yaml"))
NOTICE_SECONDS = 120.0  # Kubernetes takes a second or two to notice a new policy or role

Document = dict[str, Any]


@dataclass(frozen=True)
class Cluster:
    """The session's API server."""

    kubeconfig: str
    is_ours: bool
    path: str

    def kubectl(self, *arguments: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl, with `text` as its input."""
        command = ["kubectl", *map(str, arguments)]
        environment = {**os.environ, "KUBECONFIG": self.kubeconfig, "PATH": self.path}
        return subprocess.run(command, env=environment, input=text, capture_output=True, text=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster with our CRD, policy and roles."""
    if given := os.environ.get("KUBECONFIG"):
        if not shutil.which("kubectl"):
            pytest.exit("KUBECONFIG is set, but there is no kubectl on PATH", returncode=1)
        found = Cluster(given, is_ours=False, path=os.environ["PATH"])
        _install(found)
        yield found
    else:
        with _started() as found:
            _install(found)
            yield found


@contextmanager
def _started() -> Iterator[Cluster]:
    lock = os.open(HERE, os.O_RDONLY)  # on the folder: it leaves no file, and ends with this process in any case
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pytest.exit("another session of this clone runs the cluster tests", returncode=1)
    command = [sys.executable, TESTBED, "--state", STATE]
    up = subprocess.run([*command, "up"], capture_output=True, text=True)
    if up.returncode:
        pytest.exit(up.stderr.strip(), returncode=1)
    folder = json.loads((STATE / "programs.json").read_text())
    try:
        path = f"{Path(folder['kubectl']).parent}:{os.environ['PATH']}"
        yield Cluster(str(STATE / "kubeconfig"), is_ours=True, path=path)
    finally:
        subprocess.run([*command, "down"], check=True, capture_output=True)
        os.close(lock)


def _install(cluster: Cluster) -> None:
    files = [part for path in OBJECTS for part in ("-f", path)]
    done = cluster.kubectl("apply", "--server-side", "--force-conflicts", "--field-manager=scalerl-tests", *files)
    assert done.returncode == 0, done.stderr
    established = cluster.kubectl("wait", "--for=condition=Established", "crd/rlruns.scalerl.io", "--timeout=60s")
    assert established.returncode == 0, established.stderr
    view = ("get", "clusterrole", "view", "-o", "jsonpath={.rules[*].apiGroups}")
    _wait("Kubernetes' view role has ours", lambda: "scalerl.io" in cluster.kubectl(*view).stdout)


def _wait(phase: str, is_done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + NOTICE_SECONDS
    while not is_done():
        assert time.monotonic() < deadline, f"not after {NOTICE_SECONDS:g} s: {phase}"
        time.sleep(0.1)


@pytest.fixture(scope="session")
def helm() -> str:
    """Path of Helm; tests that only render need no cluster."""
    found = subprocess.run([sys.executable, TESTBED, "helm"], capture_output=True, text=True)
    if found.returncode:
        pytest.exit(found.stderr.strip(), returncode=1)
    return found.stdout.strip()


@pytest.fixture(scope="session")
def api(cluster: Cluster) -> client.ApiClient:
    """The Python client with an administrator's rights."""
    settings = client.Configuration()
    config.load_kube_config(cluster.kubeconfig, client_configuration=settings)
    return client.ApiClient(settings)


@pytest.fixture
def namespace(api: client.ApiClient) -> Iterator[str]:
    """A namespace for one test."""
    core = client.CoreV1Api(api)
    name = f"test-{uuid.uuid4().hex[:10]}"
    core.create_namespace({"metadata": {"name": name}})
    yield name
    core.delete_namespace(name)  # Kubernetes deletes its contents in the background


@pytest.fixture(scope="session")
def ask(api: client.ApiClient, edit: Callable[[Document], Document]) -> Callable[[Document], str | None]:
    """`ask(document)` sends a create as a dry run and returns the server's refusal; None: accepted."""
    runs = client.CustomObjectsApi(api)

    def refusal(document: Document) -> str | None:
        options = {"dry_run": "All", "field_validation": "Strict"}
        group, version = "scalerl.io", "v1alpha1"
        try:
            runs.create_namespaced_custom_object(group, version, "default", "rlruns", document, **options)
        except ApiException as refusal:
            message: str = json.loads(refusal.body)["message"]
            return message
        return None

    _wait("the policy is enforced", lambda: refusal(edit({"spec.budget.steps": 100})) is not None)
    return refusal


@pytest.fixture(scope="session")
def wait_for() -> Callable[[str, Callable[[], bool]], None]:
    """`wait_for(phase, is_done)` polls; the deadline's message names the phase."""
    return _wait
