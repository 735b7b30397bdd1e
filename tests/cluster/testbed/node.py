"""One real node: containerd, kubelet, kube-proxy, CoreDNS, in namespaces of their own. Needs root. I/O.

The node is a small machine: its own network, mounts and process ids (`unshare`). So two nodes do not meet, and when
its first process is killed the kernel takes the rest with it: pods, mounts, interfaces, iptables rules. Only what the
kernel shares stays and is removed here: the node's cgroups. Host and node are joined by a pair of virtual interfaces,
through which the API server reaches kubelet and pods, and pods reach the API server.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from control_plane import ControlPlane, wait_for_nodes, write_kubeconfig
from image import write_image
from processes import ClusterError, Process, run, start, wait
from programs import Programs

NAME = "node-0"
INTERFACE = "scalerl"  # of the host's end, with the node's number
CGROUPS = Path("/sys/fs/cgroup")
INIT = Path(__file__).with_name("node_init.sh")
PAUSE_SOURCE = Path(__file__).with_name("pause.c")
PAUSE_IMAGE = "localhost/pause:1"
GPUS = 8  # that the node reports
CGROUP_SECONDS = 10.0
DEBIAN_PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "unshare": "util-linux",
    "gcc": "gcc",
}
CNI_PLUGINS = Path("/usr/lib/cni")  # Debian's containernetworking-plugins
HIDDEN = ("/run", "/var/lib", "/var/log")  # the node has its own


@dataclass(frozen=True)
class PodRole:
    """The number that identifies a node on this machine, and the values derived from it."""

    number: int

    @property
    def interface(self) -> str:
        """Name of the host's end of the interface pair."""
        return f"{INTERFACE}{self.number}"

    @property
    def host(self) -> str:
        """The host's address, where pods find the API server."""
        return f"10.213.{self.number}.1"

    @property
    def node(self) -> str:
        """The node's address."""
        return f"10.213.{self.number}.2"

    @property
    def pods(self) -> str:
        """The range of the pods' addresses."""
        return f"10.214.{self.number}.0/24"

    @property
    def cgroup(self) -> str:
        """The cgroup that all pods are in."""
        return f"scalerl-{self.number}"


def check_machine(state: Path) -> None:
    """Raise ClusterError with the list of what a node needs and this machine lacks."""
    if os.geteuid() != 0:
        raise ClusterError("a node needs root; without it there is `make cluster-up` (API server only)")
    missing = [package for program, package in DEBIAN_PACKAGES.items() if not shutil.which(program)]
    if not (CNI_PLUGINS / "bridge").exists():
        missing.append("containernetworking-plugins")
    if missing:
        raise ClusterError(f"a node needs these Debian packages: {' '.join(missing)}")
    if any(state.is_relative_to(folder) for folder in HIDDEN):
        raise ClusterError(f"{state}: the node could not see it; choose a folder outside {', '.join(HIDDEN)}")
    if len(str(state)) > 60:  # a socket's path has at most 107 characters, and kubelet's are deep
        raise ClusterError(f"{state}: too long for sockets; choose one of at most 60 characters")


def take_place(state: Path) -> PodRole:
    """Create the host's half of an unused network and store its number."""
    for number in range(256):
        place = PodRole(number)
        # Creating the interface decides between two clusters that start at once.
        made = subprocess.run(
            ["ip", "link", "add", place.interface, "type", "veth", "peer", "name", f"{place.interface}n"],
            capture_output=True,
        )
        if made.returncode == 0:
            (state / "place").write_text(str(number))
            run("ip", "address", "add", f"{place.host}/30", "dev", place.interface)
            run("ip", "link", "set", place.interface, "up")
            return place
    raise ClusterError(f"network: no free number, {INTERFACE}0 to {INTERFACE}255 exist: {made.stderr.decode()}")


def start_node(control_plane: ControlPlane, place: PodRole) -> None:
    """Start the node and wait until it is Ready."""
    state = control_plane.state
    _write_configuration(control_plane, place)
    namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    node = start(state, "node", [*namespaces, "bash", INIT])
    _connect(state, place, node)
    wait(state, "starting containerd", seconds=60, until=lambda: _try_containerd(state), process=node)
    _load_pause_image(state)
    (state / "node/image-loaded").touch()
    wait_for_nodes(control_plane, [NAME], process=node)
    add_gpus(control_plane, NAME)


