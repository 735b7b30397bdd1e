# ruff: noqa: E501  # answers and tests, one a row
import json

import pytest

from scalerl_runtime.data.columns import ColumnValues
from scalerl_runtime.rewards.code_reference import (
    MAX_TESTS,
    build_code_reference,
    do_nothing_programs,
    find_solution,
    parse_code_reference,
)
from scalerl_runtime.rewards.output_match import is_same_output
from scalerl_runtime.rewards.trials import RowTrials, build_trials


@pytest.mark.parametrize(
    ("record", "value", "message"),
    [
        ({}, "6", "asserts nothing"),
        ({}, 6, "'6' is no test of a program"),
        ({}, None, "'None' is no test of a program"),
        ({}, "", "asserts nothing"),
        ({}, "see the appendix, please!", "no test of a program"),
        ({}, "Paris", "asserts nothing"),
        ({}, "def f(x):\n    return x", "asserts nothing"),
        ({}, "assert True", "asserts nothing"),
        ({}, "assert 1 == 1", "asserts nothing"),
        ({}, "x = 3\nassert x == 3", "uses nothing of the program"),
        ({}, "def check(candidate):\n    assert candidate(1) == 2", "the row needs entry_point"),
        ({}, "def verify():\n    assert f(1) == 2", "asserts nothing"),
        ({}, "assert f(1) ==", "no test of a program"),
        ({}, [], "the list of tests is empty"),
        ({}, "[]", "the list of tests is empty"),
        ({}, [1, 2], "tests are a list of '1'"),
        ({}, ["hello", "world"], "asserts nothing"),
        ({}, {"a": 1}, "tests have the keys a; inputs and outputs are needed"),
        ({}, {"inputs": ["1"], "outputs": []}, "as many outputs as inputs"),
        ({}, {"inputs": [], "outputs": []}, "every expected output is empty"),
        ({}, {"inputs": ["1"], "outputs": [" \n"]}, "every expected output is empty"),
        ({}, {"inputs": ["1"], "outputs": [None]}, "an output for every input"),
        ({}, [{"input": "1"}], "an output for every input"),
        ({}, {"fn_name": "f", "inputs": [[1]], "outputs": [None]}, "tests of f expect nothing"),
        ({}, [{"input": "1", "output": "1", "testtype": "functional"}], "whose name is missing"),
        ({}, "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        f(1)\n", "asserts nothing"),
    ],
)
def test_what_is_no_test_is_refused(record, value, message):
    with pytest.raises(ValueError, match=message):
        build_code_reference(record, value)


CHECK = "def check(candidate):\n    assert candidate(1) == 2\n"


@pytest.mark.parametrize(
    ("record", "value", "kind", "names", "rule"),
    [
        ({}, "assert f(1) == g(2)", "tests", ("f", "g"), "free names"),
        ({}, "assert sorted(f(1)) == [math.pi]", "tests", ("f",), "built-in functions and modules are the real ones"),
        ({}, "assert gcd(2, 4) == 2", "tests", ("gcd",), "a standard function may be what is asked for"),
        ({}, "assert f(1) == Counter('a')", "tests", ("f",), "a standard class is the real one"),
        (
            {},
            "from solution import f\ndef test_f():\n    assert f(1) == 2",
            "tests",
            ("f",),
            "imported from the program",
        ),
        ({}, "def test_f():\n    x = f(1)\n    assert x == 2", "tests", ("f",), "local names are none"),
        ({}, "x = [f(i) for i in range(3)]\nassert x == [1]", "tests", ("f",), "names of comprehensions are none"),
        ({"entry_point": "f"}, CHECK, "tests", ("f",), "check(candidate) is called"),
        ({"entry_point": "f"}, CHECK + "check(f)\n", "tests", ("f",), "it calls itself"),
        ({}, json.dumps(json.dumps(["assert f(1) == 2"])), "tests", ("f",), "JSON in JSON"),
        ({}, {"inputs": ["1"], "outputs": ["1"], "fn_name": ""}, "stdio", (), "an empty name of a function is none"),
        ({}, {"inputs": ["1"], "outputs": ["1"], "fn_name": None}, "stdio", (), "nor is null"),
        ({}, [{"input": "1", "output": "1"}], "stdio", (), "a list without types"),
        ({}, {"test_cases": [{"input": "1", "output": "1", "type": "stdin_stdout"}]}, "stdio", (), "SYNTHETIC-1"),
        ({"fn_name": "f"}, [{"input": [1, 2], "output": 3, "type": "function_call"}], "calls", ("f",), "arguments"),
        ({"metadata": {"func_name": "f"}}, [{"input": "1\n2", "output": "3"}], "calls", ("f",), "a line each"),
    ],
)
def test_formats_are_recognised_by_their_form(record, value, kind, names, rule):
    reference = build_code_reference(record, value)
    read = parse_code_reference(reference)
    assert (read.kind, read.wanted_names) == (kind, names), rule
    assert build_code_reference({}, reference) == reference, "a canonical reference stays as it is"
    if kind == "calls":
        assert (read.inputs, read.outputs) == (([1, 2],), (3,)), rule


def test_the_first_tests_count():
    many = {"inputs": [str(i) for i in range(500)], "outputs": [str(i) for i in range(500)]}
    read = parse_code_reference(build_code_reference({}, many))
    assert (len(read.inputs), read.outputs[-1]) == (MAX_TESTS, str(MAX_TESTS - 1))


