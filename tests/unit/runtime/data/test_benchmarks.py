"""Every benchmark's row, as its data set is published, through the reading of rows that runs use."""

import json

import pytest

from scalerl_api import parse_run
from scalerl_api.benchmarks import BENCHMARKS
from scalerl_runtime.data.datasets import LoadingContext, load_prompts
from scalerl_runtime.data.rows import Row, bind_verifiers, parse_row
from scalerl_runtime.data.scratch_model import build_tokenizer
from scalerl_runtime.rewards.references import build_reference

LISTED = {"text": ["coal", "sunlight", "wind"], "label": ["A", "B", "C"]}
LINES = "A) {}\nB) {}\nC) {}"
# An invented record in the columns of the published data set; the prompt; the answer, unless it is a program's test.
RECORDS = {
    "gsm8k": ({"question": "Two and two?", "answer": "It is 2+2=<<2+2=4>>4.\n#### 4"}, "Two and two?", None),
    "math-500": (
        {"problem": "Half?", "solution": "...", "answer": "\\frac{1}{2}", "subject": "Algebra", "level": 1},
        "Half?",
        "\\frac{1}{2}",
    ),
    "aime-24": (
        {"id": 60, "problem": "Minutes?", "solution": "...", "answer": "204", "year": "2024"},
        "Minutes?",
        "204",
    ),
    "aime-25": ({"problem": "Sum of bases?", "answer": "70", "id": "0"}, "Sum of bases?", "70"),
    "amc-23": ({"id": 0, "answer": 27.0, "url": "u", "question": "Miles?"}, "Miles?", "27"),
    "olympiadbench": (
        {"id": 1606, "context": None, "question": "Moves?", "solution": ["..."], "final_answer": ["$2$"], "unit": None},
        "Moves?",
        "2",
    ),
    "svamp": (
        {
            "ID": "chal-1",
            "Body": "There are 6 figs.",
            "Question": "How many is half?",
            "Answer": "3.0",
            "Type": "Division",
        },
        "There are 6 figs. How many is half?",
        "3.0",
    ),
    "aqua": (
        {"question": "Speed?", "options": ["A)21", "B)21.5", "C)22"], "rationale": "...", "correct": "B"},
        "Speed?\nA)21\nB)21.5\nC)22",
        "B",
    ),
    "arc-easy": (
        {"id": "x", "question": "Which is renewable at night?", "choices": LISTED, "answerKey": "C"},
        "Which is renewable at night?\n" + LINES.format("coal", "sunlight", "wind"),
        "C",
    ),
    "arc-challenge": (
        {"id": "x", "question": "Which?", "choices": {**LISTED, "label": ["1", "2", "3"]}, "answerKey": "2"},
        "Which?\n" + LINES.format("coal", "sunlight", "wind"),
        "B",
    ),
    "mmlu": (
        {"question": "Degree?", "subject": "algebra", "choices": ["0", "4", "2"], "answer": 1},
        "Degree?\n" + LINES.format("0", "4", "2"),
        "B",
    ),
    "mmlu-pro": (
        {"question": "Which?", "options": ["coal", "sunlight", "wind"], "answer": "B", "answer_index": 1},
        "Which?\n" + LINES.format("coal", "sunlight", "wind"),
        "B",
    ),
    "gpqa-diamond": (
        {
            "Question": "Which?",
            "Correct Answer": "wind",
            "Incorrect Answer 1": "coal",
            "Incorrect Answer 2": "oil",
            "Incorrect Answer 3": "gas",
        },
        "Which?\nA) gas\nB) wind\nC) oil\nD) coal",
        "B",
    ),
    "winogrande": (
        {"sentence": "_ barks.", "option1": "The cat", "option2": "The dog", "answer": "1"},
        "_ barks.\nWhich option fits in place of the underscore?\nA) The cat\nB) The dog",
        "A",
    ),
    "humaneval-plus": (
        {
            "task_id": "HumanEval/0",
            "prompt": "def add(a, b):\n",
            "canonical_solution": "    return a + b\n",
            "test": "def check(candidate):\n    for i, e in zip([[1, 2]], [3]):\n        assert candidate(*i) == e\n",
            "entry_point": "add",
        },
        "def add(a, b):\n",
        None,
    ),
    "mbpp": (
        {
            "source_file": "a.ipynb",
            "task_id": 2,
            "prompt": "Write a function that adds.",
            "code": "def add(a, b): return a + b",
            "test_imports": [],
            "test_list": ["assert add(1, 2) == 3", "assert add(2, 2) == 4"],
        },
        "Write a function that adds.\nThe function must pass this test: assert add(1, 2) == 3",
        None,
    ),
    "humaneval": (
        {
            "task_id": "HumanEval/0",
            "prompt": "def add(a, b):\n",
            "canonical_solution": "    return a + b\n",
            "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
            "entry_point": "add",
        },
        "def add(a, b):\n",
        None,
    ),
}


