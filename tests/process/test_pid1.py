"""A container's first process."""

import os
import signal
import subprocess
import sys

import pytest

# Like process 1 of a container, it gets the orphans of what it runs.
BEGIN = """
import ctypes, os, signal, subprocess, sys, time
from scalerl_runtime.process.pid1 import be_init, under_init
ctypes.CDLL(None).prctl(36, 1)
"""


def run(program: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", BEGIN + program], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("why", "main", "code"),
    [
        ("its own code", "return 75", 75),
        ("finished", "return 0", 0),
        ("killed", "os.kill(os.getpid(), signal.SIGKILL)", 128 + 9),
    ],
)
def test_the_exit_code_is_that_of_the_child(why: str, main: str, code: int) -> None:
    assert run(f"def main():\n    {main}\nsys.exit(be_init(main))").returncode == code, why


def test_orphans_are_reaped() -> None:
    """The grandchild ends after its parent; while `main` runs no other process waits for it."""
    program = """
def main():
    parent = subprocess.Popen(["sh", "-c", "sleep 0.2 & echo $!; exit"], stdout=subprocess.PIPE, text=True)
    orphan = int(parent.stdout.readline())
    parent.wait()
    for _ in range(200):
        if not os.path.exists(f"/proc/{orphan}"):
            return 0
        time.sleep(0.05)
    return 1
sys.exit(be_init(main))
"""
    assert run(program).returncode == 0


def test_a_signal_is_forwarded() -> None:
    program = BEGIN + (
        "def main():\n"
        "    signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "sys.exit(be_init(main))"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 42


def test_without_pid_1_nothing_is_forked() -> None:
    assert run(f"sys.exit(under_init(lambda: int(os.getppid() != {os.getpid()})))").returncode == 0
