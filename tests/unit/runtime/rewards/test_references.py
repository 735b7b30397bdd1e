import json

import pytest

from scalerl_runtime.rewards.references import build_reference


@pytest.mark.parametrize(
    ("verifier", "value", "reference", "rule"),
    [
        ("math", "18", "18", "text"),
        ("math", 18, "18", "an integer"),
        ("math", 18.0, "18", "a column with a gap holds floats"),
        ("math", 0.25, "0.25", "a decimal"),
        ("math", ["34"], "34", "a list of one"),
        ("math", ["1/2", "0.5"], '{"any_of": ["1/2", "0.5"]}', "strings are several acceptable answers"),
        ("choice", "b", "B", "a letter"),
        ("choice", "(C)", "C", "a letter in parentheses"),
        ("choice", "D) 12", "D", "a letter with its option"),
        ("choice", "3", "3", "a numbered option"),
        ("python:my.module:grade", {"low": 1, "high": 2.5}, '{"low": 1, "high": 2.5}', "a structure as JSON"),
        ("http:judge", "any text", "any text", "text for a judge is not changed"),
        ("env:my.module:Game", 3.0, "3", "a number"),
    ],
)
def test_reference_of_a_value(verifier, value, reference, rule):
    assert build_reference(verifier, {}, value) == reference, rule


@pytest.mark.parametrize(
    ("verifier", "value", "words"),
    [
        ("math", float("nan"), "nan is no finite number"),
        ("math", None, "neither text nor a number"),
        ("math", " ", "empty"),
        ("math", True, "neither text nor a number"),
        ("math", {"a": 1}, "neither text nor a number"),
        ("math", [1, 2], "several acceptable answers or one list"),
        ("math", [], "several acceptable answers or one list"),
        ("choice", "Both of them", "no label of an option"),
        ("choice", 2, "position from 0, but the row lists no `options`"),
        ("choice", None, "no label of an option"),
        ("python:my.module:grade", None, "missing"),
        ("python:my.module:grade", float("nan"), "cannot be written as JSON"),
        ("http:judge", "  ", "empty"),
    ],
)
def test_values_that_are_no_reference(verifier, value, words):
    with pytest.raises(ValueError, match=words):
        build_reference(verifier, {}, value)


@pytest.mark.parametrize(
    ("record", "value", "label", "options", "rule"),
    [
        ({"options": ["A)5", "B)6"]}, "B", "B", {"A": "5", "B": "6"}, "AQuA: options that hold their labels"),
        ({"choices": ["five", "six"]}, 1, "B", {"A": "five", "B": "six"}, "MMLU: a position"),
        ({"choices": {"text": ["x", "y"], "label": ["1", "2"]}}, "2", "2", {"1": "x", "2": "y"}, "ARC: numbered"),
        ({"options": {"A": "x", "B": "y"}}, "B", "B", {"A": "x", "B": "y"}, "MedQA: a mapping"),
        ({"options": ["Paris", "Rome"]}, "Rome", "B", {"A": "Paris", "B": "Rome"}, "the option's text"),
    ],
)
def test_choice_with_the_rows_options(record, value, label, options, rule):
    assert json.loads(build_reference("choice", record, value)) == {"label": label, "options": options}, rule


def test_a_label_that_no_option_has_is_refused():
    with pytest.raises(ValueError, match="E is none of the options A, B"):
        build_reference("choice", {"options": ["x", "y"]}, "E")
