"""The project's test cluster: `python tests/cluster/testbed programs | up | down | restart | load | helm`. I/O.

With another cluster's KUBECONFIG set, `up` starts nothing.
"""

import argparse
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from control_plane import ControlPlane, start_control_plane, wait_for_nodes
from leftovers import list_traces
from node import check_machine, load_image, remove_node, start_node, take_place
from processes import ClusterError, load_processes, restart, stop_all
from programs import Programs, find_helm, find_programs

DEFAULT_STATE = Path(__file__).parents[3] / ".cluster"  # in the clone, so that two clones do not share it
FAKE_NODES = 2


def main() -> int:
    """Run the command; print the error and return 1 where it fails."""
    options = _parse_arguments()
    state = options.state.absolute()
    try:
        _carry_out(options, state)
    except ClusterError as error:
        _say(str(error))
        return 1
    return 0


def _carry_out(options: argparse.Namespace, state: Path) -> None:
    if options.command == "load":
        print(load_image(state, options.archive), end="")
    elif options.command == "helm":
        print(find_helm())
    elif options.command == "down":
        down(state)
    elif options.command == "restart":
        restart(state, options.program)
    elif os.environ.get("KUBECONFIG", str(state / "kubeconfig")) not in ("", str(state / "kubeconfig")):
        _say(f"KUBECONFIG is set ({os.environ['KUBECONFIG']}): use that cluster, or unset it")
    elif options.command == "programs":
        find_programs(with_node=options.node)
    elif options.command == "up":
        up(state, with_node=options.node)
    else:
        repeat(state, options.times, with_node=options.node)


def up(state: Path, *, with_node: bool) -> None:
    """Start a cluster in `state` in place of an earlier one, and print how to use it."""
    if with_node:
        check_machine(state)
    programs = find_programs(with_node=with_node)
    with _lock(state):
        _remove(state)
        state.mkdir(parents=True)
        (state / "programs.json").write_text(json.dumps({name: str(path) for name, path in programs.items()}))
        try:
            control_plane = _start(state, programs, with_node=with_node)
        except BaseException:  # Ctrl-C too: half a cluster would stay and serve nobody
            _say(f"stopping again; the logs are in {state / 'log'}")
            try:
                stop_all(state)
            finally:
                remove_node(state)
            raise
    _say("ready; to use it:")
    print(f"export KUBECONFIG={control_plane.kubeconfig} PATH={programs['kubectl'].parent}:$PATH")


def _start(state: Path, programs: Programs, *, with_node: bool) -> ControlPlane:
    if not with_node:
        _say("starting the API server (no nodes but fake ones)")
        control_plane = start_control_plane(state, programs)
        _add_fake_nodes(control_plane)
        return control_plane
    _say("starting the API server and one node")
    place = take_place(state)
    control_plane = start_control_plane(state, programs, address=place.host)
    start_node(control_plane, place)
    return control_plane


def _add_fake_nodes(control_plane: ControlPlane) -> None:
    """Create kwok's fake nodes with GPUs: pods are scheduled to them and reported as running."""
    size = {"cpu": "64", "memory": "512Gi", "pods": "500", "nvidia.com/gpu": "8"}
    nodes = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": f"fake-{index}", "annotations": {"kwok.x-k8s.io/node": "fake"}},
            "status": {"capacity": size, "allocatable": size},
        }
        for index in range(FAKE_NODES)
    ]
    file = control_plane.state / "fake-nodes.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": nodes}))
    control_plane.kubectl("create", "--validate=false", "-f", file)  # a busy server is slow to send its schema
    (kwok,) = [process for process in load_processes(control_plane.state) if process.name == "kwok"]
    wait_for_nodes(control_plane, [f"fake-{index}" for index in range(FAKE_NODES)], process=kwok)


def down(state: Path) -> None:
    """Stop the cluster in `state`, if any, and remove its leftovers."""
    if state.exists():
        with _lock(state):
            number = len(load_processes(state))
            _remove(state)
        _say(f"stopped {number} processes, removed {state}")
    else:
        _say(f"no cluster in {state}")


def repeat(state: Path, times: int, *, with_node: bool) -> None:
    """Start and stop `times` times. Raises ClusterError with the leftovers that did not exist before."""
    down(state)
    before = list_traces(state, with_node=with_node)
    for number in range(1, times + 1):
        started = time.monotonic()
        up(state, with_node=with_node)
        is_up = time.monotonic()
        down(state)
        stopped = time.monotonic()
        if left := list_traces(state, with_node=with_node) - before:
            raise ClusterError(f"left behind after {number} starts:\n" + "\n".join(sorted(left)))
        _say(f"{number} of {times}: up in {is_up - started:.1f} s, down in {stopped - is_up:.1f} s, nothing left")


def _remove(state: Path) -> None:
    stop_all(state)
    remove_node(state)
    if state.exists():
        shutil.rmtree(state)


@contextmanager
def _lock(state: Path) -> Iterator[None]:
    """Lock a state folder, so that one command at a time uses it."""
    state.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(state.parent, os.O_RDONLY)  # a lock on the folder itself leaves no file
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _say(text: str) -> None:
    print(f"cluster: {text}", file=sys.stderr, flush=True)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="testbed", description=__doc__)
    parser.add_argument(
        "--state", type=Path, default=DEFAULT_STATE, help="folder of the cluster (default: %(default)s)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("up", help="start a cluster, in place of what is in the folder")
    programs = commands.add_parser("programs", help="find or compile what a cluster is made of")
    again = commands.add_parser("repeat", help="start and stop it many times; fails if anything is left behind")
    again.add_argument("times", type=int)
    for command in (start, programs, again):
        command.add_argument("--node", action="store_true", help="with a node that runs pods (root)")
    commands.add_parser("helm", help="find or compile Helm, which the chart's tests use, and say where it is")
    kill = commands.add_parser("restart", help="kill one of its programs (SIGKILL) and start it anew")
    kill.add_argument("program", help="etcd, kube-apiserver, ...")
    commands.add_parser("down", help="stop it and leave nothing behind")
    commands.add_parser("load", help="import an image into the node").add_argument("archive", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