def make_run(name, **fields):
    return parse_run(
        {
            "metadata": {"name": "r"},
            "spec": {
                "model": {"source": "some/model"},
                "data": {
                    "promptFormat": "plain",
                    "train": {"source": "d.jsonl"},
                    "downstream": [{"name": "test", "benchmark": name, **fields}],
                },
                "reward": {"verifier": "math"},
                "budget": {"steps": 500},
            },
        }
    )


def test_every_benchmark_has_a_record():
    assert set(RECORDS) == set(BENCHMARKS)


@pytest.mark.parametrize("name", RECORDS)
def test_a_published_row_is_read(name):
    record, prompt, answer = RECORDS[name]
    run = make_run(name)
    (spec,) = run.spec.data.downstream
    verifiers = [each.verifier for each in run.spec.judges_of(spec)]
    row = parse_row(record, spec, bind_verifiers(build_reference, verifiers), index=0, where="row")
    assert isinstance(row, Row), row
    assert row.prompt == prompt
    found = json.loads(row.answer)["label"] if verifiers == ["choice"] else row.answer
    assert answer is None or found == answer
    assert spec.samples_per_prompt, "a benchmark has its number of completions"


def test_the_final_answer_of_gsm8k_is_its_reference():
    (spec,) = make_run("gsm8k").spec.data.downstream
    row = parse_row(RECORDS["gsm8k"][0], spec, bind_verifiers(build_reference, ["math"]), index=0, where="row")
    assert row.answer.endswith("4")


@pytest.mark.parametrize(
    ("entry", "samples"),
    [
        ({}, 32),
        ({"temperature": 0.6}, 32),
        ({"temperature": 0}, 1),
        ({"temperature": 0.0, "samplesPerPrompt": 4}, 4),
    ],
)
def test_one_completion_at_temperature_0_unless_more_are_asked_for(entry, samples):
    (spec,) = make_run("aime-24", **entry).spec.data.downstream
    assert spec.count_samples(held_out=16) == samples
    own = make_run("aime-24", benchmark=None, source="a.jsonl", **entry).spec.data.downstream[0]
    assert own.count_samples(held_out=16) == {32: 16}.get(samples, samples)


def test_a_benchmark_is_read_from_a_file_of_one_s_own(tmp_path):
    """Without network: the file takes the place of the hub's data set, the columns stay."""
    path = tmp_path / "svamp.jsonl"
    path.write_text(json.dumps(RECORDS["svamp"][0]))
    run = make_run("svamp", source=str(path), samplesPerPrompt=4)
    (spec,) = run.spec.data.downstream
    assert (spec.samples_per_prompt, spec.answer_field) == (4, "Answer")
    context = LoadingContext(run, run.spec.resolved_recipe(), build_tokenizer(512), None, build_reference)
    loaded = load_prompts(context, "spec.data.downstream[0]", spec, 0)
    (prompt,), bad = loaded.prompts, loaded.bad_rows
    assert (prompt.question, prompt.source, bad) == ("There are 6 figs. How many is half?", "test", [])
