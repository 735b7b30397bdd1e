"""Whole runs of the quickstart, by mode and seed: `bench/runtime/bench_runs.py [--modes M...] [--seeds N...]`. I/O.

Each run is `scalerl run` in a process of its own, one after the other, at the same task and machine; about 10 minutes
each on two slow cores. Rows go to FOLDER/runs.jsonl as they come, the table is printed from it:

    python bench/runtime/bench_runs.py --modes pipeline --seeds 0 1 2     # the demo over three seeds
    python bench/runtime/bench_runs.py                                    # pipeline against synchronous
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

EXAMPLE = Path("examples/quickstart.yaml")
SAMPLE_SECONDS = 5.0
RUN_SECONDS = 3600.0  # longer than any run; a run that hangs is killed


def build_document(mode: str, seed: int, steps: int | None) -> dict[str, Any]:
    """Return the quickstart with another name, seed and mode."""
    document: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    document["metadata"]["name"] = f"quickstart-{mode.lower()}-{seed}"
    document["spec"]["seed"] = seed
    document["spec"]["recipe"]["asynchrony"] = {"mode": mode}
    if steps is not None:
        document["spec"]["budget"]["steps"] = steps
    return document


def memory_bytes(root: psutil.Process) -> int:
    """Memory of a process and its descendants; pages that they share are counted once (PSS)."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:  # it ended meanwhile
            continue
    return total


def do_run(file: Path, folder: Path) -> tuple[float, int]:
    """Carry out the run; return its wall-clock time in seconds and its peak memory in bytes."""
    began, peak = time.monotonic(), 0
    command = [sys.executable, "-m", "scalerl_operator", "run", str(file), "--folder", str(folder), "--quiet"]
    with subprocess.Popen(command) as process:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                peak = max(peak, memory_bytes(root))
            except psutil.NoSuchProcess:
                break
            if time.monotonic() - began > RUN_SECONDS:
                process.terminate()
                raise SystemExit(f"{file}: not done after {RUN_SECONDS:.0f} s")
            time.sleep(SAMPLE_SECONDS)
    if process.returncode != 0:
        raise SystemExit(f"{file}: exit code {process.returncode}; see {folder}/coordinator.log")
    return time.monotonic() - began, peak


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Return the records of a journal."""
    return (json.loads(line) for line in path.read_text().splitlines())


def summarize(folder: Path, target: float) -> dict[str, Any]:
    """Numbers from the run's own records. Training time is counted from the start of the first step."""
    steps = list(read_lines(folder / "metrics.jsonl"))
    began = steps[0]["time"] - steps[0]["values"]["step_seconds"]
    clock = {line["step"]: line["time"] - began for line in steps}
    evals = [line for line in read_lines(folder / "evals.jsonl") if line["dataset"] == "held_out"]
    evals.sort(key=lambda line: line["step"])
    reached = next((line["step"] for line in evals if line["passRate"] >= target), None)
    last = steps[-1]["values"]
    tokens = sum(line["values"]["tokens_per_second"] * line["values"]["step_seconds"] for line in steps)
    forecast = yaml.safe_load((folder / "status.yaml").read_text())["status"]["forecast"]
    halfway = json.loads((folder / "halfway.json").read_text()) if (folder / "halfway.json").exists() else None
    return {
        "r0": evals[0]["passRate"],
        "final": evals[-1]["passRate"],
        "final_error": evals[-1]["standardError"],
        "train_seconds": clock[steps[-1]["step"]],
        "target": target,
        "target_seconds": clock[reached] if reached else None,
        "target_step": reached,
        "tokens_per_second": tokens / clock[steps[-1]["step"]],
        "idle_trainer": last["idle_fraction_trainer"],
        "idle_generator": last["idle_fraction_generator"],
        "forecast": forecast,
        "halfway": halfway,
    }


def describe(row: dict[str, Any]) -> str:
    """Return one line of the table."""
    ahead, half = row["forecast"], row["halfway"]
    made = "none"
    if half is not None and half.get("predicted") is not None:
        error = half["predicted"] - half["measured"]
        made = f"{half['predicted']:.3f} [{half['low']:.3f}, {half['high']:.3f}] {half['verdict']}, {error:+.3f}"
    reached = f"{row['target_seconds']:.0f} s" if row["target_seconds"] is not None else "not"
    ceiling = "refused" if ahead.get("ceiling") is None else f"{ahead['ceiling']:.3f}"
    cells = (
        row["mode"],
        str(row["seed"]),
        f"{row['r0']:.3f}",
        f"{row['final']:.3f} ± {row['final_error']:.3f}",
        f"{ceiling} {ahead['verdict']}",
        made,
        f"{row['seconds'] / 60:.1f} min",
        f"{row['peak_bytes'] / 2**30:.1f} GiB",
        reached,
        f"{row['tokens_per_second']:,.0f}",
        f"{row['idle_trainer']:.2f} / {row['idle_generator']:.2f}",
    )
    return "| " + " | ".join(cells) + " |"


HEADER = (
    "| mode | seed | R0 | final | ceiling | made at half: the end, error | whole run | peak memory | to the target "
    "| trained tokens/s | idle trainer / generator |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    """Do the runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", nargs="+", default=["pipeline", "synchronous"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--target", type=float, default=0.6, help="held-out pass rate whose time is compared")
    parser.add_argument("--steps", type=int, help="a shorter run than the quickstart's")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = options.folder / "runs.jsonl"
    print(HEADER, flush=True)
    for seed in options.seeds:
        for mode in options.modes:
            document = build_document(mode, seed, options.steps)
            folder = options.folder / f"{document['metadata']['name']}-{int(time.time())}"
            file = options.folder / f"{folder.name}.yaml"
            file.write_text(yaml.safe_dump(document))
            seconds, peak = do_run(file, folder)
            row = {"mode": mode, "seed": seed, "seconds": seconds, "peak_bytes": peak}
            row |= summarize(folder, options.target)
            with rows.open("a") as journal:
                journal.write(json.dumps(row) + "\n")
            print(describe(row), flush=True)


if __name__ == "__main__":
    main()
