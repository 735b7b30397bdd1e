# ruff: noqa: E501  # rows of data sets
"""Made rows in the shapes of published data sets, with the spec that a user writes for them. Tests iterate over them.

`right` are answers that must be right beside those that are built from the reference; `wrong` must be wrong beside the
empty one. `prompt` is the text of the last user's turn; with `...` at its end, its beginning.
"""

import base64
import json
import pickle
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PublicSet:
    """A published data set: its rows, and what must come of the first one."""

    name: str
    fields: dict[str, Any]  # of `data.train`, without the source
    rows: Sequence[Any]
    prompt: str
    right: Sequence[str] = ()
    wrong: Sequence[str] = ()
    packages: Sequence[str] = field(default=())  # `reward.packages`
    files: Sequence[str] = ("jsonl", "parquet")


def math(name: str, fields: Mapping[str, Any], *rows: Any, **rest: Any) -> PublicSet:
    """A set of the verifier `math`."""
    return PublicSet(name, {"verifier": "math", **fields}, rows, **rest)


def choice(name: str, fields: Mapping[str, Any], *rows: Any, **rest: Any) -> PublicSet:
    """A set of the verifier `choice`."""
    return PublicSet(name, {"verifier": "choice", **fields}, rows, **rest)


def code(name: str, fields: Mapping[str, Any], *rows: Any, **rest: Any) -> PublicSet:
    """A set of the verifier `code`."""
    return PublicSet(name, {"verifier": "code", **fields}, rows, **rest)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def reply(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


P, Q = {"promptField": "problem"}, {"promptField": "question"}
SUM = "What is 2 + 3?"
SUM_SOLUTION = "We add: $2 + 3 = 5$, first \\boxed{4}, no. So the answer is $\\boxed{5}$."
FIVE = {"right": ("So it is \\boxed{5}.", "The answer is 5."), "wrong": ("\\boxed{4}", "6")}
B = {"right": ("B", "The answer is (B).", "\\boxed{b}"), "wrong": ("A", "A or B")}
SUM_PROGRAM = "n = int(input())\nprint(sum(map(int, input().split())))\n"
STDIO = {"inputs": ["3\n1 2 3\n", "1\n5\n"], "outputs": ["6\n", "5\n"]}
ADD = "def add(a, b):\n    return a + b\n"
CASES = [
    {"type": "stdin_stdout", "input": "3\n1 2 3\n", "output": "6\n"},
    {"type": "stdin_stdout", "input": "1\n5\n", "output": "5\n"},
]
LCB_PUBLIC = [{"input": "3\n1 2 3\n", "output": "6\n", "testtype": "stdin"}]
LCB_PRIVATE = base64.b64encode(
    zlib.compress(pickle.dumps(json.dumps([{"input": "1\n5\n", "output": "5\n", "testtype": "stdin"}])))
).decode()
LEETCODE = "class Solution:\n    def add(self, a: int, b: int) -> int:\n        return a + b\n"
LCB_CALLS = base64.b64encode(
    zlib.compress(pickle.dumps(json.dumps([{"input": "2\n3", "output": "5", "testtype": "functional"}])))
).decode()
VERL = {"promptField": "prompt", "answerField": "reward_model.ground_truth"}

PUBLIC_SETS = [
    # mathematics
    math("GSM8K", Q, {"question": SUM, "answer": "2+3=<<2+3=5>>5\n#### 5"}, prompt=SUM, **FIVE),
    math(
        "MATH",
        {**P, "answerField": "solution"},
        {"problem": SUM, "level": "Level 1", "type": "Algebra", "solution": SUM_SOLUTION},
        prompt=SUM,
        **FIVE,
    ),
    math(
        "MATH-500",
        P,
        {"problem": SUM, "solution": SUM_SOLUTION, "answer": "5", "subject": "Algebra", "level": 1, "unique_id": "t/1"},
        prompt=SUM,
        **FIVE,
    ),
    math(
        "AIME 2024",
        P,
        {"id": 60, "problem": SUM, "solution": "...", "answer": "005", "url": "u", "year": "2024"},
        prompt=SUM,
        **FIVE,
    ),
    math("AIME 2025", Q, {"question": SUM, "answer": "5"}, prompt=SUM, **FIVE),
    math("AMC 2023", Q, {"id": 0, "answer": 5.0, "url": "u", "question": SUM}, prompt=SUM, **FIVE),
    math(
        "OlympiadBench",
        {**Q, "answerField": "final_answer"},
        {
            "id": 1,
            "context": None,
            "question": SUM,
            "solution": ["..."],
            "final_answer": ["$5$"],
            "is_multiple_answer": False,
            "unit": None,
            "answer_type": "Numerical",
            "image_1": None,
        },
        prompt=SUM,
        **FIVE,
    ),
    math("Minerva", Q, {"question": SUM, "answer": "5"}, prompt=SUM, **FIVE),
    math(
        "Minerva, solutions",
        {**P, "answerField": "solution"},
        {"problem": SUM, "solution": "Start with \\[ s=2+3=\\boxed{5} \\text{ cm} \\]", "type": "Physics", "idx": 0},
        prompt=SUM,
        **FIVE,
    ),
    math(
        "NuminaMath-CoT",
        {**P, "answerField": "solution"},
        {"source": "olympiads", "problem": SUM, "solution": SUM_SOLUTION, "messages": [user(SUM), reply(SUM_SOLUTION)]},
        prompt=SUM,
        **FIVE,
    ),
    math(
        "NuminaMath-CoT, messages",
        {"promptField": "messages", "answerField": "messages"},
        {"problem": SUM, "messages": [user(SUM), reply(SUM_SOLUTION)]},
        prompt=SUM,
        **FIVE,
    ),
    math(
        "NuminaMath-1.5",
        P,
        {
            "problem": SUM,
            "solution": SUM_SOLUTION,
            "answer": "5",
            "problem_type": "Algebra",
            "question_type": "math-word-problem",
            "problem_is_valid": "Yes",
        },
        prompt=SUM,
        **FIVE,
    ),
    math("DeepScaleR", P, {"problem": SUM, "answer": "\\frac{10}{2}", "solution": "..."}, prompt=SUM, **FIVE),
    math(
        "DAPO-Math-17k",
        VERL,
        {
            "data_source": "math_dapo",
            "prompt": [user(SUM)],
            "ability": "MATH",
            "reward_model": {"ground_truth": "5", "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": "9a9b"},
        },
        prompt=SUM,
        **FIVE,
    ),
    math(
        "verl's GSM8K",
        VERL,
        {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "system", "content": "Be brief."}, user(SUM)],
            "reward_model": {"style": "rule", "ground_truth": "5"},
            "extra_info": {"split": "train", "index": 0, "answer": "#### 5"},
        },
        prompt=SUM,
        **FIVE,
    ),
    math("Polaris", P, {"problem": SUM, "answer": "5", "difficulty": "5/8"}, prompt=SUM, **FIVE),
    math(
        "Skywork-OR1, math",
        VERL,
        {
            "data_source": "train-math-deepscaler",
            "prompt": [user(SUM)],
            "ability": "math",
            "reward_model": {"ground_truth": '["5"]', "style": "rule"},
            "extra_info": {"index": 0},
        },
        prompt=SUM,
        **FIVE,
    ),
    math(
        "OpenR1-Math",
        P,
        {
            "problem": SUM,
            "solution": SUM_SOLUTION,
            "answer": "5",
            "messages": [user(SUM), reply("<think>5</think>5")],
            "correctness_math_verify": [True],
        },
        prompt=SUM,
        **FIVE,
    ),
    math(
        "Big-Math",
        P,
        {"problem": SUM, "answer": "$5$", "source": "orca_math", "domain": ["Algebra"], "llama8b_solve_rate": 0.9},
        prompt=SUM,
        **FIVE,
    ),
    math(
        "Open-Reasoner-Zero, lists",
        {"promptField": "0.value", "answerField": "1.ground_truth.value"},
        [{"from": "human", "value": SUM}, {"from": "assistant", "ground_truth": {"value": "5"}}],
        prompt=SUM,
        files=("jsonl",),
        **FIVE,
    ),
    math(
        "Open-Reasoner-Zero, columns",
        {"promptField": "0.value", "answerField": "1.ground_truth.value"},
        {"0": {"from": "human", "value": SUM}, "1": {"from": "assistant", "ground_truth": {"value": "5"}}},
        prompt=SUM,
        **FIVE,
    ),
    math(
        "ShareGPT",
        {"promptField": "conversations", "answerField": "conversations"},
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": SUM},
                {"from": "gpt", "value": SUM_SOLUTION},
            ]
        },
        prompt=SUM,
        **FIVE,
    ),
    math(
        "ShareGPT, answer in a column",
        {"promptField": "conversations"},
        {
            "conversations": [
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Hello"},
                {"from": "human", "value": SUM},
            ],
            "answer": "5",
        },
        prompt=SUM,
        **FIVE,
    ),
    math(
        "Eurus-2-RL, math rows",
        {**VERL, "where": {"ability": "math"}},
        {
            "data_source": "code",
            "prompt": [user("Write add.")],
            "ability": "code",
            "reward_model": {"ground_truth": "{}", "style": "rule"},
        },
        {
            "data_source": "numina",
            "prompt": [{"role": "system", "content": "Think."}, user(SUM)],
            "ability": "math",
            "reward_model": {"ground_truth": "5", "style": "rule"},
        },
        prompt=SUM,
        **FIVE,
    ),
    math(
        "Tulu RLVR",
        {"promptField": "messages", "answerField": "ground_truth", "where": {"dataset": "gsm8k"}},
        {"messages": [user(SUM)], "ground_truth": "5", "dataset": "gsm8k", "constraint_type": None},
        {
            "messages": [user("No commas.")],
            "ground_truth": '{"func_name": "validate_no_commas"}',
            "dataset": "ifeval",
            "constraint_type": "x",
        },
        prompt=SUM,
        **FIVE,
    ),
    math(
        "SYNTHETIC-1, math",
        {"answerField": "verification_info.ground_truth"},
        {
            "task_type": "verifiable_math",
            "prompt": SUM,
            "gold_standard_solution": SUM_SOLUTION,
            "verification_info": "{'ground_truth': '5'}",
        },
        prompt=SUM,
        **FIVE,
    ),
    math(
        "OpenMathReasoning",
        {**P, "answerField": "expected_answer"},
        {"problem": SUM, "expected_answer": "5", "problem_type": "has_answer_extracted", "pass_rate_72b_tir": "0.9"},
        prompt=SUM,
        **FIVE,
    ),
    math(
        "OpenRLHF",
        {"promptField": "input", "answerField": "label"},
        {"input": SUM, "label": "5", "datasource": "math"},
        prompt=SUM,
        **FIVE,
    ),
    math(
        "MetaMathQA",
        {"promptField": "query", "answerField": "response"},
        {"query": SUM, "response": "Adding 2 and 3 gives 5.\n#### 5\nThe answer is: 5", "type": "GSM_Rephrased"},
        prompt=SUM,
        **FIVE,
    ),
    math(
        "SVAMP",
        {"promptField": "{Body} {Question}", "answerField": "Answer"},
        {"Body": "He has 2 figs and 3 nuts.", "Question": "How many things?", "Answer": 5.0},
        prompt="He has 2 figs and 3 nuts. How many things?",
        **FIVE,
    ),
    math(
        "ASDiv",
        {"promptField": "{body} {question}"},
        {
            "body": "Two red and three green.",
            "question": "How many apples?",
            "answer": "5 (apples)",
            "formula": "2+3=5",
        },
        prompt="Two red and three green. How many apples?",
        **FIVE,
    ),
    math(
        "MAWPS",
        {"promptField": "input", "answerField": "target"},
        {"input": SUM, "target": 5.0, "type": "addsub"},
        prompt=SUM,
        **FIVE,
    ),
    math(
        "TheoremQA",
        {"promptField": "Question", "answerField": "Answer"},
        {"Question": SUM, "Answer": "5", "Answer_type": "integer", "Picture": None},
        prompt=SUM,
        **FIVE,
    ),
    math(
        "BoolQ",
        {"promptField": "{passage}\n{question}?"},
        {"question": "is the sky blue", "passage": "It is.", "answer": True},
        {"question": "is it red", "passage": "It is.", "answer": False},
        prompt="It is.\nis the sky blue?",
        right=("Yes.", "The answer is \\boxed{True}."),
        wrong=("No.", "false"),
    ),
    # multiple choice
    choice(
        "ARC",
        {**Q, "optionsField": "choices", "answerField": "answerKey"},
        {"id": "1", "question": "Which?", "choices": {"text": ["cat", "dog"], "label": ["A", "B"]}, "answerKey": "B"},
        prompt="Which?\nA) cat\nB) dog",
        **B,
    ),
    choice(
        "ARC, numbers",
        {**Q, "optionsField": "choices", "answerField": "answerKey"},
        {"id": "1", "question": "Which?", "choices": {"text": ["cat", "dog"], "label": ["1", "2"]}, "answerKey": "2"},
        prompt="Which?\nA) cat\nB) dog",
        **B,
    ),
    choice(
        "MMLU",
        {**Q, "optionsField": "choices"},
        {"question": "Degree?", "subject": "algebra", "choices": ["2", "1", "0"], "answer": 1},
        {"question": "Which?", "subject": "algebra", "choices": ["cat", "dog", "eel"], "answer": 0},
        prompt="Degree?\nA) 2\nB) 1\nC) 0",
        **B,
    ),
    choice(
        "MMLU-Pro",
        {**Q, "optionsField": "options"},
        {
            "question_id": 1,
            "question": "Which?",
            "options": ["cat", "dog", "eel"],
            "answer": "B",
            "answer_index": 1,
            "category": "law",
        },
        prompt="Which?\nA) cat\nB) dog\nC) eel",
        **B,
    ),
    choice(
        "CommonsenseQA",
        {**Q, "optionsField": "choices", "answerField": "answerKey"},
        {
            "id": "1",
            "question": "Which?",
            "question_concept": "x",
            "choices": {"label": ["A", "B"], "text": ["cat", "dog"]},
            "answerKey": "B",
        },
        prompt="Which?\nA) cat\nB) dog",
        **B,
    ),
    choice(
        "OpenBookQA",
        {"promptField": "question_stem", "optionsField": "choices", "answerField": "answerKey"},
        {
            "id": "1",
            "question_stem": "Which?",
            "choices": {"text": ["cat", "dog"], "label": ["A", "B"]},
            "answerKey": "B",
        },
        prompt="Which?\nA) cat\nB) dog",
        **B,
    ),
    choice(
        "WinoGrande",
        {"promptField": "sentence", "optionsField": "{option1}{option2}"},
        {"sentence": "_ barks.", "option1": "The cat", "option2": "The dog", "answer": "2"},
        {"sentence": "_ meows.", "option1": "The cat", "option2": "The dog", "answer": "1"},
        prompt="_ barks.\nA) The cat\nB) The dog",
        **B,
    ),
    choice(
        "HellaSwag",
        {"promptField": "ctx", "optionsField": "endings", "answerField": "label"},
        {"ind": 1, "ctx": "The dog", "endings": ["meows", "barks", "sings", "flies"], "label": "1"},
        {"ind": 2, "ctx": "The cat", "endings": ["meows", "barks", "sings", "flies"], "label": "0"},
        prompt="The dog\nA) meows\nB) barks\nC) sings\nD) flies",
        **B,
    ),
    choice(
        "PIQA",
        {"promptField": "goal", "optionsField": "{sol1}{sol2}", "answerField": "label"},
        {"goal": "Boil water", "sol1": "freeze it", "sol2": "heat it", "label": 1},
        {"goal": "Freeze it", "sol1": "cool it", "sol2": "heat it", "label": 0},
        prompt="Boil water\nA) freeze it\nB) heat it",
        **B,
    ),
    choice(
        "Social IQa",
        {"promptField": "{context} {question}", "optionsField": "{answerA}{answerB}{answerC}", "answerField": "label"},
        {"context": "Al ran.", "question": "Why?", "answerA": "rest", "answerB": "fun", "answerC": "war", "label": "2"},
        {"context": "Al sat.", "question": "Why?", "answerA": "war", "answerB": "fun", "answerC": "rest", "label": "3"},
        prompt="Al ran. Why?\nA) rest\nB) fun\nC) war",
        **B,
    ),
    choice(
        "RACE",
        {"promptField": "{article}\n{question}", "optionsField": "options"},
        {"article": "A dog.", "question": "What is it?", "options": ["cat", "dog"], "answer": "B"},
        prompt="A dog.\nWhat is it?\nA) cat\nB) dog",
        **B,
    ),
    choice(
        "AQuA",
        {**Q, "optionsField": "options", "answerField": "correct"},
        {"question": "Speed?", "options": ["A)21", "B)21.5", "C)22"], "rationale": "r", "correct": "B"},
        prompt="Speed?\nA)21\nB)21.5\nC)22",
        **B,
    ),
    choice(
        "MathQA",
        {"promptField": "Problem", "optionsField": "options", "answerField": "correct"},
        {"Problem": "Speed?", "options": "a ) 21 , b ) 21.5 , c ) none of these", "correct": "b"},
        prompt="Speed?\nA) 21\nB) 21.5\nC) none of these",
        **B,
    ),
    choice(
        "SAT math",
        {**Q, "optionsField": "options", "answerField": "Answer"},
        {"id": "0", "question": "Roots?", "options": "A) $f(-6)=0$ B) $f(6)=-6$ C) none", "Answer": "B"},
        prompt="Roots?\nA) $f(-6)=0$\nB) $f(6)=-6$\nC) none",
        **B,
    ),
    choice(
        "MedQA",
        {**Q, "optionsField": "options", "answerField": "answer_idx"},
        {"question": "Which?", "answer": "dog", "options": {"A": "cat", "B": "dog"}, "answer_idx": "B"},
        {"question": "Which one?", "answer": "cat", "options": {"A": "cat", "B": "dog", "C": "eel"}, "answer_idx": "A"},
        prompt="Which?\nA) cat\nB) dog",
        **B,
    ),
    choice(
        "MedMCQA",
        {**Q, "optionsField": "{opa}{opb}{opc}{opd}", "answerField": "cop"},
        {"question": "Which?", "opa": "cat", "opb": "dog", "opc": "eel", "opd": "fox", "cop": 1},
        {"question": "Which?!", "opa": "cat", "opb": "dog", "opc": "eel", "opd": "fox", "cop": 0},
        prompt="Which?\nA) cat\nB) dog\nC) eel\nD) fox",
        **B,
    ),
    choice(
        "C-Eval",
        {**Q, "optionsField": "{A}{B}{C}{D}"},
        {"id": 0, "question": "Which?", "A": "cat", "B": "dog", "C": "eel", "D": "fox", "answer": "B"},
        prompt="Which?\nA) cat\nB) dog\nC) eel\nD) fox",
        **B,
    ),
    choice(
        "QuALITY",
        {**Q, "optionsField": "options", "answerField": "gold_label"},
        {"question": "Which?", "options": ["cat", "dog", "eel", "fox"], "gold_label": 2},
        {"question": "Which one?", "options": ["cat", "dog", "eel", "fox"], "gold_label": 4},
        prompt="Which?\nA) cat\nB) dog\nC) eel\nD) fox",
        **B,
    ),
    choice(
        "GPQA",
        {
            "promptField": "Question",
            "optionsField": "{Correct Answer}{Incorrect Answer 1}{Incorrect Answer 2}{Incorrect Answer 3}",
            "answerField": "Correct Answer",
        },
        {
            "Question": "Which?",
            "Correct Answer": "dog",
            "Incorrect Answer 1": "cat",
            "Incorrect Answer 2": "eel",
            "Incorrect Answer 3": "fox",
        },
        prompt="Which?\nA) ...",
        right=("dog",),
        wrong=("cat", "fox"),
    ),
    choice(
        "SciQ",
        {
            **Q,
            "optionsField": "{correct_answer}{distractor1}{distractor2}{distractor3}",
            "answerField": "correct_answer",
        },
        {
            "question": "Which?",
            "correct_answer": "dog",
            "distractor1": "cat",
            "distractor2": "eel",
            "distractor3": "fox",
            "support": "s",
        },
        prompt="Which?\nA) ...",
        right=("dog",),
        wrong=("cat", "fox"),
    ),
    choice(
        "TruthfulQA",
        {**Q, "optionsField": "mc1_targets.choices", "answerField": "mc1_targets.labels", "shuffleOptions": True},
        {"question": "Which?", "mc1_targets": {"choices": ["dog", "cat", "eel"], "labels": [1, 0, 0]}},
        prompt="Which?\nA) ...",
        right=("dog",),
        wrong=("cat", "eel"),
    ),
    choice(
        "SuperGPQA",
        {**Q, "optionsField": "options", "answerField": "answer_letter"},
        {"uuid": "u", "question": "Which?", "options": ["cat", "dog", "eel"], "answer": "dog", "answer_letter": "B"},
        prompt="Which?\nA) cat\nB) dog\nC) eel",
        **B,
    ),
    choice(
        "options in the question",
        Q,
        {"question": "Which?\n\nA. cat\nB. dog", "answer": "b"},
        prompt="Which?\n\nA. cat\nB. dog",
        **B,
    ),
    # code
    code(
        "HumanEval",
        {"answerField": "test"},
        {
            "task_id": "HumanEval/0",
            "prompt": "def add(a, b):\n",
            "canonical_solution": "    return a + b\n",
            "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
            "entry_point": "add",
        },
        prompt="def add(a, b):\n",
    ),
    code(
        "MBPP",
        {"promptField": "text", "answerField": "test_list"},
        {
            "task_id": 1,
            "text": "Add.",
            "code": ADD,
            "test_list": ["assert add(1, 2) == 3", "assert add(2, 2) == 4"],
            "test_setup_code": "",
            "challenge_test_list": [],
        },
        prompt="Add.",
    ),
    code(
        "MBPP+",
        {"answerField": "test"},
        {
            "task_id": 2,
            "prompt": "Add.",
            "code": ADD,
            "test_imports": [],
            "test_list": ["assert add(1, 2) == 3"],
            "test": "import numpy as np\n\ndef is_floats(x) -> bool:\n    if isinstance(x, float):\n        return True\n    if isinstance(x, (list, tuple)) and x:\n        return all(isinstance(i, float) for i in x)\n    if isinstance(x, np.ndarray):\n        return x.dtype == np.float64 or x.dtype == np.float32\n    return False\n\ndef assertion(out, exp, atol):\n    exact_match = out == exp\n    if atol == 0 and is_floats(exp):\n        atol = 1e-6\n    if not exact_match and atol != 0:\n        assert np.allclose(out, exp, rtol=1e-07, atol=atol)\n    else:\n        assert exact_match, f'out: {out}, exp: {exp}'\n\ninputs = [[1, 2], [0.1, 0.2]]\nresults = [3, 0.3]\nfor i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion(add(*inp), exp, 0)\n",
        },
        prompt="Add.",
        packages=("numpy",),
    ),
    code(
        "BigCodeBench",
        {"promptField": "instruct_prompt", "answerField": "test"},
        {
            "task_id": "BigCodeBench/0",
            "complete_prompt": 'import math\ndef task_func(a, b):\n    """Add."""\n',
            "instruct_prompt": "Add two numbers.",
            "canonical_solution": "    return a + b\n",
            "test": "import unittest\nclass TestCases(unittest.TestCase):\n    def test_case_1(self):\n        self.assertEqual(task_func(1, 2), 3)\n",
            "entry_point": "task_func",
            "libs": "['math']",
        },
        prompt="Add two numbers.",
    ),
    code(
        "APPS",
        {**Q, "answerField": "input_output"},
        {
            "problem_id": 0,
            "question": "Sum.",
            "solutions": json.dumps(["print 5\n", SUM_PROGRAM]),
            "input_output": json.dumps(STDIO),
            "difficulty": "interview",
            "starter_code": "",
        },
        prompt="Sum.",
    ),
    code(
        "TACO",
        {**Q, "answerField": "input_output"},
        {
            "question": "Sum.",
            "solutions": json.dumps([SUM_PROGRAM]),
            "input_output": json.dumps({**STDIO, "fn_name": None}),
            "difficulty": "EASY",
            "starter_code": "",
        },
        prompt="Sum.",
    ),
    code(
        "CodeContests",
        {"promptField": "description", "answerField": "{public_tests}{private_tests}{generated_tests}"},
        {
            "name": "sum",
            "description": "Sum.",
            "public_tests": {"input": ["3\n1 2 3\n"], "output": ["6\n"]},
            "private_tests": {"input": ["1\n5\n"], "output": ["5\n"]},
            "generated_tests": {"input": [], "output": []},
            "solutions": {"language": [2, 3], "solution": ["int main(){}", SUM_PROGRAM]},
        },
        prompt="Sum.",
    ),
    code(
        "DeepCoder, primeintellect",
        {"promptField": "problem", "answerField": "tests"},
        {"problem": "Sum.", "solutions": [f"```python\n{SUM_PROGRAM}```"], "tests": json.dumps(CASES)},
        prompt="Sum.",
    ),
    code(
        "SYNTHETIC-1, code",
        {"answerField": "verification_info"},
        {
            "prompt": "Sum.",
            "gold_standard_solution": f"```python\n{SUM_PROGRAM}```",
            "verification_info": json.dumps({"language": "python", "test_cases": CASES}),
        },
        prompt="Sum.",
    ),
    code(
        "Eurus-2-RL, code rows",
        {**VERL, "where": {"ability": "code"}},
        {
            "prompt": [user("Sum.")],
            "ability": "code",
            "reward_model": {"ground_truth": json.dumps(STDIO), "style": "rule"},
        },
        {"prompt": [user(SUM)], "ability": "math", "reward_model": {"ground_truth": "5", "style": "rule"}},
        prompt="Sum.",
        right=(SUM_PROGRAM,),
    ),
    code(
        "LiveCodeBench, standard input",
        {"promptField": "question_content", "answerField": "{public_test_cases}{private_test_cases}"},
        {
            "question_title": "S",
            "question_content": "Sum.",
            "platform": "atcoder",
            "starter_code": "",
            "public_test_cases": json.dumps(LCB_PUBLIC),
            "private_test_cases": LCB_PRIVATE,
            "metadata": "{}",
        },
        prompt="Sum.",
        right=(f"```python\n{SUM_PROGRAM}```",),
        wrong=("```python\nprint(6)\n```",),
    ),
    code(
        "LiveCodeBench, a method",
        {"promptField": "{question_content}\n{starter_code}", "answerField": "private_test_cases"},
        {
            "question_content": "Sum.",
            "platform": "leetcode",
            "starter_code": "class Solution:",
            "public_test_cases": "[]",
            "private_test_cases": LCB_CALLS,
            "metadata": json.dumps({"func_name": "add"}),
        },
        prompt="Sum.\nclass Solution:",
        right=(LEETCODE,),
    ),
    code(
        "LeetCodeDataset",
        {"promptField": "query", "answerField": "test"},
        {
            "task_id": "add",
            "query": "Add.",
            "prompt": "from typing import *\n",
            "completion": LEETCODE,
            "entry_point": "Solution().add",
            "test": "def check(candidate):\n    assert candidate(a = 2, b = 3) == 5\n",
            "input_output": [{"input": "a = 2, b = 3", "output": "5"}],
        },
        prompt="Add.",
    ),
    code(
        "Skywork-OR1, code",
        VERL,
        {
            "data_source": "train-code-leetcode",
            "prompt": [user("Add.")],
            "ability": "code",
            "reward_model": {
                "style": "rule",
                "ground_truth": json.dumps(
                    {
                        "entry_point": "Solution().add",
                        "import_prefix": "from typing import *\n",
                        "test_code": "def check(candidate):\n    assert candidate(a = 2, b = 3) == 5\n",
                    }
                ),
            },
        },
        prompt="Add.",
        right=(LEETCODE,),
    ),
    code(
        "KodCode",
        {**Q, "answerField": "test"},
        {
            "question_id": "x",
            "question": "Add.",
            "solution": ADD,
            "test": "from solution import add\n\ndef test_add():\n    assert add(1, 2) == 3\n",
            "style": "instruct",
        },
        prompt="Add.",
    ),
]
