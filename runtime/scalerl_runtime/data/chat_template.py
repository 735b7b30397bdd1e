"""Renders prompts through a model's chat template; tells a template's error from a row's. PURE."""

from typing import Protocol

from jinja2 import TemplateError

from scalerl_api.validation import Fault, InvalidRun
from scalerl_runtime.hub import first_line

PROBE = "What is 12 + 3?"
# A template is a program of the model's author: these are what its statements can raise.
TEMPLATE_ERRORS = (TemplateError, ArithmeticError, AttributeError, ImportError, LookupError, RecursionError, TypeError)
CHOICE = "plain, or a model whose template takes one user turn"


class ChatTokenizer(Protocol):
    """The used part of a Hugging Face tokenizer."""

    chat_template: str | None

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        """Return the conversation in the format that the model was trained on."""
        ...


def check_template(tokenizer: ChatTokenizer) -> None:
    """Raise InvalidRun unless the template renders a plain question with its text in it."""
    if tokenizer.chat_template is None:
        raise InvalidRun([Fault("spec.data.promptFormat", "chat", "the tokenizer has no chat template; use plain")])
    try:
        render_chat(PROBE, tokenizer)
    except ValueError as error:
        raise InvalidRun([Fault("spec.data.promptFormat", "chat", f"{CHOICE}: {error}")]) from error


def render_chat(text: str, tokenizer: ChatTokenizer) -> str:
    """Return `text` as one user turn, ready for the answer.

    Raises ValueError with the template's words, or if the result lacks the text; blanks may differ.
    """
    conversation = [{"role": "user", "content": text}]
    try:
        rendered = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    except (*TEMPLATE_ERRORS, ValueError) as error:
        raise ValueError(f"the chat template raises {type(error).__name__}: {first_line(error)}") from error
    if "".join(text.split()) not in "".join(rendered.split()):
        raise ValueError("the chat template drops or changes the user's text")
    return rendered
