"""The platform of the end-to-end tests: images, a cluster with a real node, the installed chart. I/O.

With KUBECONFIG set that cluster is used; E2E_OPERATOR_IMAGE and E2E_RUNTIME_IMAGE then say which images it can pull,
and its default StorageClass must give ReadWriteMany volumes. Else everything is made here, as root: images with
buildah, a cluster of one node. The runtime's image has 7 GB, mostly packages that .venv has already. So unless E2E_FULL
is set the runs' pods get an image with the runtime's code alone, and its packages as a volume.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
TESTBED = ROOT / "tests/cluster/testbed"
STATE = ROOT / ".cluster-e2e"
CHART = ROOT / "charts/scalerl"
OPERATOR_NAMESPACE = "scalerl"
USER = 1000  # of the images
PACKAGES = "/opt/packages"  # where the fast way mounts them
WAIT_SECONDS = 900.0
Json = dict[str, Any]


class PlatformError(AssertionError):
    """Something did not come up; says in which phase."""


def say(text: str) -> None:
    sys.stderr.write(f"e2e: {time.strftime('%H:%M:%S')} {text}\n")


def call(*command: str | Path, text: str | None = None, seconds: float = WAIT_SECONDS, **extra: str) -> str:
    """Run `command` and return what it prints. Raises PlatformError with what it said."""
    done = subprocess.run(
        [*map(str, command)], input=text, capture_output=True, text=True, timeout=seconds, env={**os.environ, **extra}
    )
    if done.returncode:
        raise PlatformError(f"{' '.join(map(str, command))[:200]}: {done.stderr.strip()[-2000:]}")
    return done.stdout


@dataclass
class Platform:
    """A cluster with scalerl in it, and a person's tools."""

    kubeconfig: str
    path: str
    operator_image: str
    runtime_image: str
    is_full: bool
    """Whether the runtime's image has all packages."""
    is_ours: bool
    timeline: list[tuple[str, float]] = field(default_factory=list)

    def kubectl(self, *arguments: str | Path, text: str | None = None, namespace: str | None = None) -> str:
        where = ["--namespace", namespace] if namespace else []
        return call("kubectl", *where, *arguments, text=text, KUBECONFIG=self.kubeconfig, PATH=self.path)

    def helm(self, *arguments: str | Path) -> str:
        return call("helm", *arguments, KUBECONFIG=self.kubeconfig, PATH=self.path)

    def scalerl(self, *arguments: str | Path) -> str:
        return call(Path(sys.executable).with_name("scalerl"), *arguments, KUBECONFIG=self.kubeconfig, PATH=self.path)

    def get(self, *arguments: str, namespace: str | None = None) -> Json:
        found: Json = json.loads(self.kubectl("get", *arguments, "-o", "json", namespace=namespace))
        return found

    def restart(self, program: str) -> None:
        """Kill a program of our cluster's control plane (SIGKILL), start it anew and wait until all is ready."""
        call(sys.executable, TESTBED, "--state", STATE, "restart", program)
        wait_for(f"the API server is ready after {program}'s restart", lambda: self.kubectl("get", "--raw", "/readyz"))

    @contextmanager
    def silent_node(self) -> Iterator[None]:
        """Stop our node's kubelet for a while, as on a machine that swaps: its pods go on, and nobody hears of them."""
        (kubelet,) = (each for each in psutil.process_iter(["cmdline"]) if _is_our_kubelet(each.info["cmdline"] or []))
        kubelet.suspend()
        try:
            yield
        finally:
            kubelet.resume()

    def template(self) -> Json:
        """The part of a run's pod template that this machine needs; nothing where the image has everything."""
        runtime: Json = {"name": "runtime", "env": [{"name": "RAY_worker_niceness", "value": "0"}]}
        spec: Json = {"containers": [runtime]}
        if not self.is_full:
            runtime["env"].append({"name": "PYTHONPATH", "value": PACKAGES})
            runtime["volumeMounts"] = [{"name": "packages", "mountPath": PACKAGES, "readOnly": True}]
            claim = {"claimName": "packages", "readOnly": True}
            spec["volumes"] = [{"name": "packages", "persistentVolumeClaim": claim}]
        return {"spec": spec}


def _is_our_kubelet(command: Sequence[str]) -> bool:
    return bool(command) and Path(command[0]).name == "kubelet" and any(str(STATE) in each for each in command)


def wait_for(phase: str, is_done: Callable[[], object], *, seconds: float = WAIT_SECONDS) -> float:
    """Poll until `is_done()`; return how long it took. Raises PlatformError with the phase."""
    began, last = time.monotonic(), ""
    say(f"waiting: {phase}")
    while time.monotonic() - began < seconds:
        try:
            if is_done():
                return time.monotonic() - began
            last = ""
        except PlatformError as error:  # an API server that is away for a moment
            last = f" ({error})"
        time.sleep(1.0)
    raise PlatformError(f"not after {seconds:g} s: {phase}{last}")


