"""What a cluster could leave on a machine, as lines of text to compare before and after. I/O."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from node import CGROUPS

# Where a node's programs write, if they are not kept from it.
FOLDERS = ["/run/netns", "/run/containerd", "/run/runc", "/var/lib/cni", "/var/lib/kubelet", "/var/lib/containerd"]
FOLDERS += ["/var/log/pods", "/var/log/containers", "/etc/cni/net.d"]


def list_traces(state: Path) -> set[str]:
    """Return processes of `state`, and this machine's mounts, interfaces, routes, iptables rules, cgroups, files."""
    traces = {f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines()}
    traces |= {f"interface {path.name}" for path in Path("/sys/class/net").iterdir()}
    traces |= {f"cgroup {path}" for path in CGROUPS.glob("**/scalerl-*")}
    traces |= {f"file {path}" for folder in FOLDERS for path in Path(folder).glob("*")}
    traces |= {f"file {path}" for path in (state, *map(Path, FOLDERS)) if path.exists()}
    traces |= {f"process {line}" for line in _processes(state)}
    for command in (["ip", "route"], ["iptables-save"], ["ip6tables-save"]):
        if os.geteuid() == 0 and shutil.which(command[0]):
            lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
            traces |= {f"{command[0]} {line}" for line in lines if not line.startswith(("#", ":"))}
    return traces


def _processes(state: Path) -> Iterator[str]:
    """Processes that name the state folder, or that are in a network which is not ours (a node's pods)."""
    own_network = os.readlink("/proc/self/ns/net")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            foreign = os.readlink(folder / "ns/net") != own_network
            working = os.readlink(folder / "cwd").startswith(str(state))
        except OSError:  # it ended meanwhile, or is another user's
            continue
        if foreign or working:
            yield f"{folder.name} {command}"
