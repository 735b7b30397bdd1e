"""Start, wait and stop of the test cluster, with programs of one line; fake nodes on a real cluster."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "testbed"
FOREVER = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)",
]
NEVER = 0.0  # a deadline that has passed: no test waits


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    import processes

    return processes


def test_wait_names_the_phase_that_took_too_long(processes: Any, tmp_path: Path) -> None:
    process = processes.start(tmp_path, "sleeper", FOREVER)
    try:
        with pytest.raises(processes.ClusterError, match=r"^making tea: not in 0 s: no water\n"):
            processes.wait(tmp_path, "making tea", seconds=NEVER, until=lambda: "no water", process=process)
    finally:
        processes.stop_all(tmp_path)


def test_wait_ends_with_the_program_and_shows_its_last_output(processes: Any, tmp_path: Path) -> None:
    process = processes.start(tmp_path, "faulty", ["sh", "-c", "echo no such flag >&2; exit 2"])
    with pytest.raises(processes.ClusterError, match=r"^making tea: faulty ended\n  faulty: no such flag$"):
        processes.wait(tmp_path, "making tea", seconds=600, until=lambda: "no water", process=process)


def test_stop_finds_what_another_command_started(processes: Any, tmp_path: Path) -> None:
    started = processes.start(tmp_path, "sleeper", FOREVER)
    (found,) = processes.load_processes(tmp_path)
    assert found == started
    assert found.is_alive()
    processes.stop_all(tmp_path)
    assert not found.is_alive()


def test_stop_kills_a_program_that_ignores_sigterm(
    processes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.2)
    process = processes.start(tmp_path, "stubborn", STUBBORN)
    log = tmp_path / "log/stubborn"
    processes.wait(tmp_path, "x", seconds=60, until=lambda: None if log.read_text() else "silent", process=process)
    processes.stop_all(tmp_path)
    assert not process.is_alive()


def test_ports_are_not_those_of_outgoing_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import control_plane

    found = control_plane.find_free_ports(50)
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert len(set(found)) == 50
    assert max(found) < low


def test_restart_kills_and_starts_the_same_command(processes: Any, tmp_path: Path) -> None:
    old = processes.start(tmp_path, "sleeper", FOREVER)
    new = processes.restart(tmp_path, "sleeper")
    try:
        assert (old.is_alive(), new.is_alive(), new.name) == (False, True, "sleeper")
        assert processes.read_command(new.pid) == FOREVER
        assert processes.load_processes(tmp_path) == [old, new]
    finally:
        processes.stop_all(tmp_path)
    with pytest.raises(processes.ClusterError, match="no sleeper runs in"):
        processes.restart(tmp_path, "sleeper")


def test_a_process_that_took_over_the_number_is_left_alone(processes: Any, tmp_path: Path) -> None:
    (tmp_path / "processes").write_text(f"etcd {os.getpid()} 1\n")  # this test's process did not start at boot
    processes.stop_all(tmp_path)
    (found,) = processes.load_processes(tmp_path)
    assert not found.is_alive()


def test_missing_programs_are_named(tmp_path: Path) -> None:
    (tmp_path / "etcd").touch(mode=0o755)
    environment = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
    done = subprocess.run(
        [sys.executable, FOLDER, "--state", tmp_path / "state", "up"],
        env={**environment, "SCALERL_CLUSTER_BIN": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    wanted = "has no kube-apiserver, kube-controller-manager, kube-scheduler, kubectl, kwok\n"
    assert (done.returncode, done.stderr) == (1, f"cluster: {tmp_path} {wanted}")


def test_without_a_node_only_traces_of_the_folder_are_searched(
    processes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another clone's node may start and stop meanwhile; so may a folder whose name has ours as a prefix."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import leftovers

    ours, other = tmp_path / "state", tmp_path / "state-2"
    before = leftovers.list_traces(ours, with_node=False)
    processes.start(other, "sleeper", FOREVER)
    processes.start(ours, "sleeper", FOREVER)
    try:
        found = leftovers.list_traces(ours, with_node=False)
    finally:
        processes.stop_all(ours)
        processes.stop_all(other)
    assert before == set()
    (process,) = [line for line in found if line.startswith("process ")]
    assert process.endswith("import time; time.sleep(600) ")
    assert found - {process} == {f"file {ours}"}


def test_machine_with_nothing_gets_one_sentence(tmp_path: Path) -> None:
    for program in ("bash", "sh", "env", "sed", "awk", "sha256sum", "cut", "basename", "dirname"):
        (path,) = [Path(folder) / program for folder in ("/usr/bin", "/bin") if (Path(folder) / program).exists()][:1]
        (tmp_path / program).symlink_to(path)
    done = subprocess.run(
        [sys.executable, FOLDER, "--state", tmp_path / "state", "up"],
        env={"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "cluster: no cluster to test on: set KUBECONFIG, or SCALERL_CLUSTER_BIN to a folder of Kubernetes' programs, "
        "or install Go\n"
    )


@pytest.fixture
def kubectl(cluster: Any, namespace: str) -> Callable[..., str]:
    if not cluster.is_ours:
        pytest.skip("KUBECONFIG's cluster: its nodes are not ours to know")

    def run(*arguments: str, text: str | None = None) -> str:
        done = cluster.kubectl("-n", namespace, *arguments, text=text)
        assert done.returncode == 0, done.stderr
        output: str = done.stdout
        return output

    return run


def test_pod_with_gpus_is_scheduled_and_reported_running(kubectl: Callable[..., str]) -> None:
    gpus = '{"limits": {"nvidia.com/gpu": "6"}}'
    for name in ("one", "two"):
        overrides = f'{{"spec": {{"containers": [{{"name": "x", "image": "x", "resources": {gpus}}}]}}}}'
        kubectl("run", name, "--image=x", f"--overrides={overrides}")
    kubectl("wait", "--for=condition=Ready", "pod/one", "pod/two", "--timeout=60s")
    nodes = kubectl("get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}").split()
    assert sorted(nodes) == ["fake-0", "fake-1"]  # 8 GPUs each: 6 and 6 do not fit on one
