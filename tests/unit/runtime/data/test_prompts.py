import json

import numpy as np
import pytest

from scalerl_api.rlrun import DataSpec
from scalerl_runtime.data.prompts import (
    GeneratedRecord,
    Row,
    build_entry_answer,
    encode,
    parse_entry_answer,
    render_rows,
)
from scalerl_runtime.data.scratch_model import build_tokenizer


class MarkingTokenizer:
    """A token per character, and 1 in front where special tokens are requested."""

    chat_template = "{{ messages }}"
    eos_token_id = 2
    unk_token_id = None

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1] * add_special_tokens + [ord(letter) for letter in each] for each in text]}

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        assert (tokenize, add_generation_prompt) == (False, True)
        (message,) = conversation
        return f"{message['role']}:{message['content']}|"


def spec(**fields: object) -> DataSpec:
    return DataSpec.model_validate({"train": {"source": "rows.jsonl"}, **fields})


def row(index: int, prompt: str, difficulty: float | None = None) -> Row:
    return Row(index, f"rows.jsonl:{index + 1}", prompt, f"answer {index}", difficulty)


@pytest.mark.parametrize(
    ("prompt_format", "text", "tokens", "rule"),
    [
        ("plain", "Q:ab", [1, *map(ord, "Q:ab")], "a plain prompt gets the tokenizer's own marks"),
        ("chat", "user:Q:ab|", [*map(ord, "user:Q:ab|")], "the chat template has put them in: not twice"),
    ],
)
def test_special_tokens_are_there_once(prompt_format, text, tokens, rule):
    written = spec(promptFormat=prompt_format, promptTemplate="Q:{prompt}")
    (prompt,), faults = render_rows([row(4, "ab")], written, MarkingTokenizer(), max_tokens=20)
    assert (prompt.id, prompt.text, prompt.answer, faults) == (4, text, "answer 4", []), rule
    assert prompt.tokens.tolist() == tokens, rule
    assert prompt.tokens.dtype == np.int32


def test_a_prompt_may_hold_the_placeholder_of_the_template():
    written = spec(promptFormat="plain", promptTemplate="Q:{prompt}")
    (prompt,), _ = render_rows([row(0, "{prompt}{x}")], written, MarkingTokenizer(), max_tokens=20)
    assert prompt.text == "Q:{prompt}{x}"


def test_prompts_keep_their_order_and_a_long_one_is_a_fault():
    rows = [row(0, "abc"), row(1, "abcdef"), row(2, "ab", difficulty=7.5)]
    prompts, faults = render_rows(rows, spec(promptFormat="plain"), MarkingTokenizer(), max_tokens=4)
    assert [(prompt.id, prompt.difficulty) for prompt in prompts] == [(0, 4.0), (2, 7.5)]
    assert [str(fault) for fault in faults] == ["rows.jsonl:2: prompt of 7 tokens, at most 4 (promptTokens)"]


def test_no_rows_are_no_prompts():
    assert encode([], spec(), MarkingTokenizer()) == []


def test_a_character_that_the_tokenizer_does_not_know_is_a_fault():
    prompts, faults = render_rows([row(0, "2×3=")], spec(promptFormat="plain"), build_tokenizer(64), max_tokens=20)
    assert prompts == []
    assert str(faults[0]) == "rows.jsonl:1: prompt '2×3=', characters that the tokenizer knows"


def test_an_entry_is_stored_as_a_literal_inside_json():
    """JSON alone would make the tuple a list and the key a string; scorers distinguish them."""
    entry = GeneratedRecord("gcd", {"max_value": 12}, {"answer": "6", "metadata": {"pair": (12, 18), 3: [None, True]}})
    stored = build_entry_answer(entry)
    assert json.loads(stored) == {
        "task": "gcd",
        "options": {"max_value": 12},
        "record": "{'answer': '6', 'metadata': {'pair': (12, 18), 3: [None, True]}}",
    }
    assert parse_entry_answer(stored) == entry


@pytest.mark.parametrize("value", [object(), float("nan")], ids=["an object has no literal", "nan reads as a name"])
def test_a_record_without_a_literal_is_refused(value):
    with pytest.raises(ValueError, match="cannot be stored"):
        build_entry_answer(GeneratedRecord("gcd", {}, {"answer": "6", "x": value}))