def add_gpus(control_plane: ControlPlane, node: str) -> None:
    """Let `node` report GPUs, so that pods which request some are scheduled there."""
    patch = [{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": str(GPUS)}]
    control_plane.kubectl("patch", "node", node, "--subresource=status", "--type=json", "-p", json.dumps(patch))


def load_image(state: Path, archive: Path) -> str:
    """Import an OCI or docker archive into the node and return containerd's output."""
    return run("ctr", "-a", state / "node/containerd.sock", "-n", "k8s.io", "image", "import", archive.absolute())


def remove_node(state: Path) -> None:
    """Remove the node's mounts, network and cgroups, which outlive its processes."""
    if not (state / "place").exists():
        return
    place = PodRole(int((state / "place").read_text()))
    # It is gone already if the node's namespace had the other end.
    subprocess.run(["ip", "link", "delete", place.interface], capture_output=True)
    deadline = time.monotonic() + CGROUP_SECONDS
    while folders := list(_cgroups(place)):
        try:
            for folder in folders:
                for inner in sorted(folder.rglob("*/"), reverse=True):
                    inner.rmdir()
                folder.rmdir()
        except OSError as error:  # busy: the kernel has not yet released the killed processes
            if time.monotonic() > deadline:
                raise ClusterError(f"removing cgroups: {error}, for {CGROUP_SECONDS:g} s") from None
            time.sleep(0.1)


def _cgroups(place: PodRole) -> Iterator[Path]:
    """Return the node's cgroup in every hierarchy: one under cgroup v2, one for each controller under v1."""
    yield from (each for each in (CGROUPS / place.cgroup, *CGROUPS.glob(f"*/{place.cgroup}")) if each.is_dir())


def _make_cgroups(place: PodRole) -> None:
    unified = (CGROUPS / "cgroup.controllers").exists()
    for hierarchy in [CGROUPS] if unified else [each for each in CGROUPS.iterdir() if each.is_dir()]:
        if not hierarchy.is_symlink():  # cpu -> cpu,cpuacct on some systems
            (hierarchy / place.cgroup).mkdir(exist_ok=True)


def _connect(state: Path, place: PodRole, node: Process) -> None:
    def no_child() -> str | None:
        return None if _children(node.pid) else "no first process"

    wait(state, "making namespaces", seconds=10, until=no_child, process=node)
    (init,) = _children(node.pid)
    # Renamed last, so that the init script reads a complete file.
    run("ip", "link", "set", f"{place.interface}n", "netns", init, "name", "eth0")
    run("ip", "route", "replace", place.pods, "via", place.node, "dev", place.interface)


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _try_containerd(state: Path) -> str | None:
    try:
        run("ctr", "-a", state / "node/containerd.sock", "--connect-timeout", "2s", "version")
    except ClusterError as error:
        return str(error)
    return None


def _load_pause_image(state: Path) -> None:
    """The program of the container that holds a pod's network, as an image of one file."""
    program, archive = state / "node/pause", state / "node/pause.tar"
    run("gcc", "-O2", "-static", "-o", program, PAUSE_SOURCE)
    write_image(program, PAUSE_IMAGE, archive)
    load_image(state, archive)


def _write_configuration(control_plane: ControlPlane, place: PodRole) -> None:
    state = control_plane.state
    folder = state / "node"
    for each in ("cni", "containerd", "var-lib", "var-log", "kubelet"):
        (folder / each).mkdir(parents=True)
    _make_cgroups(place)
    port = control_plane.url.rsplit(":", 1)[1]
    write_kubeconfig(folder / "kubeconfig", state, f"https://{place.host}:{port}")
    for name, text in build_configuration(state, place).items():
        (folder / name).write_text(text)
    (folder / "environment").write_text(_environment(control_plane.programs, place))


def _environment(programs: Programs, place: PodRole) -> str:
    values = {f"BIN_{name.upper().replace('-', '_')}": path for name, path in programs.items()}
    lines = {**values, "NODE_NAME": NAME, "NODE_IP": place.node, "HOST_IP": place.host}
    return "".join(f"{key}='{value}'\n" for key, value in lines.items())


def build_configuration(state: Path, place: PodRole) -> dict[str, str]:
    """Return file name -> text for every program of the node."""
    folder = state / "node"
    cni = {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": place.pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {"type": "loopback"},
        ],
    }
    return {
        "cni/10-bridge.conflist": json.dumps(cni),
        "resolv.conf": f"nameserver {place.node}\n",
        "containerd.toml": f"""\
version = 2
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true  # without it runc dies where root lacks CAP_SYS_RESOURCE
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{folder}/cni"
""",
        # The disk is shared: other users' files must not evict a pod, or an image that cannot be pulled again.
        "kubelet.yaml": f"""\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /{place.cgroup}
enforceNodeAllocatable: []
failSwapOn: false
localStorageCapacityIsolation: false
evictionHard: {{memory.available: 100Mi}}
imageGCHighThresholdPercent: 100
containerRuntimeEndpoint: unix://{folder}/containerd.sock
resolvConf: {folder}/resolv.conf
clusterDNS: [{place.node}]
clusterDomain: cluster.local
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: false}}
  x509: {{clientCAFile: {state}/pki/ca.crt}}
authorization: {{mode: AlwaysAllow}}
""",
        "kube-proxy.yaml": f"""\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clientConnection: {{kubeconfig: {folder}/kubeconfig}}
clusterCIDR: {place.pods}
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
hostnameOverride: {NAME}
""",
        "Corefile": f"""\
cluster.local:53 {{
    bind {place.node}
    errors
    kubernetes cluster.local {{
        kubeconfig {folder}/kubeconfig
    }}
    cache 5
}}
""",
    }
