import json

import numpy as np
import pytest

from scalerl_api.data import DataSpec
from scalerl_api.recipe import ThinkTags
from scalerl_runtime.data.prompts import (
    GeneratedRecord,
    build_entry_answer,
    encode,
    parse_entry_answer,
    render_rows,
)
from scalerl_runtime.data.rows import Row
from scalerl_runtime.data.scratch_model import build_tokenizer


class MarkingTokenizer:
    """A token per character, and 1 in front where special tokens are requested."""

    chat_template = "{{ messages }}"
    eos_token_id = 2
    unk_token_id = None
    added_tokens_decoder: object = {}

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1] * add_special_tokens + [ord(letter) for letter in each] for each in text]}

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        assert (skip_special_tokens, clean_up_tokenization_spaces) == (False, False)
        return "".join(map(chr, token_ids))

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        **_arguments: int | float | str | bool,
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
    (prompt,), faults = render_rows([row(4, "ab")], written, MarkingTokenizer(), max_tokens=20, tags=ThinkTags())
    assert (prompt.id, prompt.text, prompt.answer, faults) == (4, text, "answer 4", []), rule
    assert prompt.tokens.tolist() == tokens, rule
    assert prompt.tokens.dtype == np.int32


def test_a_prompt_may_hold_the_placeholder_of_the_template():
    written = spec(promptFormat="plain", promptTemplate="Q:{prompt}")
    (prompt,), _ = render_rows([row(0, "{prompt}{x}")], written, MarkingTokenizer(), max_tokens=20, tags=ThinkTags())
    assert prompt.text == "Q:{prompt}{x}"


def test_prompts_keep_their_order_and_a_long_one_is_a_fault():
    rows = [row(0, "abc"), row(1, "abcdef"), row(2, "ab", difficulty=7.5)]
    prompts, faults = render_rows(rows, spec(promptFormat="plain"), MarkingTokenizer(), max_tokens=4, tags=ThinkTags())
    assert [(prompt.id, prompt.difficulty) for prompt in prompts] == [(0, 4.0), (2, 7.5)]
    assert [str(fault) for fault in faults] == ["rows.jsonl:2: prompt of 7 tokens, at most 4 (promptTokens)"]


def test_no_rows_are_no_prompts():
    assert encode([], spec(), MarkingTokenizer()) == []


def test_a_character_that_the_tokenizer_does_not_know_is_a_fault():
    prompts, faults = render_rows(
        [row(0, "2×3=")], spec(promptFormat="plain"), build_tokenizer(64), max_tokens=20, tags=ThinkTags()
    )
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


@pytest.mark.parametrize(
    ("template", "prompt", "think_tokens", "rule"),
    [
        ("{prompt}", "2+2=", None, "nothing opens the thinking"),
        ("{prompt}<think>", "2+2=", 0, "the template ends in the tag"),
        ("{prompt}\n<think>\n", "2+2=", 1, "a newline after the tag is thinking"),
        ("{prompt}<think>hm, ", "2+2=", 4, "so are words"),
        ("{prompt}<think></think>", "2+2=", None, "opened and closed"),
        ("<think> {prompt}", "2+2=", None, "a tag before the prompt is a mention"),
        ("{prompt}", "Use <think> first", None, "a user's text mentions the tag"),
        ("{prompt}", "2+2=<think>", None, "even at its end: only the template opens"),
        ("{prompt}<think>", "close </think>", 0, "what a user closes was not open"),
    ],
)
def test_the_template_opens_the_thinking_not_the_prompt(template, prompt, think_tokens, rule):
    written = spec(promptFormat="plain", promptTemplate=template)
    (found,), _ = render_rows([row(0, prompt)], written, MarkingTokenizer(), max_tokens=90, tags=ThinkTags())
    assert found.think_tokens == think_tokens, rule


class ThinkingTemplate(MarkingTokenizer):
    """A chat template that opens the thinking of its assistant."""

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        **_arguments: int | float | str | bool,
    ) -> str:
        assert (tokenize, add_generation_prompt) == (False, True)
        return f"{conversation[0]['content'].strip()}|assistant:<|thought|>\n"


def test_a_chat_template_opens_the_thinking_with_any_tag():
    written = spec(promptFormat="chat", promptTemplate="{prompt} Begin with <|thought|>. ")
    tags = ThinkTags(open="<|thought|>", close="<|answer|>")
    (found,), _ = render_rows([row(0, "2+2=")], written, ThinkingTemplate(), max_tokens=90, tags=tags)
    assert found.think_tokens == 1
    (plain,), _ = render_rows([row(0, "2+2=")], written, MarkingTokenizer(), max_tokens=90, tags=tags)
    assert plain.think_tokens is None, "promptTemplate is the user's turn: its tag is a mention"
