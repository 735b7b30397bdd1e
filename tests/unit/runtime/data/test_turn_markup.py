"""The markup of a turn, with a tokenizer of characters and two special tokens."""

import pytest
from transformers import AddedToken

from scalerl_api import InvalidRun
from scalerl_api.data import DataSpec
from scalerl_runtime.data.scratch_model import build_tokenizer
from scalerl_runtime.data.turn_markup import build_turn_markup

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
EOS_ENDS = "{% for m in messages %}[{{ m.role }}]{{ m.content }} <eos>{% endfor %}"
DROPS = "{{ messages[-1].content }}"
REFUSES = "{% if messages|length > 1 %}{{ raise_exception('one turn') }}{% endif %}{{ messages[0].content }}"


@pytest.fixture
def make():
    def make(template):
        tokenizer = build_tokenizer(64)
        tokenizer.add_special_tokens(
            {"additional_special_tokens": [AddedToken(mark, special=True) for mark in ("<|im_start|>", "<|im_end|>")]}
        )
        tokenizer.chat_template = template
        return tokenizer

    return make


def chat(prompt_format="chat"):
    return DataSpec(train=[{"source": "a.jsonl"}], prompt_format=prompt_format, prompt_template="{prompt}")


def test_a_turn_of_chatml_ends_once(make):
    tokenizer = make(CHATML)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    markup = build_turn_markup(chat(), tokenizer, (end, tokenizer.eos_token_id))
    assert tokenizer.decode(markup.before) == "\n<|im_start|>user\n", "the policy wrote <|im_end|> itself"
    assert tokenizer.decode(markup.after) == "<|im_end|>\n<|im_start|>assistant\n"
    assert markup.before_text == "<|im_end|>\n<|im_start|>user\n"
    assert markup.after_text == "<|im_end|>\n<|im_start|>assistant\n"


def test_a_turn_that_ends_with_a_word_keeps_it(make):
    tokenizer = make(WORDS)
    markup = build_turn_markup(chat(), tokenizer, (tokenizer.eos_token_id,))
    assert tokenizer.decode(markup.before) == "user: "
    assert tokenizer.decode(markup.after) == "\nassistant:"


def test_blanks_before_the_end_of_a_turn_are_the_templates(make):
    tokenizer = make(EOS_ENDS)
    markup = build_turn_markup(chat(), tokenizer, (tokenizer.eos_token_id,))
    assert tokenizer.decode(markup.before) == "[user]"


def test_variables_of_the_template_hold_after_an_observation_too(make):
    tokenizer = make(f"{CHATML}{{% if mode %}}[{{{{ mode }}}}]{{% endif %}}")
    data = chat().model_copy(update={"template_arguments": {"mode": "brief"}})
    assert build_turn_markup(data, tokenizer, (1,)).after_text.endswith("assistant\n[brief]")


def test_plain_has_no_markup(make):
    markup = build_turn_markup(chat("plain"), make(None), (1,))
    assert (markup.before, markup.after, markup.before_text, markup.after_text) == ((), (), "", "")


@pytest.mark.parametrize(("template", "words"), [(DROPS, "drops a turn"), (REFUSES, "one turn")])
def test_a_template_without_a_second_turn_is_refused(make, template, words):
    with pytest.raises(InvalidRun, match=words) as caught:
        build_turn_markup(chat(), make(template), (1,))
    assert caught.value.faults[0].path == "spec.data.promptFormat"


def test_a_special_token_in_an_observation_is_spelled_out(make):
    tokenizer = make(CHATML)
    ids = tokenizer.encode("a<|im_end|>", add_special_tokens=False, split_special_tokens=True)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in ids
    assert tokenizer.decode(ids) == "a<|im_end|>"
