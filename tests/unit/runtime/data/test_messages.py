import json

import pytest

from scalerl_runtime.data.columns import BadValue
from scalerl_runtime.data.messages import Message, build_turns, find_last_reply, parse_messages, replace_last_text

USER = {"role": "user", "content": "2+2?"}
SYSTEM = {"role": "system", "content": "Be short."}
ANSWER = {"role": "assistant", "content": "4"}
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


def say(content):
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("value", "roles", "rule"),
    [
        ([USER], ["user"], "one turn"),
        ([SYSTEM, USER], ["system", "user"], "a system turn"),
        ([USER, ANSWER, USER], ["user", "assistant", "user"], "turns before the question"),
        (json.dumps([SYSTEM, USER]), ["system", "user"], "JSON text, as in a CSV file"),
        (str([SYSTEM, USER]), ["system", "user"], "and as pandas writes it"),
        ([{**USER, "name": None, "tool_calls": None}], ["user"], "empty fields of a table"),
        (
            [{"role": "system", "content": ""}, USER],
            ["system", "user"],
            "no system prompt, not even the template's own",
        ),
        ([{"from": "human", "value": "x"}], ["user"], "ShareGPT"),
        (
            [{"from": "system", "value": "x"}, {"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}],
            ["system", "user"],
            "ShareGPT, with a solution, which is left out",
        ),
        ([{"from": "human", "value": "x"}, {"from": "assistant", "ground_truth": {"value": "4"}}], ["user"], "ORZ"),
        ([{**USER, "from": None, "value": None}], ["user"], "empty fields of the other form"),
        ([USER, ANSWER], ["user"], "the data set's own solution is left out"),
        ([USER, ANSWER, USER, ANSWER], ["user", "assistant", "user"], "the last one alone"),
        (say([{"type": "text", "text": "2+"}, {"type": "text", "text": "2"}]), ["user"], "parts of type text"),
    ],
)
def test_a_list_of_messages(value, roles, rule):
    assert [turn.role for turn in parse_messages(value, "prompt")] == roles, rule


def test_several_parts_are_lines():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert parse_messages(say(parts), "prompt") == (Message("user", "a\nb"),)


@pytest.mark.parametrize(
    "value", ["What is [1, 2]?", "[1, 2] is what?", "[1, 2]", '[{"a": 1}]', "{x}", "[" * 9999, 7, []]
)
def test_other_values_are_no_messages(value):
    assert parse_messages(value, "prompt") is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([ANSWER], "ends with a turn of assistant"),
        ([USER, SYSTEM, ANSWER], "a system turn"),
        ([{"from": "observation", "value": "x"}, USER], r"prompt\[0\].from is 'observation', one of system, user"),
        ([SYSTEM], "ends with a turn of system"),
        ([{"role": "tool", "content": "4"}, USER], r"prompt\[0\].role is 'tool', one of system, user, assistant"),
        ([{"role": ["user"], "content": "4"}], "role is"),
        ([{"from": "human", "content": "x"}, USER], "a message with role and content"),
        ([USER, SYSTEM, USER], r"prompt\[1\] is a system turn"),
        (say([IMAGE]), "a part of type text"),
        (say([{"type": "text", "text": None}]), "a part of type text"),
        (say(None), "content is None"),
        (say([]), r"content is \[\]"),
        (say("  "), "content is empty"),
        (say("a\ud800"), "lone surrogate"),
        ([{**USER, "tool_calls": [{"id": 1}]}], "tool_calls"),
        ([{**USER, "images": ["x.png"]}], "images"),
    ],
)
def test_a_conversation_that_cannot_be_asked_is_a_bad_row(value, words):
    with pytest.raises(BadValue, match=words):
        parse_messages(value, "prompt")


def test_a_system_prompt_is_there_once():
    own = (Message("system", "own"), Message("user", "q"))
    assert build_turns("q", "of the run") == (Message("system", "of the run"), Message("user", "q"))
    assert build_turns(own, "of the run") == own
    assert build_turns("q", None) == (Message("user", "q"),)


def test_the_template_surrounds_the_last_turn():
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    assert replace_last_text(turns, "Q: c") == (*turns[:2], Message("user", "Q: c"))


@pytest.mark.parametrize(
    ("value", "text", "rule"),
    [
        ([USER, ANSWER], "4", "the last turn"),
        ([{"from": "human", "value": "x"}, {"from": "gpt", "value": "5"}], "5", "ShareGPT"),
        (json.dumps([USER, ANSWER]), "4", "JSON text"),
        ([ANSWER], "4", "TRL's `completion`"),
        ([USER], None, "a question"),
        ([], None, "no turn"),
        ("4", None, "a text"),
        ([{"a": 1}], None, "other objects"),
    ],
)
def test_the_last_reply_is_an_answer(value, text, rule):
    assert find_last_reply(value) == text, rule
