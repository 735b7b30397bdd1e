"""The possible leftovers of a cluster on this machine, as lines to compare before and after. I/O.

Others work on the machine meanwhile, so only what bears a mark of ours, or of Kubernetes, is listed.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from node import CGROUPS

# Folders that a node's programs would write to without their namespaces.
FOLDERS = ["/run/containerd", "/run/runc", "/var/lib/cni", "/var/lib/kubelet", "/var/lib/containerd"]
FOLDERS += ["/var/log/pods", "/var/log/containers", "/etc/cni/net.d"]
# Words in mounts, interfaces, routes and rules: our interfaces and networks, CNI's and kube-proxy's.
MARKS = ("scalerl", "10.213.", "10.214.", "cni", "KUBE-", "kubelet", "containerd")
COMMANDS = (["ip", "-oneline", "link"], ["ip", "route"], ["iptables-save"], ["ip6tables-save"])


def list_traces(state: Path, *, with_node: bool) -> set[str]:
    """Return processes, mounts and files of `state`; for a node also what shows no folder.

    That is processes in namespaces of their own, and this machine's interfaces, routes, iptables rules and cgroups.
    Without a node we make none of them: they are another clone's, and may come and go meanwhile.
    """
    mounts = [f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines()]
    traces = {line for line in mounts if f"{state}/" in line}
    traces |= {f"file {state}"} if state.exists() else set()
    traces |= {f"process {line}" for line in _processes(state, with_pods=with_node)}
    return traces | (_nodes_traces(mounts) if with_node else set())


def _nodes_traces(mounts: list[str]) -> set[str]:
    lines = list(mounts)
    for command in COMMANDS:
        if os.geteuid() == 0 and shutil.which(command[0]):
            done = subprocess.run(command, capture_output=True, text=True)
            lines += [f"{command[0]} {line}" for line in done.stdout.splitlines()]
    traces = {line for line in lines if any(mark in line for mark in MARKS)}
    traces |= {f"cgroup {path}" for path in CGROUPS.glob("**/scalerl-*")}
    traces |= {f"file {path}" for folder in FOLDERS for path in Path(folder).glob("*")}
    return traces | {f"file {path}" for path in map(Path, FOLDERS) if path.exists()}


def _processes(state: Path, *, with_pods: bool) -> Iterator[str]:
    """Return the processes of the state folder; with pods also those in another PID namespace."""
    own_numbers = os.readlink("/proc/self/ns/pid")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            is_a_pods = os.readlink(folder / "ns/pid") != own_numbers
            is_ours = f"TMPDIR={state}/".encode() in (folder / "environ").read_bytes()
        except OSError:  # the process ended meanwhile, or belongs to another user
            continue
        if is_ours or (with_pods and is_a_pods):
            yield f"{folder.name} {command}"
