"""Trains examples/calculator.yaml with the tool and without it: `make calculator`. I/O.

With --write it draws both curves into docs/images. Without the tool an episode has one turn: a call of the calculator
is not answered, and counts as wrong.
"""

import argparse
import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from matplotlib.figure import Figure
from run_file import run_file

from scalerl_api.evaluations import surviving
from scalerl_operator.local.run_folder import RunFolder, load_evals

EXAMPLE = Path("examples/calculator.yaml")
FOLDER = Path("runs/calculator")
IMAGE = Path("docs/images/calculator.png")
NUM_DEMONSTRATIONS = 8000
CALL_SHARE = 0.3
RUNS = {"with-tool": None, "without-tool": 1}  # maxTurns; None: the example's
TURN_END = "<eos>"  # of the scratch model's tokenizer


def write_demonstrations(file: Path, rng: random.Random) -> None:
    """Write products, each with an answer at once or with a call, its observation and the answer."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lines:
        for _ in range(NUM_DEMONSTRATIONS):
            left, right = (rng.randrange(10 ** (digits - 1), 10**digits) for digits in (rng.randint(1, 3),) * 2)
            value = str(left * right)
            call = f"calc({left} * {right}){TURN_END}{value}\n"
            row = {
                "prompt": f"{left} * {right}",
                "completion": f"{call}{value}" if rng.random() < CALL_SHARE else value,
            }
            lines.write(f"{json.dumps(row)}\n")


def write_run(name: str, max_turns: int | None) -> Path:
    """Write the example as a run of this name; `max_turns` None: as it is."""
    document = yaml.safe_load(EXAMPLE.read_text())
    document["metadata"]["name"] = name
    if max_turns is not None:
        document["spec"]["reward"]["environment"]["maxTurns"] = max_turns
    file = FOLDER / f"{name}.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


def read_curve(folder: Path) -> list[tuple[int, float, float]]:
    """Return step, pass rate and standard error of a run's evaluations."""
    points = surviving(load_evals(RunFolder(folder)))
    return [(each.step, each.pass_rate, each.standard_error) for each in points]


def draw_curves(curves: Mapping[str, Sequence[tuple[int, float, float]]]) -> None:
    """Draw the pass rates by step into IMAGE."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for name, points in curves.items():
        steps, rates, errors = zip(*points, strict=True)
        axes.errorbar(steps, rates, yerr=errors, marker="o", ms=4, label=name.replace("-", " "))
    axes.set(xlabel="optimizer step", ylabel="held-out pass rate", ylim=(0, 1.02))
    axes.legend(frameon=False)
    figure.savefig(IMAGE, dpi=150)


def main() -> int:
    """Carry out both runs; return the exit code of the first that fails, or 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"draw the curves into {IMAGE}")
    options = parser.parse_args()
    write_demonstrations(FOLDER / "demonstrations.jsonl", random.Random(11))
    for name, max_turns in RUNS.items():
        file = write_run(name, max_turns)
        code = run_file(file)
        if code != 0:
            return code
    if options.write:
        draw_curves({name: read_curve(FOLDER / name) for name in RUNS})
    return 0


if __name__ == "__main__":
    sys.exit(main())
