"""From `kubectl apply` to the first training step, by phase: `python bench/cluster/bench_apply.py [--write]`. I/O.

Runs the first end-to-end tests (tests/e2e), which note when each phase is reached: images are on the node, the run is
the quickstart on CPUs with 300 supervised steps first.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from cluster_lab import ROOT, build_parser, build_table, describe_measurement, write_part

from scalerl_operator.kube.client import Json

DOCUMENT = ROOT / "docs/scale.md"


def measure(path: Path) -> Json:
    """Bring the platform up, apply the quickstart, and take it down after the first step. Raises CalledProcessError."""
    path.unlink(missing_ok=True)
    tests = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-s",
        "tests/e2e",
        "-k",
        "chart_is_installed or trains_in_pods",
    ]
    subprocess.run(tests, check=True, cwd=ROOT, env={**os.environ, "E2E_TIMELINE": str(path)})
    found: Json = json.loads(path.read_text())
    return {**describe_measurement(), "load": os.getloadavg()[0], **found}


def write_table(found: Json) -> None:
    """Put the phases into docs/scale.md."""
    rows, before = [], 0.0
    for phase, seconds in found["timeline"]:
        rows.append([phase, f"{seconds - before:.1f} s", f"{seconds:.1f} s"])
        before = seconds
    image = "with all packages" if found["full"] else "with the code alone; packages on a volume"
    head = f"`{found['command']}`, {found['date']}, {found['machine']}, load {found['load']:.1f}; image {image}."
    write_part(DOCUMENT, "apply", f"{head}\n\n{build_table(['until', 'took', 'since apply'], rows)}")


def main() -> None:
    """Measure and write."""
    options = build_parser(__doc__, "docs/scale.md").parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / "apply.json"
    if not options.only_write:
        path.write_text(json.dumps(measure(options.folder / "timeline.json"), indent=1))
    if options.write or options.only_write:
        write_table(json.loads(path.read_text()))


if __name__ == "__main__":
    main()
