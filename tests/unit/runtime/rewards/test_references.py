import json

import pytest

from scalerl_runtime.data.prompts import GeneratedRecord, build_entry_answer
from scalerl_runtime.rewards.reading.choice_answers import is_right_choice
from scalerl_runtime.rewards.reading.generated_answers import is_right_entry
from scalerl_runtime.rewards.reading.math_answers import is_right_mathematics
from scalerl_runtime.rewards.references import WRONG_ANSWERS, build_reference, build_right_answers, describe_reading


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


@pytest.mark.parametrize("value", [r"x \approx 4.2, x \approx 5.5", r"\frac{1}{3} \approx 0.33, 6"])
def test_approximations_in_a_list_stay(value):
    assert build_reference("math", {}, value) == value


@pytest.mark.parametrize(
    ("verifier", "value", "words"),
    [
        ("math", float("nan"), "nan is no finite number"),
        ("math", None, "neither text nor a number"),
        ("math", " ", "empty"),
        ("math", "proof", "refers to an answer and is none"),
        ("math", "notfound", "refers to an answer and is none"),
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


@pytest.mark.parametrize(
    ("value", "reference", "rule"),
    [
        ("She makes 9 * 2 = $<<9*2=18>>18.\n#### 18", "18", "GSM8K's working"),
        ("...\n#### 1,250", "1250", "with a separator of thousands"),
        (r"We have $x=2$, so the result is $\boxed{\frac{3}{4}}$.", r"\frac{3}{4}", "MATH's solution"),
        (r"It is $\boxed{5}$, no, $\boxed{7}$.", "7", "the last of several boxes"),
        ("$18", "18", "dollars"),
        (r"\$18", "18", "dollars in LaTeX"),
        ("$x+1$", "x+1", "a formula between dollars"),
        ("50%", r"50\%", "percent"),
        ("5 cm", "5", "a unit"),
        ("60 miles per hour", "60", "a unit of words"),
        ("3 1/2", r"3\frac{1}{2}", "a mixed number"),
        (r"\text{Monday}", "monday", "text in LaTeX"),
        ("Paris", "paris", "a word is text, not a product of letters"),
        ("infinitely many solutions", "infinitely many solutions", "a few words"),
        ("[1, 2]", "[1, 2]", "a list is not its last element"),
        ("(1, 2]", "(1, 2]", "an interval"),
        (r"\{1, 2\}", r"\{1, 2\}", "a set"),
        ('["34"]', "34", "Skywork's list of one, as text"),
        ("['1/2', '0.5']", '{"any_of": ["1/2", "0.5"]}', "a list of strings, as Python writes it"),
        (1e22, "10000000000000000000000", "a large float that is whole"),
        (1e-7, r"1\times 10^{-7}", "a small float"),
        ("Answer: 12", "12", "an answer with its word"),
    ],
)
def test_math_references_as_published(value, reference, rule):
    built = build_reference("math", {}, value)
    assert built == reference, rule
    assert build_reference("math", {}, built) == built, "a canonical reference stays"


@pytest.mark.parametrize(
    "value",
    [
        "see the appendix",
        "see the appendix, please!",
        "see section 3 of the appendix",
        "Refer to Figure 2",
        "The proof is left to the reader as an exercise",
        "It depends on what the word means to you",
        "there are 3 ways and then 4 more ways to get there",
        "N/A",
        "nan",
        "TODO",
        "{'a': 1}",
        '{"a": 1}',
        "{a: 1}",
        "",
        "$",
        "...",
        "9^{9^{9^9}}",
        "9**9**9**9",
        "1" * 5000,
    ],
)
def test_what_cannot_be_judged_is_a_bad_row(value):
    with pytest.raises(ValueError, match=r"\w"):
        build_reference("math", {}, value)


ENTRY = build_entry_answer(GeneratedRecord("chain_sum", {}, {"question": "12 + 7 =", "answer": "19", "metadata": {}}))
JUDGES = {"math": is_right_mathematics, "choice": is_right_choice, "reasoning_gym": is_right_entry}


@pytest.mark.parametrize(
    ("verifier", "reference"),
    [
        *(
            ("math", each)
            for each in ("18", r"\frac{1}{2}", "[1, 2)", r"\{1,2\}", "Paris", "no solution", "x+1", "2^{10}", "5+7")
        ),
        ("math", '{"any_of": ["1/2", "3"]}'),
        ("choice", "B"),
        ("choice", "3"),
        ("choice", '{"label": "A", "options": {"A": "x", "B": "y"}}'),
        ("reasoning_gym", ENTRY),
    ],
)
def test_right_answers_are_right_and_wrong_ones_wrong(verifier, reference):
    right = build_right_answers(verifier, reference)
    assert right
    assert all(JUDGES[verifier](answer, reference) for answer in right)
    assert not any(JUDGES[verifier](answer, reference) for answer in WRONG_ANSWERS)


def test_verifiers_of_users_have_no_known_right_answer():
    assert build_right_answers("http:judge", "x") == build_right_answers("python:a:b", "x") == ()


@pytest.mark.parametrize(
    ("verifier", "answer", "words"),
    [
        ("math", r"First 3, so \boxed{5}.", "read as '5'"),
        ("math", "It is Monday.", "read as 'monday'"),
        ("math", "", "no answer was found in it"),
        ("choice", "The answer is (b).", "read as option B"),
        ("choice", "A or B", "no option, or several, were found in it"),
        ("reasoning_gym", "I add. <answer>19</answer>", "read as '19'"),
        ("python:a:b", "any", "judged as it is: 'any'"),
    ],
)
def test_how_an_answer_was_read(verifier, answer, words):
    assert describe_reading(verifier, answer) == words
