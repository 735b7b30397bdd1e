import math
from decimal import Decimal

import numpy as np
import pytest

from scalerl_runtime.data.columns import BadValue, describe_columns, find_missing, read_value, simplify, spell


@pytest.mark.parametrize(
    ("value", "text", "rule"),
    [
        ("a b", "a b", "a text as it is"),
        (7, "7", "an integer"),
        (-3.0, "-3", "a whole float has no point"),
        (0.5, "0.5", "a fraction"),
        (1e20, "100000000000000000000", "no exponent"),
        (1e-7, "0.0000001", "nor a negative one"),
        (np.int64(4), "4", "numpy's integer"),
        (np.float32(2.5), "2.5", "numpy's float"),
        (Decimal("3.00"), "3", "a decimal of a table"),
        (Decimal("0.250"), "0.25", "with a fraction"),
    ],
)
def test_a_number_has_one_spelling(value, text, rule):
    assert spell(simplify(value), "answer") == text, rule


@pytest.mark.parametrize("value", [float("nan"), np.float64("nan"), Decimal("NaN"), None])
def test_a_gap_of_a_table_is_missing(value):
    assert simplify(value) is None
    with pytest.raises(BadValue, match="a is missing"):
        read_value({"a": value}, "a")


@pytest.mark.parametrize("value", [True, np.bool_(False), math.inf, b"x", {"a": 1}, ["x"]])
def test_what_has_several_spellings_or_none_is_refused(value):
    with pytest.raises(BadValue, match="answer is"):
        spell(simplify(value), "answer")


@pytest.mark.parametrize(
    ("name", "expected", "rule"),
    [
        ("{Body} {Question}", "There are 3. How many?", "columns in order"),
        ("Q: {Question}\n{m.n}", "Q: How many?\n3", "a path, and a number"),
        ("Use {m.list}.", 'Use [3, "b", 0.5].', "a list, as JSON"),
        ("{text.a.0}", "7", "a path into JSON text"),
        ("{python.a}", "8", "and into what Python writes"),
        ("{Empty}{Body}", "There are 3.", "an empty text is text"),
        (r"{Body} \boxed{{}}", r"There are 3. \boxed{}", "doubled braces"),
        ("{odd}", "braces in a name", "a column of this very name"),
    ],
)
def test_a_template_over_columns(name, expected, rule):
    record = {
        "Body": "There are 3.",
        "Question": "How many?",
        "m": {"n": 3.0, "list": [3.0, "b", 0.5]},
        "text": '{"a": [7]}',
        "python": "{'a': 8}",
        "Empty": "",
        "{odd}": "braces in a name",
    }
    assert read_value(record, name) == expected, rule


@pytest.mark.parametrize(
    ("name", "words"),
    [("{Body} {Gone}", "Gone is missing"), ("{list}", r"list\[1\] is \{'a': 1\}"), ("{Body} {gap}", "gap is missing")],
)
def test_a_template_without_a_text_is_a_bad_row(name, words):
    with pytest.raises(BadValue, match=words):
        read_value({"Body": "x", "list": ["a", {"a": 1}], "gap": float("nan")}, name)


RECORDS = [{"Question": "q", "reward": {"truth": 1}}, {"Question": "q", "Body": None}]


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("Question", None),
        ("Body", None),
        ("reward.truth", None),
        ("{Question} {Body}", None),
        ("question", "question"),
        ("{Question} {body}", "body"),
        ("reward.trut", "reward.trut"),
    ],
)
def test_a_column_that_no_row_has_is_found(name, missing):
    assert find_missing(RECORDS, name) == missing


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("question", "did you mean Question?"),
        ("reward.trut", "did you mean reward.truth?"),
        ("zzz", "a column of Question, reward, reward.truth, Body"),
    ],
)
def test_the_columns_are_named(column, words):
    assert words in describe_columns(RECORDS, column)
    assert "mean" not in describe_columns(RECORDS, "zzz")
