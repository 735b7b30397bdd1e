"""Trains SmolLM2-135M on a mixture of sums and of functions to write, two sources with two verifiers. I/O.

`python bench/runtime/mixture.py [--steps N]`: a curve and a forecast for each source. The rows are written below runs/.
"""

import argparse
import json
import random
import sys
from pathlib import Path

import yaml
from chat_model import chat_model_folder
from run_file import run_file

FOLDER = Path("runs/mixture-data")
NUM_ROWS = 1500
SUMS = "7 + 5 = 12\n13 - 24 = -11\n"
FUNCTIONS = "def plus_2(x):\n    return x + 2\n\n\ndef times_5(x):\n    return x * 5\n\n\n"
OPERATORS = {"plus": "+", "minus": "-", "times": "*"}


def write_rows(rng: random.Random) -> dict[str, Path]:
    """Write sums and functions, a file each; the functions have the columns of HumanEval."""
    sums, functions = [], []
    for _ in range(NUM_ROWS):
        a, b = rng.randint(1, 99), rng.randint(1, 99)
        word, first, second = rng.choice(sorted(OPERATORS)), rng.randint(2, 99), rng.randint(2, 99)
        sums.append({"prompt": f"{SUMS}{a} + {b} =", "answer": a + b})
        second_word = rng.choice(sorted(OPERATORS))
        name = f"{word}_{first}_{second_word}_{second}"
        inner = f"(x {OPERATORS[word]} {first}) {OPERATORS[second_word]} {second}"
        checks = "\n".join(f"    assert candidate({x}) == {eval(inner, {'x': x})}" for x in (3, 10, 41))  # noqa: S307
        functions.append(
            {
                "prompt": f"{FUNCTIONS}def {name}(x):\n    return",
                "entry_point": name,
                "canonical_solution": f" {inner}\n",
                "test": f"def check(candidate):\n{checks}\n",
            }
        )
    FOLDER.mkdir(parents=True, exist_ok=True)
    paths = {"sums": FOLDER / "sums.jsonl", "functions": FOLDER / "functions.jsonl"}
    for name, rows in (("sums", sums), ("functions", functions)):
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


def build_run(paths: dict[str, Path], steps: int) -> dict[str, object]:
    """Return the run."""
    train = [
        {"name": "sums", "source": str(paths["sums"]), "verifier": "math", "weight": 1},
        {
            "name": "functions",
            "source": str(paths["functions"]),
            "answerField": "test",
            "verifier": "code",
            "weight": 1,
        },
    ]
    recipe = {
        "preset": "scalerl",
        "promptsPerStep": 16,
        "completionsPerPrompt": 8,
        "stopTokens": ["\n"],
        "optimizer": {"learningRate": 1.0e-5, "warmupSteps": 5},
        "length": {"control": "none", "promptTokens": 96, "thinkTokens": 12, "answerTokens": 12},
    }
    spec = {
        "model": {"source": str(chat_model_folder()), "dtype": "bfloat16"},
        "data": {
            "train": train,
            "heldOut": {"prompts": 96, "samplesPerPrompt": 2},
            "promptFormat": "plain",
        },
        "reward": {"timeoutSeconds": 20},
        "recipe": recipe,
        "budget": {"steps": steps, "evalEverySteps": 6},
        "trainer": {"gpusPerReplica": 0, "microBatchTokens": 4096},
        "generator": {"gpusPerReplica": 0},
    }
    return {"apiVersion": "scalerl.io/v1alpha1", "kind": "RLRun", "metadata": {"name": "mixture"}, "spec": spec}


def main() -> int:
    """Carry out the run; return the exit code of `scalerl run`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=48)
    options = parser.parse_args()
    document = build_run(write_rows(random.Random(0)), options.steps)
    file = FOLDER.with_name("mixture.yaml")
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return run_file(file)


if __name__ == "__main__":
    sys.exit(main())
