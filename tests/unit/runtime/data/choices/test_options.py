import pytest

from scalerl_runtime.data.choices.answers import find_letter
from scalerl_runtime.data.choices.options import append_options, read_options
from scalerl_runtime.data.columns import BadValue

PLAIN = ["cat", "dog", "eel"]
ARC = {"text": ["cat", "dog", "eel"], "label": ["1", "2", "3"]}


@pytest.mark.parametrize(
    ("value", "lines", "rule"),
    [
        (PLAIN, ["A) cat", "B) dog", "C) eel"], "a list, as of MMLU"),
        (["A)5", "B) 6"], ["A)5", "B) 6"], "letters of AQuA are kept"),
        (["(a) 5", "(b) 6"], ["(a) 5", "(b) 6"], "in any style"),
        (["A. Lincoln", "Obama"], ["A) A. Lincoln", "B) Obama"], "a name is no letter"),
        (["B) 5", "A) 6"], ["A) B) 5", "B) A) 6"], "nor are letters out of order"),
        (ARC, ["A) cat", "B) dog", "C) eel"], "columns of ARC"),
        ({"A": "cat", "B": "dog"}, ["A) cat", "B) dog"], "by letter, as of MedQA"),
        ([{"label": "A", "text": "cat"}, {"label": "B", "text": "dog"}], ["A) cat", "B) dog"], "a list of objects"),
        ([{"key": "A", "value": "cat"}, {"key": "B", "value": "dog"}], ["A) cat", "B) dog"], "with other names"),
        ('["cat", "dog"]', ["A) cat", "B) dog"], "JSON text, as in a CSV file"),
        ("['cat', 'dog']", ["A) cat", "B) dog"], "as pandas writes it"),
        ([1, 2.0, 0.5], ["A) 1", "B) 2", "C) 0.5"], "numbers"),
        (["cat", "dog", None], ["A) cat", "B) dog"], "a short list of a table"),
    ],
)
def test_options_are_lines_below_the_prompt(value, lines, rule):
    options = read_options({"choices": value}, "choices")
    assert append_options("Which?\n", options) == "\n".join(["Which?", *lines]), rule


def test_options_may_stand_in_columns_of_their_own():
    options = read_options({"opa": "cat", "opb": "dog", "cop": 1}, "{opa}{opb}")
    assert options.lines == ("A) cat", "B) dog")


@pytest.mark.parametrize(
    "value", [[], ["one"], ["x"] * 27, "cat or dog", 7, ["cat", ""], ["cat", ["dog"]], [{"a": 1}, {"a": 2}], None]
)
def test_what_are_no_options_is_a_bad_row(value):
    with pytest.raises(BadValue, match="options"):
        read_options({"options": value}, "options")


@pytest.mark.parametrize(
    ("options", "answer", "letter", "rule"),
    [
        (PLAIN, "B", "B", "a letter"),
        (PLAIN, " b ", "B", "case and blanks"),
        (PLAIN, "(B)", "B", "in brackets"),
        (PLAIN, "C.", "C", "with a point"),
        (PLAIN, "B) dog", "B", "the whole line"),
        (PLAIN, "dog", "B", "its text"),
        (PLAIN, "DOG. ", "B", "its text in other case"),
        (PLAIN, 0, "A", "its position, as of MMLU"),
        (PLAIN, 2.0, "C", "a float of a table"),
        (PLAIN, "1", "B", "a position in a CSV file"),
        (PLAIN, ["dog"], "B", "a list of one"),
        (ARC, "1", "A", "ARC's own label"),
        (ARC, 3, "C", "as a number"),
        (["A)5", "B)6"], "A", "A", "AQuA"),
        (["A)5", "B)6"], "6", "B", "the text behind the letter"),
        ([10, 20, 30], 20, "B", "a number that is the text"),
        (["3", "1", "2"], "2", "C", "a text goes before a position"),
        ({"A": "B", "B": "A"}, "A", "A", "the data set's own letters go first"),
    ],
)
def test_the_answer_becomes_a_letter(options, answer, letter, rule):
    assert find_letter(answer, read_options({"options": options}, "options"), "answer") == letter, rule


@pytest.mark.parametrize(
    ("options", "answer", "rule"),
    [
        (PLAIN, "D", "no such letter"),
        (PLAIN, 3, "a position that counts from 1"),
        (PLAIN, "cow", "no such text"),
        (PLAIN, -1, "no position"),
        (PLAIN, True, "a truth value"),
        (PLAIN, ["cat", "dog"], "two answers"),
        (["1", "2", "3"], 1, "position or text"),
        (["O", "A", "B"], "B", "letter or text"),
        (["same", "same", "other"], "same", "two equal texts"),
    ],
)
def test_an_answer_that_is_no_option_or_several_is_a_bad_row(options, answer, rule):
    with pytest.raises(BadValue, match="answer"):
        pytest.fail(f"{rule}: " + find_letter(answer, read_options({"options": options}, "options"), "answer"))