@contextmanager
def start_platform() -> Iterator[Platform]:
    """A cluster with the chart installed; gone afterwards, unless E2E_KEEP is set."""
    if given := os.environ.get("KUBECONFIG"):
        yield _use_given(given)
        return
    is_full = bool(os.environ.get("E2E_FULL"))
    targets = ["operator", "runtime" if is_full else "runtime-code"]
    say(f"building images: {', '.join(targets)}")
    call(ROOT / "scripts/images", *targets, seconds=3600.0)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = [f"localhost/scalerl-{target}:{version}" for target in targets]
    testbed = [sys.executable, TESTBED, "--state", STATE]
    say("starting a cluster with a node")
    call(*testbed, "up", "--node", seconds=3600.0)
    try:
        programs = {name: Path(path) for name, path in json.loads((STATE / "programs.json").read_text()).items()}
        helm = Path(call(*testbed, "helm", seconds=3600.0).strip())
        path = f"{programs['kubectl'].parent}:{helm.parent}:{os.environ['PATH']}"
        for image in images:
            _load(testbed, image)
        yield Platform(str(STATE / "kubeconfig"), path, images[0], images[-1], is_full, is_ours=True)
    finally:
        if os.environ.get("E2E_KEEP"):
            say(f"the cluster stays: export KUBECONFIG={STATE}/kubeconfig")
        else:
            call(*testbed, "down")


def _use_given(kubeconfig: str) -> Platform:
    missing = [name for name in ("E2E_OPERATOR_IMAGE", "E2E_RUNTIME_IMAGE") if not os.environ.get(name)]
    missing += [f"the program {name}" for name in ("kubectl", "helm") if not shutil.which(name)]
    if missing:
        raise PlatformError(f"KUBECONFIG is set; also needed: {', '.join(missing)}")
    images = os.environ["E2E_OPERATOR_IMAGE"], os.environ["E2E_RUNTIME_IMAGE"]
    return Platform(kubeconfig, os.environ["PATH"], *images, is_full=True, is_ours=False)


def _load(testbed: Sequence[str | Path], image: str) -> None:
    """From buildah's storage into the node."""
    say(f"loading {image}")
    archive = STATE / "image.tar"
    call("buildah", "push", "--quiet", image, f"docker-archive:{archive}:{image}", seconds=1800.0)
    call(*testbed, "load", archive, seconds=1800.0)
    archive.unlink()


def make_namespace(platform: Platform, name: str) -> None:
    """A namespace that takes restricted pods only; here also with volumes, which a cloud would provide."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    objects: list[Json] = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}]
    if platform.is_ours:
        folder = STATE / "volumes" / name
        folder.mkdir(parents=True)
        os.chown(folder, 0, USER)
        folder.chmod(0o2775)  # what a volume's driver does for fsGroup, and the kubelet does not for a folder
        objects.append(_volume(name, folder, "ReadWriteMany", claim=None))
        if not platform.is_full:
            claim = {"namespace": name, "name": "packages"}
            objects.append(_volume(f"{name}-packages", _shared_packages(), "ReadOnlyMany", claim))
            spec = {"accessModes": ["ReadOnlyMany"], "storageClassName": "", "volumeName": f"{name}-packages"}
            spec["resources"] = {"requests": {"storage": "1Gi"}}
            objects.append({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": claim, "spec": spec})
    platform.kubectl("apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def _volume(name: str, folder: Path, mode: str, claim: Json | None) -> Json:
    spec: Json = {
        "capacity": {"storage": "100Gi"},
        "accessModes": [mode],
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": str(folder), "type": "Directory"},
    }
    if claim is not None:
        spec["claimRef"] = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **claim}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}


def _shared_packages() -> Path:
    """The folder with torch and the rest, which .venv points to."""
    (pointer,) = (ROOT / ".venv").glob("lib/python*/site-packages/scalerl_shared_packages.pth")
    return Path(pointer.read_text().strip())


def install(platform: Platform) -> None:
    """`helm install`, as the README says, with the images of this machine."""
    make_namespace(platform, OPERATOR_NAMESPACE)
    values = []
    for key, image in (("image", platform.operator_image), ("runtimeImage", platform.runtime_image)):
        repository, tag = image.rsplit(":", 1)
        values += ["--set", f"{key}.repository={repository}", "--set", f"{key}.tag={tag}"]
    platform.helm("install", "scalerl", CHART, "-n", OPERATOR_NAMESPACE, *values, "--wait", "--timeout", "5m")


def describe(platform: Platform, namespaces: Sequence[str]) -> str:
    """The output that a person would read when something is wrong."""
    parts = []
    for namespace in namespaces:
        for arguments in (
            ("get", "rlruns,pods,pvc", "-o", "wide"),
            ("get", "events", "--sort-by=.lastTimestamp"),
            ("get", "rlruns", "-o", "yaml"),
        ):
            parts.append(_try(platform, namespace, *arguments))
        names = _try(platform, namespace, "get", "pods", "-o", "name").split()
        for name in names:
            parts.append(f"--- {namespace} {name}")
            parts.append(_try(platform, namespace, "logs", name, "--all-containers", "--tail=60"))
    return "\n".join(parts)


def _try(platform: Platform, namespace: str, *arguments: str) -> str:
    try:
        return platform.kubectl(*arguments, namespace=namespace)
    except (PlatformError, subprocess.TimeoutExpired) as error:
        return str(error)
