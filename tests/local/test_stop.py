"""Ctrl-C: the run is checkpointed, nothing is left behind, and `--resume` goes on from that very step."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

WAIT_SECONDS = 600.0  # until the first steps are done, on a busy machine


def wait_for_lines(path: Path, count: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not path.exists() or len(path.read_bytes().splitlines()) < count:
        assert process.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < deadline, f"{path.name} did not reach {count} lines"
        time.sleep(0.05)


@pytest.mark.timeout(1500)
def test_interrupted_run_goes_on_where_it_stopped(
    tmp_path: Path,
    write_run: Callable[[dict[str, Any]], Path],
    lines: Callable[[Path], list[dict[str, Any]]],
) -> None:
    run_file = write_run({"spec": {"budget": {"steps": 80, "evalEverySteps": 40}, "checkpoint": {"everySteps": 1000}}})
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "scalerl_operator", "run", str(run_file), "--folder", str(folder), "--quiet"]
    first = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.environ["PYTHONPATH"]})
    wait_for_lines(folder / "metrics.jsonl", 5, first)
    family = psutil.Process(first.pid).children(recursive=True)
    assert family
    first.send_signal(signal.SIGINT)
    assert first.wait(300) == 130
    assert not [child for child in family if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    stopped_at = len(lines(folder / "ledger.jsonl"))
    assert 5 <= stopped_at < 80
    assert (folder / "checkpoints" / f"step-{stopped_at:08d}" / "manifest.json").exists(), "saved where it stopped"
    assert subprocess.run([*command, "--resume"], timeout=900, check=False).returncode == 0
    ledger = lines(folder / "ledger.jsonl")
    assert [line["step"] for line in ledger] == list(range(1, 81))
    assert [line["attempt"] for line in ledger] == [1] * stopped_at + [2] * (80 - stopped_at)
    assert sorted(line["step"] for line in lines(folder / "evals.jsonl")) == [0, 40, 80]
