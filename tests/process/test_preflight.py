"""scripts/preflight on machines that lack something: PATH holds the few programs that the case allows."""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "cat", "cp", "cut", "dirname", "env", "sha256sum", "awk", "sed")  # what every machine has
SETUP = ("git", "python3", "gcc", "g++", "uv")
PROMETHEUS = ("prometheus", "promtool")
NODE = ("containerd", "runc", "iptables", "ip", "buildah", "debootstrap")


@dataclass(frozen=True)
class Answer:
    code: int
    said: list[str]
    installed: list[str]


@pytest.fixture
def preflight(tmp_path: Path) -> Callable[..., Answer]:
    """`preflight(parts, programs, uid)`: run it where only `programs` exist; the stub apt-get brings `archive`."""
    folder, record = tmp_path / "bin", tmp_path / "apt"
    folder.mkdir()

    def write(name: str, text: str) -> None:
        (folder / name).write_text(f"#!{shutil.which('bash')}\n{text}\n")
        (folder / name).chmod(0o755)

    def run(
        parts: Sequence[str], programs: Sequence[str], *, uid: int = 1000, archive: Sequence[str] | None = None
    ) -> Answer:
        for name in TOOLS:
            (folder / name).symlink_to(str(shutil.which(name)))
        for name in programs:
            write(name, "exit 0")
        write("id", f"echo {uid}")
        if archive is not None:
            made = " ".join(str(folder / name) for name in archive)
            copies = f"for made in {made}; do cp {folder}/id $made; done"
            write("apt-get", f'echo "$@" >>{record}\nif [[ $1 == install ]]; then {copies}; fi')
        environment = {"PATH": str(folder), "HOME": str(tmp_path)}
        done = subprocess.run(
            [ROOT / "scripts/preflight", *parts], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.stdout == ""
        calls = record.read_text().splitlines() if record.exists() else []
        return Answer(done.returncode, done.stderr.splitlines(), calls)

    return run


def test_a_machine_with_everything_is_silent(preflight: Callable[..., Answer]) -> None:
    programs = (*SETUP, *PROMETHEUS, "go")
    assert preflight(["setup", "prometheus", "cluster", "engines"], programs) == Answer(0, [], [])


def test_without_root_one_line_names_everything(preflight: Callable[..., Answer]) -> None:
    answer = preflight(["setup", "prometheus", "cluster", "engines"], [], archive=PROMETHEUS)
    assert answer.code == 1
    assert answer.installed == [], "apt-get is for root"
    (line,) = answer.said
    assert line.startswith(
        "preflight: missing: git python3 python3-pip gcc g++ python3-dev prometheus libnuma1 (Debian"
    )
    assert line.endswith(" Go (or KUBECONFIG or SCALERL_CLUSTER_BIN)")


def test_root_installs_what_is_missing_and_nothing_else(preflight: Callable[..., Answer]) -> None:
    answer = preflight(["setup", "prometheus"], SETUP, uid=0, archive=PROMETHEUS)
    assert (answer.code, answer.said) == (0, ["preflight: installing prometheus"])
    assert answer.installed == ["update -qq", "install -y -qq -o Dpkg::Options::=--force-confnew prometheus"]


def test_a_package_that_the_archive_lacks_is_named(preflight: Callable[..., Answer]) -> None:
    answer = preflight(["setup", "prometheus"], SETUP, uid=0, archive=[])
    assert answer.code == 1
    assert answer.said[-1].startswith("preflight: missing: prometheus (Debian")


def test_root_without_apt_is_told_in_one_line(preflight: Callable[..., Answer]) -> None:
    answer = preflight(["prometheus"], [], uid=0)
    assert (answer.code, len(answer.said)) == (1, 1)


def test_a_part_needs_its_own_programs_only(preflight: Callable[..., Answer]) -> None:
    assert preflight(["prometheus"], PROMETHEUS).code == 0


def test_a_node_needs_root(preflight: Callable[..., Answer]) -> None:
    answer = preflight(["node"], NODE)
    assert answer.code == 1
    assert "root (or KUBECONFIG)" in answer.said[0]


@pytest.mark.parametrize("target", ["test", "prometheus-test", "cluster-test", "local", "e2e"])
def test_each_target_looks_before_it_does_anything(target: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("KUBECONFIG", "MAKEFLAGS")}
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", target],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[0].startswith("scripts/preflight setup ")
