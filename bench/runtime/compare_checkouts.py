"""Runs the quickstart of two checkouts in turns. I/O.

`python bench/runtime/compare_checkouts.py BEFORE AFTER [--pairs N] [--steps N]`

BEFORE, AFTER: folders of checkouts; both use this interpreter's packages. CPU-seconds are those of all processes of
a run, so they compare where other work shares the cores; steps per second do not.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import yaml

EXAMPLE = "examples/quickstart.yaml"
RUN_SECONDS = 1800.0  # a run that takes longer is killed
SKIPPED = 5  # first steps, in which engines fill


def do_run(checkout: Path, folder: Path, steps: int) -> dict[str, float]:
    """Carry out the quickstart of a checkout; return its numbers."""
    document = yaml.safe_load((checkout / EXAMPLE).read_text())
    document["spec"]["budget"]["steps"] = steps
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(document))
    roots = os.pathsep.join(str(checkout / name) for name in ("crds", "operator", "runtime"))
    command = [sys.executable, "-m", "scalerl_operator", "run", str(file), "--folder", str(folder / "run"), "--quiet"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=checkout, env={**os.environ, "PYTHONPATH": roots}, check=True, timeout=RUN_SECONDS)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    counted = lines[SKIPPED:]
    seconds = [line["values"]["step_seconds"] for line in counted]
    mean = {name: sum(line["values"][name] for line in counted) / len(counted) for name in ("wait_seconds", "lag_mean")}
    return {
        "steps/s": len(seconds) / sum(seconds),
        "idle trainer": mean["wait_seconds"] * len(seconds) / sum(seconds),
        "idle generator": lines[-1]["values"]["idle_fraction_generator"],
        "lag": mean["lag_mean"],
        "CPU s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def main() -> None:
    """Do the runs and print their numbers as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=Path("runs/pairs"))
    options = parser.parse_args()
    for pair in range(options.pairs):
        for name, checkout in (("before", options.before), ("after", options.after)):
            folder = (options.folder / f"{pair}-{name}").resolve()
            found = do_run(checkout.resolve(), folder, options.steps)
            print(f"pair {pair} {name}: " + ", ".join(f"{key} {value:.3g}" for key, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