@pytest.mark.parametrize(
    ("record", "solution", "rule"),
    [
        ({"prompt": "def f():\n", "canonical_solution": "    return 1\n"}, "def f():\n    return 1\n", "HumanEval"),
        (
            {"prompt": "def f():\n", "canonical_solution": "\n    return 1"},
            "def f():\n\n    return 1",
            "an empty line first",
        ),
        ({"code": "def f(): pass"}, "def f(): pass", "MBPP"),
        ({"solutions": json.dumps(["a = 1", "a = 2"])}, "a = 1", "APPS, a list as JSON"),
        ({"solutions": {"language": [1, 3], "solution": ["print 1", "print(1)"]}}, "print(1)", "CodeContests"),
        ({"solution": "", "code": "x = 1"}, "x = 1", "an empty one is none"),
        ({"solutions": []}, None, "none"),
        ({"prompt": "?"}, None, "no such column"),
    ],
)
def test_find_solution(record, solution, rule):
    assert find_solution(record) == solution, rule


def test_a_row_with_a_solution_is_tried_with_it():
    record = {"text": "Square.", "code": "def f(x):\n    return x * x\n"}
    reference = build_code_reference(record, ["assert f(3) == 9"])
    assert parse_code_reference(reference).solution == record["code"]
    assert build_trials("code", reference) == RowTrials((record["code"],), do_nothing_programs(reference))
    assert build_trials("code", build_code_reference({}, ["assert f(3) == 9"])).right == ()


def test_programs_that_do_nothing_define_what_the_tests_need():
    empty, prints, returns = do_nothing_programs(build_code_reference({}, "assert f(1) == 2"))
    namespace: dict[str, object] = {}
    exec(returns, namespace)
    assert (empty, prints) == ("", "print('hello')\n")
    assert (namespace["f"](1, a=2), namespace["Solution"]().f(3)) == (None, None)
    assert do_nothing_programs(build_code_reference({}, {"inputs": ["1"], "outputs": ["1"]})) == (empty, prints)


@pytest.mark.parametrize(
    ("printed", "expected", "same", "rule"),
    [
        ("6", "6\n", True, "an end of line"),
        ("6 \n7\t\n\n", "6\n7", True, "blanks at the ends of lines, empty lines at the end"),
        ("6\r\n7", "6\n7", True, "lines of another system"),
        ("1  2", "1 2", False, "blanks within a line count"),
        (" 6", "6", False, "so do those at the start of a line"),
        ("6\n\n7", "6\n7", False, "and empty lines between"),
        ("0.3333333", "0.33333333", True, "near numbers"),
        ("0.333", "0.33333333", False, "numbers that are not near"),
        ("x 1", "x 1.0", True, "a number without a point for one with it"),
        ("3.0", "3", False, "an integer is exact"),
        ("3.0000001", "3", False, "also by a little"),
        ("nan", "1.0", False, "no number"),
        ("YES", "Yes", False, "letters count"),
        ("", "1", False, "nothing"),
        ("1e-7", "0.0", True, "near zero"),
    ],
)
def test_outputs(printed, expected, same, rule):
    assert is_same_output(printed, expected) is same, rule


A, B = {"input": ["1\n"], "output": ["2\n"]}, [{"input": "3\n", "output": "4\n"}]


@pytest.mark.parametrize("empty", [None, "", "[]", [], {"input": [], "output": []}, {"inputs": [], "outputs": []}])
def test_several_columns_of_tests_are_joined(empty):
    value = ColumnValues(("public", "private", "generated"), (A, B, empty))
    reference = parse_code_reference(build_code_reference({}, value))
    assert (reference.inputs, reference.outputs) == (("1\n", "3\n"), ("2\n", "4\n"))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((A, "assert f(1) == 2"), "of one kind"),
        (("assert f(1) == 2", "assert f(2) == 3"), "of one kind"),
        (([], None), "every column of tests is empty"),
        ((A, "two words"), "no test of a program"),
    ],
)
def test_columns_that_are_no_tests_together_are_a_bad_row(values, words):
    with pytest.raises(ValueError, match=words):
        build_code_reference({}, ColumnValues(("a", "b"), values))


@pytest.mark.parametrize(
    ("record", "expected", "rule"),
    [
        ({"solutions": ["print 5", "print(5)"]}, "print(5)", "the first one in Python 3"),
        ({"solutions": json.dumps(["#include <x>", "print(5)"])}, "print(5)", "of other languages too"),
        ({"solution": "We add both."}, None, "prose"),
        ({"gold_standard_solution": "```python\nprint(5)\n```"}, "```python\nprint(5)\n```", "in a fence"),
        ({"completion": "print(5)"}, "print(5)", "LeetCodeDataset"),
        (
            {"complete_prompt": "def f():\n", "canonical_solution": "    return 1\n"},
            "def f():\n    return 1\n",
            "BigCode",
        ),
        ({"solutions": {"language": [2, 3], "solution": ["int x;", "print(5)"]}}, "print(5)", "CodeContests"),
    ],
)
def test_a_rows_own_solution(record, expected, rule):
    assert find_solution(record) == expected, rule
