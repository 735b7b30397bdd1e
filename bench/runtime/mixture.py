"""Trains examples/mixture.yaml, sums and functions to write, two sources with two verifiers: `make mixture`. I/O.

With --write it copies the picture of both curves to docs/images.
"""

import argparse
import csv
import json
import random
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from run_file import run_file

EXAMPLE = Path("examples/mixture.yaml")
FOLDER = Path("runs/mixture-data")  # the sources that EXAMPLE names
RUN = Path("runs/mixture.yaml")
IMAGE = Path("docs/images/mixture.png")
NUM_ROWS = 4000  # of each source
WRONG_SHARE = 0.67  # of the demonstrations: what RL has to find out
SIGNS = {"plus": "+", "minus": "-", "times": "*"}
TRIED = (-3, 2, 11)  # arguments of the tests


@dataclass(frozen=True)
class Change:
    """One operation of a function, such as `times 3`."""

    word: str
    number: int

    def apply(self, text: str) -> str:
        """Return the Python of this operation on `text`."""
        return f"{text} {SIGNS[self.word]} {self.number}"


def draw_change(rng: random.Random) -> Change:
    """Return an operation with a number from 2 to 30."""
    return Change(rng.choice(sorted(SIGNS)), rng.randint(2, 30))


def write_function(first: Change, second: Change) -> str:
    """Return the program that carries out `first`, then `second`."""
    inner = first.apply("x")
    return f"def f(x): return {second.apply(f'({inner})')}"


def miss_function(first: Change, second: Change, rng: random.Random) -> str:
    """Return a program with another operation in one place."""
    while True:
        other = Change(rng.choice(sorted(SIGNS)), second.number)
        if other != second:
            return write_function(*rng.choice([(first, other), (other, second)]))


def build_function(rng: random.Random) -> tuple[dict[str, object], dict[str, str]]:
    """Return a row of the source `functions`, and its demonstration."""
    first, second = draw_change(rng), draw_change(rng)
    program = write_function(first, second)
    scope: dict[str, object] = {}
    exec(program, scope)  # noqa: S102 (written here)
    tests = [f"assert f({x}) == {eval(f'f({x})', scope)}" for x in TRIED]  # noqa: S307 (written here)
    prompt = f"f(x): {first.word} {first.number}, then {second.word} {second.number}"
    shown = miss_function(first, second, rng) if rng.random() < WRONG_SHARE else program
    return {"prompt": prompt, "tests": tests, "solution": program}, {"prompt": prompt, "completion": shown}


def build_sum(rng: random.Random) -> tuple[dict[str, object], dict[str, str]]:
    """Return a row of the source `sums`, and its demonstration."""
    left, right = rng.randint(10, 99), rng.randint(10, 99)
    ones = left % 10
    total = left + right
    shown = total + rng.choice((-10, -1, 1, 10)) if rng.random() < WRONG_SHARE else total
    question = f"{left} + {right}"
    working = f"{right} + {ones} = {right + ones}\n#### {shown}"
    return {"question": question, "answer": total}, {"prompt": question, "completion": working}


def write_sources(rng: random.Random) -> None:
    """Write the files that EXAMPLE reads."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    sums, functions = ([build(rng) for _ in range(NUM_ROWS)] for build in (build_sum, build_function))
    with (FOLDER / "sums.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["question", "answer"])
        table.writeheader()
        table.writerows(row for row, _ in sums)
    write_lines(FOLDER / "functions.jsonl", [row for row, _ in functions])
    write_lines(FOLDER / "demonstrations.jsonl", [shown for _, shown in (*sums, *functions)])


def write_lines(path: Path, rows: list[dict[str, object]] | list[dict[str, str]]) -> None:
    """Write one JSON object a line."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def main() -> int:
    """Carry out the run; return the exit code of `scalerl run`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"copy the picture to {IMAGE}")
    options = parser.parse_args()
    write_sources(random.Random(7))
    shutil.copyfile(EXAMPLE, RUN)
    code = run_file(RUN)
    if code == 0 and options.write:
        shutil.copyfile(RUN.with_suffix("") / "sources.png", IMAGE)
    return code


if __name__ == "__main__":
    sys.exit(main())
