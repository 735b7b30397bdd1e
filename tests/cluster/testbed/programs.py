"""Find the cluster's programs: in SCALERL_CLUSTER_BIN, else on PATH, else compiled here. I/O."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from processes import ClusterError

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kwok")
NODE = ("kubelet", "kube-proxy", "coredns")
FOLDER_VARIABLE = "SCALERL_CLUSTER_BIN"
COMPILE = Path(__file__).parents[1] / "compile"


Programs = Mapping[str, Path]  # name -> path


def find_programs(*, with_node: bool) -> Programs:
    """Return the programs of the level. Raises ClusterError where one is missing."""
    names = CONTROL_PLANE + (NODE if with_node else ())
    return _find(names, ["control_plane", *(["node"] if with_node else [])])


def find_helm() -> Path:
    """Return Helm, which no cluster needs. Raises ClusterError where it is missing."""
    return _find(["helm"], ["chart"])["helm"]


def _find(names: Sequence[str], sets: Sequence[str]) -> Programs:
    if folder := os.environ.get(FOLDER_VARIABLE):
        return _from_folder(Path(folder), names)
    on_path = {name: shutil.which(name) for name in names}
    if all(on_path.values()):
        return {name: Path(path) for name, path in on_path.items() if path}
    done = subprocess.run([COMPILE, *sets], stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(1)  # it has printed the reason
    return _from_folder(Path(done.stdout.strip()), names)


def _from_folder(folder: Path, names: Sequence[str]) -> Programs:
    programs = {name: folder.absolute() / name for name in names}
    missing = [name for name, path in programs.items() if not os.access(path, os.X_OK)]
    if missing:
        raise ClusterError(f"{folder} has no {', '.join(missing)}")
    return programs
