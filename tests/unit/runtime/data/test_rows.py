import pytest

from scalerl_api.data import DatasetSpec
from scalerl_api.validation import Fault
from scalerl_runtime.data.messages import Message
from scalerl_runtime.data.rows import Row, bind_verifiers, parse_row, spell_reference


def parse(record, *, build=spell_reference, verifiers=("math",), **fields):
    spec = DatasetSpec.model_validate({"source": "f.jsonl", **fields})
    return parse_row(record, spec, bind_verifiers(build, verifiers), index=4, where="f.jsonl:5")


def test_svamp():
    record = {"Body": "He has 3.", "Question": "How many?", "Answer": 3.0}
    row = parse(record, promptField="{Body} {Question}", answerField="Answer")
    assert isinstance(row, Row)
    assert (row.prompt, row.answer) == ("He has 3. How many?", "3")


def test_verl():
    """`prompt` is a list of messages, and the reference is nested."""
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    row = parse({"prompt": turns, "reward_model": {"ground_truth": "7"}}, answerField="reward_model.ground_truth")
    assert isinstance(row, Row)
    assert (row.prompt, row.answer) == ((Message("system", "s"), Message("user", "q")), "7")


def test_options_stand_below_the_prompt_and_the_reference_is_a_letter():
    records = []

    def build(_verifier, record, value):
        records.append(record["options"])
        return str(value)

    record = {"question": "Which?", "choices": ["cat", "dog"], "answer": 1}
    row = parse(record, build=build, promptField="question", optionsField="choices")
    assert isinstance(row, Row)
    assert (row.prompt, row.answer) == ("Which?\nA) cat\nB) dog", "B")
    assert records == [{"A": "cat", "B": "dog"}], "the verifier reads the options by letter"


def test_options_of_messages_stand_in_the_last_turn():
    turns = [{"role": "user", "content": "Which?"}]
    row = parse({"prompt": turns, "options": ["cat", "dog"], "answer": "B"}, optionsField="options")
    assert isinstance(row, Row)
    assert row.prompt == (Message("user", "Which?\nA) cat\nB) dog"),)


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ({"prompt": "a", "answer": float("nan")}, "answer is missing, a non-empty string"),
        ({"prompt": "a", "answer": ["x", "y"]}, "answer is ['x', 'y'], a non-empty string"),
        ({"prompt": "a", "answer": True}, "answer is True, a non-empty string"),
        ({"prompt": [{"role": "tool", "content": "x"}], "answer": "1"}, "prompt[0].role is 'tool'"),
        ({"prompt": [], "answer": "1"}, "prompt is []"),
    ],
)
def test_a_bad_row_names_its_column_and_value(record, fault):
    found = parse(record)
    assert isinstance(found, Fault)
    assert str(found).startswith(f"f.jsonl:5: {fault}")


def test_a_list_of_one_is_its_element():
    row = parse({"prompt": "a", "answer": [3.0]})
    assert isinstance(row, Row)
    assert row.answer == "3"


def refuse(verifier, _record, value):
    if value == "bad":
        raise ValueError("a number is needed")
    return f"{verifier}: {value}"


@pytest.mark.parametrize(
    ("verifiers", "answer", "rule"),
    [
        (["math"], "math: 7", "its one verifier"),
        (["http:judge", "math"], "math: 7", "the verifier that reads references"),
        (["http:judge", "python:a:f"], "http:judge: 7", "the first of those that take any text"),
    ],
)
def test_the_reference_is_built_by_the_verifiers(verifiers, answer, rule):
    row = parse({"prompt": "a", "answer": "7"}, build=refuse, verifiers=verifiers)
    assert isinstance(row, Row)
    assert row.answer == answer, rule


def test_a_reference_that_is_refused_is_a_bad_row():
    found = parse({"prompt": "a", "answer": "bad"}, build=refuse)
    assert str(found) == "f.jsonl:5: answer is 'bad', a number is needed"
    found = parse({"prompt": "a", "answer": "7"}, build=refuse, verifiers=["math", "choice"])
    assert "math and choice read it differently" in str(found)
