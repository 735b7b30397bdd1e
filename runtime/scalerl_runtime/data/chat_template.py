"""Renders conversations through a model's chat template; tells a template's error from a row's. PURE."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from jinja2 import Environment, TemplateError, meta
from jinja2.defaults import DEFAULT_NAMESPACE

from scalerl_api.data import DataSpec, TemplateArguments
from scalerl_api.validation import Fault, InvalidRun, shorten
from scalerl_runtime.data.messages import Message, build_turns
from scalerl_runtime.hub import first_line

PROBE = "What is 12 + 3?"
# A template is a program of the model's author: these are what its statements can raise.
TEMPLATE_ERRORS = (TemplateError, ArithmeticError, AttributeError, ImportError, LookupError, RecursionError, TypeError)
CHOICE = "plain, or a model whose template takes one user turn"
# Variables of a template that its caller sets, and functions that transformers gives to it.
RESERVED = frozenset(
    {
        *DEFAULT_NAMESPACE,
        "add_generation_prompt",
        "continue_final_message",
        "documents",
        "messages",
        "raise_exception",
        "strftime_now",
        "tools",
    }
)
_GENERATION_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")  # transformers' own statement


class ChatTokenizer(Protocol):
    """The used part of a Hugging Face tokenizer."""

    chat_template: str | None

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        **template_arguments: int | float | str | bool,
    ) -> str:
        """Return the conversation in the format that the model was trained on."""
        ...


def check_template(tokenizer: ChatTokenizer, data: DataSpec) -> None:
    """Raise InvalidRun unless the template renders a plain question, and the run's arguments and system prompts."""
    if tokenizer.chat_template is None:
        raise InvalidRun([Fault("spec.data.promptFormat", "chat", "the tokenizer has no chat template; use plain")])
    faults = list(_check_arguments(tokenizer.chat_template, data.template_arguments))
    if faults:
        raise InvalidRun(faults)
    try:
        render_chat((Message("user", PROBE),), tokenizer, data.template_arguments)
    except ValueError as error:
        if not _takes_system(tokenizer, data):
            raise InvalidRun([Fault("spec.data.promptFormat", "chat", f"{CHOICE}: {error}")]) from error
    faults = list(_check_systems(tokenizer, data))
    if faults:
        raise InvalidRun(faults)


def render_chat(turns: Sequence[Message], tokenizer: ChatTokenizer, arguments: TemplateArguments) -> str:
    """Return `turns`, ready for the answer.

    Raises ValueError with the template's words, or if the result lacks the text of a user's or a system turn; blanks
    may differ. Templates do drop the thinking of an assistant's turn.
    """
    conversation = [{"role": each.role, "content": each.content} for each in turns]
    try:
        rendered = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True, **arguments)
    except (*TEMPLATE_ERRORS, ValueError) as error:
        raise ValueError(f"the chat template raises {type(error).__name__}: {first_line(error)}") from error
    squeezed = "".join(rendered.split())
    for turn in turns:
        if turn.role != "assistant" and "".join(turn.content.split()) not in squeezed:
            raise ValueError(f"the chat template drops or changes the {turn.role}'s text")
    return rendered


def list_variables(template: str) -> frozenset[str]:
    """Return the variables that a chat template reads and its caller may set. Raises TemplateError."""
    tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION_TAG.sub("", template))
    names = meta.find_undeclared_variables(tree) - RESERVED
    return frozenset(name for name in names if not name.endswith("_token"))


def find_control_tokens(added_tokens: object) -> re.Pattern[str] | None:
    """Return the pattern of the texts that become control tokens; None if the tokenizer has none.

    Args:
        added_tokens: `added_tokens_decoder` of a tokenizer. Mistral's own tokenizer has a method in its place: text
            never becomes a control token there.
    """
    if not isinstance(added_tokens, Mapping):
        return None
    texts = {str(token.content) for token in added_tokens.values() if token.special and token.content.strip()}
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if texts else None


def _check_arguments(template: object, arguments: TemplateArguments) -> Iterator[Fault]:
    if not arguments or not isinstance(template, str):  # some tokenizers have several templates by name
        return
    try:
        known = list_variables(template)
    except TemplateError:  # it renders nothing, which is refused with its words
        return
    for name in sorted(set(arguments) - known):
        allowed = f"a variable that the chat template reads: {', '.join(sorted(known)) or 'it reads none'}"
        yield Fault(f"spec.data.templateArguments.{name}", repr(arguments[name]), allowed)


def _check_systems(tokenizer: ChatTokenizer, data: DataSpec) -> Iterator[Fault]:
    prompts = [("spec.data", data.system_prompt), *((path, each.system_prompt) for path, each in data.sources)]
    for path, text in prompts:
        if text is None:
            continue
        try:
            render_chat(build_turns(PROBE, text), tokenizer, data.template_arguments)
        except ValueError as error:
            allowed = f"none: {error}; text can stand in data.promptTemplate"
            yield Fault(f"{path}.systemPrompt", shorten(text, 60), allowed)


def _takes_system(tokenizer: ChatTokenizer, data: DataSpec) -> bool:
    """Whether the template renders a question after the run's system prompt; some require one."""
    if data.system_prompt is None:
        return False
    try:
        render_chat(build_turns(PROBE, data.system_prompt), tokenizer, data.template_arguments)
    except ValueError:
        return False
    return True
