import pytest

from scalerl_api.data import DatasetSpec
from scalerl_runtime.data.choices.answers import find_first_option, order_options, read_question

PLAIN = ["cat", "dog", "eel"]
LABELED = {"text": ["cat", "dog"], "label": ["1", "2"]}
TWO = "{option1}{option2}"


def spec(**fields):
    return DatasetSpec.model_validate({"source": "f.jsonl", "optionsField": "options", **fields})


def rows(*answers, options=PLAIN):
    return [{"options": options, "option1": "x", "option2": "y", "answer": answer} for answer in answers]


@pytest.mark.parametrize(
    ("records", "fields", "expected", "rule"),
    [
        (rows(0, 1, 2), {}, 0, "a zero counts from 0, as in MMLU"),
        (rows("0", "2"), {}, 0, "as text, as in HellaSwag"),
        (rows(1, 3), {}, 1, "the number of options counts from 1, as in QuALITY"),
        (rows("1", "2"), {"optionsField": TWO}, 1, "as text, as in WinoGrande"),
        (rows(1.0, 3.0), {}, 1, "floats of a table with gaps"),
        (rows(1, 0), {"optionsField": TWO}, 0, "two columns that count from 0, as in PIQA"),
        (rows(1, 2), {}, None, "neither is seen"),
        (rows("1"), {"optionsField": TWO}, 1, "one row: the columns are called so"),
        (rows(1), {"optionsField": TWO}, None, "one row with a number: PIQA's columns are called so too"),
        (rows(0, 3), {}, None, "both: some row is bad"),
        (rows(10, 20, options=["10", "20"]), {}, None, "texts of options"),
        (rows("2", "1", options=["2", "1", "3"]), {}, None, "all are texts"),
        (rows(1, 0, 2, options=["2", "0", "x"]), {}, 0, "some happen to be texts"),
        (rows("1", "2", options=LABELED), {}, None, "labels of the data set"),
        (rows("A", "cat"), {}, None, "letters and texts"),
        ([{"answer": 0}, None, *rows(3)], {}, 1, "bad rows do not count"),
        ([], {}, None, "no row"),
    ],
)
def test_from_where_positions_count_is_found_in_the_rows(records, fields, expected, rule):
    assert find_first_option(records, spec(**fields)) == expected, rule


@pytest.mark.parametrize(
    ("record", "fields", "letter", "rule"),
    [
        ({"options": ["2", "1", "0"], "answer": 1}, {"firstOption": 0}, "B", "a position, although 1 is a text too"),
        ({"options": ["2", "1", "0"], "answer": "1"}, {"firstOption": 1}, "A", "a position that counts from 1"),
        ({"options": PLAIN, "answer": "dog"}, {"firstOption": 1}, "B", "a text is no position"),
        ({"options": LABELED, "answer": "1"}, {"firstOption": 0}, "A", "a label goes before a position"),
        ({"options": PLAIN, "answer": [0, 1, 0]}, {}, "B", "a mark at the place, as in TruthfulQA"),
        ({"options": PLAIN, "answer": [False, False, True]}, {}, "C", "a truth value at the place"),
    ],
)
def test_the_letter_of_a_row(record, fields, letter, rule):
    assert read_question(record, spec(**fields), "Which?")[1] == letter, rule


GPQA = {"optionsField": "{right}{wrong 1}{wrong 2}{wrong 3}", "answerField": "right"}


def test_options_of_a_column_that_is_always_right_are_shuffled_by_content():
    letters = []
    for number in range(400):
        record = {"right": f"r{number}", "wrong 1": "a", "wrong 2": "b", "wrong 3": "c"}
        options, letter = read_question(record, spec(**GPQA), f"Question {number}?")
        again = read_question({**record, "id": 7}, spec(**GPQA), f"Question {number}?")
        assert (options, letter) == again
        assert options.by_letter[letter] == f"r{number}"
        letters.append(letter)
    assert all(60 < letters.count(letter) < 140 for letter in "ABCD"), "100 each are expected"


def test_an_equal_wrong_option_does_not_spoil_the_place():
    record = {"right": "Mm", "wrong 1": "mM", "wrong 2": "b", "wrong 3": "c"}
    options, letter = read_question(record, spec(**GPQA), "Which?")
    assert options.by_letter[letter] == "Mm"


def test_shuffled_letters_of_the_data_set_are_written_anew():
    record = {"options": ["A) cat", "B) dog", "C) eel"], "answer": "B"}
    options, letter = read_question(record, spec(shuffleOptions=True), "Which?")
    order = order_options("Which?", PLAIN)
    assert options.lines == tuple(f"{mark}) {PLAIN[place]}" for mark, place in zip("ABC", order, strict=True))
    assert options.by_letter[letter] == "dog"
