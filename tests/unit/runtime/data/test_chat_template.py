from types import SimpleNamespace

import pytest
from jinja2 import Environment

from scalerl_api import InvalidRun
from scalerl_api.data import DataSpec
from scalerl_runtime.data.chat_template import check_template, find_control_tokens, list_variables, render_chat
from scalerl_runtime.data.messages import Message

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
THINKING = PLAIN + "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + PLAIN
DROPS_SYSTEM = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
NEEDS_SYSTEM = "{% if messages[0].role != 'system' %}{{ raise_exception('System role required') }}{% endif %}" + PLAIN


class Templated:
    """A tokenizer with a chat template alone."""

    def __init__(self, template):
        self.chat_template = template

    def apply_chat_template(self, conversation, *, tokenize, add_generation_prompt, **arguments):
        def fail(text):
            raise ValueError(text)

        assert (tokenize, add_generation_prompt) == (False, True)
        template = Environment().from_string(self.chat_template)
        return template.render(messages=conversation, raise_exception=fail, **arguments)


def spec(**fields):
    return DataSpec.model_validate({"train": {"source": "rows.jsonl"}, **fields})


def find_faults(template, **fields):
    try:
        check_template(Templated(template), spec(**fields))
    except InvalidRun as error:
        return [str(fault) for fault in error.faults]
    return []


def test_arguments_reach_the_template():
    turns = (Message("system", "s"), Message("user", "q"))
    assert render_chat(turns, Templated(THINKING), {}) == "<system>s<user>q<assistant>"
    thoughtless = render_chat(turns, Templated(THINKING), {"enable_thinking": False})
    assert thoughtless == "<system>s<user>q<assistant><think></think>"


def test_an_argument_that_the_template_never_reads_is_refused():
    assert find_faults(THINKING, templateArguments={"enable_thinking": False}) == []
    (fault,) = find_faults(THINKING, templateArguments={"enable_thinkin": False})
    assert fault == (
        "spec.data.templateArguments.enable_thinkin: False, a variable that the chat template reads: enable_thinking"
    )
    (fault,) = find_faults(PLAIN, templateArguments={"messages": "x"})
    assert fault.endswith("it reads none")


@pytest.mark.parametrize(
    ("template", "names"),
    [
        (PLAIN, set()),
        ("{% set think = think if think is defined else true %}{{ bos_token }}{{ messages }}", {"think"}),
        ("{% set ns = namespace(x=1) %}{% for i in range(3) %}{{ strftime_now('%Y') }}{% endfor %}", set()),
        ("{% for t in tools %}{{ t }}{% break %}{% endfor %}{{ date_string | default('x') }}", {"date_string"}),
        ("{% generation %}{{ effort }}{%- endgeneration -%}", {"effort"}),
    ],
)
def test_the_variables_of_a_template(template, names):
    assert list_variables(template) == names


@pytest.mark.parametrize(
    ("template", "words"),
    [(NO_SYSTEM, "System role not supported"), (DROPS_SYSTEM, "drops or changes the system's text")],
)
@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"systemPrompt": "Be short."}, "spec.data.systemPrompt"),
        ({"train": {"source": "a.jsonl", "systemPrompt": "Be short."}}, "spec.data.train.systemPrompt"),
    ],
)
def test_a_system_prompt_that_the_template_does_not_take_is_a_fault(template, words, fields, path):
    assert find_faults(template) == []
    (fault,) = find_faults(template, **fields)
    assert fault.startswith(f"{path}: Be short., none: the chat template")
    assert words in fault


def test_a_template_that_needs_a_system_turn_takes_the_runs_own():
    assert "System role required" in find_faults(NEEDS_SYSTEM)[0]
    assert find_faults(NEEDS_SYSTEM, systemPrompt="Be short.") == []


def test_thinking_of_an_earlier_turn_may_be_dropped():
    template = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}|{% endfor %}"
    turns = (Message("user", "a"), Message("assistant", "<think>hm</think>b"), Message("user", "c"))
    assert render_chat(turns, Templated(template), {}) == "a|b|c|"


def token(content, *, special=True):
    return SimpleNamespace(content=content, special=special)


def test_control_tokens_are_the_special_ones_the_longest_first():
    pattern = find_control_tokens(
        {1: token("<|im"), 2: token("<|im_end|>"), 3: token("<think>", special=False), 4: token(" ")}
    )
    assert pattern is not None
    assert [match[0] for match in pattern.finditer("a <|im_end|> <think> <|im |")] == ["<|im_end|>", "<|im"]
    assert find_control_tokens({3: token("<think>", special=False)}) is None
    assert find_control_tokens(lambda: None) is None
