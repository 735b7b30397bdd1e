"""Loads published data sets from a folder and judges all their rows: right answers, wrong ones. Prints a table. I/O.

`PYTHONPATH=tests/support python bench/runtime/public_data.py FOLDER [--rows N]`

FOLDER has the files of FILES, as their publishers write them; those that it lacks are left out. For programs, the size
of the references in memory and the part of the rows' own solutions are printed too. Each row's own answer must be right
in every form in which it is written here, and the empty answer, a refusal and the next row's answer (where it differs)
must be wrong.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chat_model import chat_model_folder
from transformers import AutoTokenizer

from scalerl_api import parse_run
from scalerl_runtime.data.run_data import load_data
from scalerl_runtime.rewards.code_reference import do_nothing_programs, parse_code_reference
from scalerl_runtime.rewards.reading.choice_answers import is_right_choice
from scalerl_runtime.rewards.reading.math_answers import is_right_mathematics
from scalerl_runtime.rewards.references import WRONG_ANSWERS, build_reference, build_right_answers
from scalerl_runtime.rewards.sandbox import Sandbox
from scalerl_runtime.types import Prompt

FILES: dict[str, dict[str, Any]] = {
    # Of Qwen2.5-Math's evaluation data: `<set>/test.jsonl`.
    "amc23/test.jsonl": {"promptField": "question", "verifier": "math"},
    "asdiv/test.jsonl": {"promptField": "{body} {question}", "verifier": "math"},
    "carp_en/test.jsonl": {"promptField": "content", "verifier": "math"},
    "mawps/test.jsonl": {"promptField": "input", "answerField": "target", "verifier": "math"},
    "minerva_math/test.jsonl": {"promptField": "problem", "answerField": "solution", "verifier": "math"},
    "mmlu_stem/test.jsonl": {"promptField": "question", "optionsField": "choices", "verifier": "choice"},
    "olympiadbench/test.jsonl": {"promptField": "question", "answerField": "final_answer", "verifier": "math"},
    "sat_math/test.jsonl": {
        "promptField": "question",
        "optionsField": "options",
        "answerField": "Answer",
        "verifier": "choice",
    },
    "gsm8k_train.jsonl": {"promptField": "question", "verifier": "math"},
    "gsm8k_test.jsonl": {"promptField": "question", "verifier": "math"},
    "svamp.jsonl": {"promptField": "{Body} {Question}", "answerField": "Answer", "verifier": "math"},
    "aime24.jsonl": {"promptField": "problem", "verifier": "math"},
    "aqua.jsonl": {
        "promptField": "question",
        "optionsField": "options",
        "answerField": "correct",
        "verifier": "choice",
    },
    "HumanEval.jsonl.gz": {"answerField": "test", "verifier": "code"},
}
HEADER = "| file | rows | bad rows | right answers tried | of them wrong | wrong answers tried | of them right | s |"


@dataclass
class Tally:
    """Counts over the rows of a file."""

    right: int = 0
    right_refused: int = 0
    wrong: int = 0
    wrong_taken: int = 0


def load_rows(path: Path, fields: dict[str, Any], size: int | None) -> tuple[list[Prompt], int]:
    """Return every row as a prompt, and the number of bad rows."""
    train = {"source": str(path), **fields, **({"size": size} if size else {})}
    spec = {
        "model": {"source": str(chat_model_folder())},
        "data": {"train": train, "heldOut": {"prompts": 1}, "maxBadShare": 0.99},
        "reward": {},
        "recipe": {"length": {"control": "none", "promptTokens": 4096}},
        "trainer": {"microBatchTokens": 100_000},
        "budget": {"steps": 200},
    }
    run = parse_run({"apiVersion": "scalerl.io/v1alpha1", "kind": "RLRun", "metadata": {"name": "data"}, "spec": spec})
    tokenizer = AutoTokenizer.from_pretrained(chat_model_folder())
    data = load_data(run, run.spec.resolved_recipe(), tokenizer, 0, build_reference=build_reference)
    return sorted([*data.train, *data.held_out], key=lambda prompt: prompt.id), len(data.bad_rows)


def list_right(verifier: str, reference: str) -> Sequence[str]:
    """Return forms of the row's own answer."""
    if verifier == "code":
        return [parse_code_reference(reference).solution]
    answers = list(build_right_answers(verifier, reference))
    if verifier == "math":
        plain = answers[0].removeprefix("\\boxed{").removesuffix("}")
        answers += [f"The working.\n#### {plain}", f"Answer: {plain}", f"So it follows. The answer is {plain}."]
    return answers


def judge_rows(verifier: str, prompts: Sequence[Prompt], is_right: Callable[[str, str], bool]) -> Tally:
    """Try each row's own answer, and wrong ones."""
    tally = Tally()
    for prompt, other in zip(prompts, [*prompts[1:], prompts[0]], strict=True):
        for answer in list_right(verifier, prompt.answer):
            tally.right += 1
            tally.right_refused += not is_right(answer, prompt.answer)
        wrong = list(do_nothing_programs(prompt.answer)) if verifier == "code" else list(WRONG_ANSWERS)
        if verifier != "code":
            ours, others = (list_right(verifier, each.answer)[0] for each in (prompt, other))
            wrong += [others] if others != ours else []
        for answer in wrong:
            tally.wrong += 1
            tally.wrong_taken += is_right(answer, prompt.answer)
    return tally


def describe_sizes(name: str, prompts: Sequence[Prompt]) -> str:
    """Return how large the references are that a run keeps in memory, and the share of the rows' own solutions."""
    total = sum(len(prompt.answer.encode()) for prompt in prompts)
    solutions = sum(len(parse_code_reference(prompt.answer).solution.encode()) for prompt in prompts)
    return f"{name}: {total / len(prompts):,.0f} bytes a reference, {solutions / total:.1%} of them the row's solution"


def main() -> int:
    """Print the table; return 1 if an answer was misjudged or a row is bad."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, help="at most N rows of each file")
    options = parser.parse_args()
    sandbox = Sandbox(timeout_seconds=60.0, memory_megabytes=512)
    judges = {
        "math": is_right_mathematics,
        "choice": is_right_choice,
        "code": lambda answer, reference: bool(sandbox.check(answer, reference).right),
    }
    print(HEADER, "|---" * 8 + "|", sep="\n")
    num_faults = 0
    sizes: list[str] = []
    for name, fields in FILES.items():
        path = options.folder / name
        if not path.exists():
            continue
        began = time.monotonic()
        prompts, bad = load_rows(path, fields, options.rows)
        tally = judge_rows(fields["verifier"], prompts, judges[fields["verifier"]])
        num_faults += bad + tally.right_refused + tally.wrong_taken
        cells = (len(prompts), bad, tally.right, tally.right_refused, tally.wrong, tally.wrong_taken)
        print(f"| {name} | {' | '.join(map(str, cells))} | {time.monotonic() - began:.0f} |", flush=True)
        if fields["verifier"] == "code":
            sizes.append(describe_sizes(name, prompts))
    print(*sizes, sep="\n")
    return 1 if num_faults else 0


if __name__ == "__main__":
    sys.exit(main())
