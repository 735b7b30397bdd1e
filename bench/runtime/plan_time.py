"""The plan's time on this machine against real runs: `bench/runtime/plan_time.py FOLDER [--only NAME...]`. I/O.

For two models: two short runs calibrate, as `scalerl plan --calibrate` does; then runs of other settings are measured
in the same way. Compared are CPU-seconds of a step, which other work on the machine disturbs less than its clock. The
lengths are those that the measured run had. About three minutes for each of the seven runs on two cores. Measured
runs stay in FOLDER and are not repeated.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from scalerl_operator.capacity.cpu_rates import CpuSample, CpuSeconds, StepWork, fit_rates
from scalerl_operator.local.calibration import SIZES, StepSize, build_short_run, count_cores, measure_run

EXAMPLE = Path("examples/quickstart.yaml")
LARGER = {"hiddenSize": 256, "layers": 4, "heads": 8, "kvHeads": 4, "intermediateSize": 768}  # eight times the values


@dataclass(frozen=True)
class Setting:
    """A run to predict: the quickstart with a model and a size of its steps."""

    model: str
    size: StepSize


SETTINGS = {
    "twice the prompts": Setting("quickstart's", StepSize("batch", 2.0, 1.0, 1.0)),
    "twice the lengths": Setting("quickstart's", StepSize("long", 1.0, 2.0, 1.0)),
    "eight times the parameters, twice the prompts": Setting("larger", StepSize("larger", 2.0, 1.0, 1.0)),
}


def load_document(model: str) -> dict[str, Any]:
    """Return the quickstart with one of the two models."""
    document: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    document["spec"]["data"]["train"]["size"] = 2000
    if model == "larger":
        document["spec"]["model"]["scratch"] |= LARGER
    return document


def measure(folder: Path, model: str, size: StepSize) -> CpuSample:
    """Return the steps of one run; those that FOLDER has already are not run again."""
    name = f"{model.split(chr(39))[0]}-{size.name}"
    kept = folder / f"{name}.json"
    if kept.exists():
        values = json.loads(kept.read_text())
        return CpuSample(StepWork(**values["work"]), CpuSeconds(**values["seconds"]))
    found = measure_run(build_short_run(load_document(model), size), folder / name)
    kept.write_text(json.dumps(asdict(found)))
    print(f"{name}: {found.seconds.total:.3f} CPU-seconds a step", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Print predicted beside measured CPU-seconds of a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), metavar="NAME")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print(f"| setting | part | predicted | measured | error |\n|{'---|' * 5}")
    for name in arguments.only:
        setting = SETTINGS[name]
        rates = fit_rates([measure(arguments.folder, setting.model, size) for size in SIZES], count_cores())
        found = measure(arguments.folder, setting.model, setting.size)
        predicted = rates.step(found.work)
        for part in ("trainer", "engine", "loop", "total"):
            said, value = getattr(predicted, part), getattr(found.seconds, part)
            print(f"| {name} | {part} | {said:.3f} | {value:.3f} | {said / value - 1:+.1%} |", flush=True)


if __name__ == "__main__":
    main()
