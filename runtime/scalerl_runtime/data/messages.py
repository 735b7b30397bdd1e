"""Prompts as lists of messages: the system, user and assistant turns before the answer. PURE."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from scalerl_runtime.data.columns import BadValue, check_text, parse_list, show

Role = Literal["system", "user", "assistant"]
# ShareGPT's names beside those of the field.
ROLES: dict[object, Role] = {role: role for role in get_args(Role)} | {
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
}
ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value")
# Fields of a message beside its text; without them the prompt would be another one.
ATTACHMENTS = ("tool_calls", "function_call", "images", "image", "audio", "videos", "video")


@dataclass(frozen=True)
class Message:
    """One turn."""

    role: Role
    content: str


def parse_messages(value: object, name: str) -> tuple[Message, ...] | None:
    """Return the turns of a list of messages or of JSON text of one; None for any other text.

    An assistant's turn at the end is the data set's own solution, and left out. Raises BadValue for a list that is no
    conversation with a user's turn before that.
    """
    messages = _as_list(value)
    if messages is None:
        return None
    if len(messages) > 1 and _find_role(messages[-1]) == "assistant":
        messages = messages[:-1]
    turns = tuple(_parse_message(each, f"{name}[{place}]") for place, each in enumerate(messages))
    for place, turn in enumerate(turns):
        if turn.role == "system" and place > 0:
            raise BadValue(f"{name}[{place}] is a system turn", "a system turn at the beginning only")
        if turn.role != "system" or turn.content.strip():
            check_text(turn.content, f"{name}[{place}].content")
    if turns[-1].role != "user":
        raise BadValue(f"{name} ends with a turn of {turns[-1].role}", "a last turn of user, which the model answers")
    return turns


def _as_list(value: object) -> Sequence[Mapping[str, object]] | None:
    """A list of objects, which in a text must all be messages; None for anything else."""
    is_text = isinstance(value, str)
    value = parse_list(value) if isinstance(value, str) else value
    if not isinstance(value, list | tuple) or not value or not all(isinstance(each, Mapping) for each in value):
        return None
    return value if not is_text or all(map(_is_message, value)) else None


def find_last_reply(value: object) -> str | None:
    """Return the text of the assistant's last turn, which ends a list of messages; None for anything else."""
    value = parse_list(value) if isinstance(value, str) else value
    if not isinstance(value, list | tuple) or not value or not all(_is_message(each) for each in value):
        return None
    last = value[-1]
    return _read_content(_get_content(last), "content") if _find_role(last) == "assistant" else None


def get_last_text(prompt: str | tuple[Message, ...]) -> str:
    """Return the text that the model answers: the prompt, or its last turn."""
    return prompt if isinstance(prompt, str) else prompt[-1].content


def get_question(prompt: str | tuple[Message, ...]) -> str:
    """Return the prompt without its system turn: what near duplicates are compared by."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(turn.content for turn in prompt if turn.role != "system")


def replace_last_text(prompt: str | tuple[Message, ...], text: str) -> str | tuple[Message, ...]:
    """Return the prompt with `text` in place of the text that the model answers."""
    return text if isinstance(prompt, str) else (*prompt[:-1], replace(prompt[-1], content=text))


def build_turns(prompt: str | tuple[Message, ...], system_prompt: str | None) -> tuple[Message, ...]:
    """Return the turns of a prompt, after `system_prompt` unless they begin with a system turn."""
    turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if system_prompt is None or turns[0].role == "system":
        return turns
    return (Message("system", system_prompt), *turns)


def _is_message(value: object) -> bool:
    return isinstance(value, Mapping) and _find_keys(value) is not None


def _find_keys(message: Mapping[str, object]) -> tuple[str, str] | None:
    """The names of role and content in a message; None if it is none."""
    pairs = zip(ROLE_KEYS, CONTENT_KEYS, strict=True)
    return next((pair for pair in pairs if set(pair) <= set(message)), None)


def _find_role(message: Mapping[str, object]) -> Role | None:
    role = next((message[key] for key in ROLE_KEYS if message.get(key) is not None), None)
    return ROLES.get(role) if isinstance(role, str) else None


def _get_content(message: Mapping[str, object]) -> object:
    return next((message[key] for key in CONTENT_KEYS if message.get(key) is not None), None)


def _parse_message(message: Mapping[str, object], name: str) -> Message:
    keys = _find_keys(message)
    if keys is None:
        raise BadValue(f"{name} is {show(dict(message))}", "a message with role and content, or with from and value")
    role_key, content_key = keys
    role = _find_role(message)
    if role is None:
        raise BadValue(f"{name}.{role_key} is {show(message[role_key])}", f"one of {', '.join(map(str, ROLES))}")
    for attachment in ATTACHMENTS:
        if message.get(attachment):
            raise BadValue(f"{name} has {attachment}", "messages of text alone")
    return Message(role, _read_content(_get_content(message), f"{name}.{content_key}"))


def _read_content(content: object, name: str) -> str:
    """A text, or a list of parts of type text; several parts are lines, as vLLM's server joins them."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, bytes) or not content:
        raise BadValue(f"{name} is {show(content)}", "a text, or a list of parts of type text")
    texts = []
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(part, Mapping) or kind != "text" or not isinstance(part.get("text"), str):
            raise BadValue(f"{name}[{place}] is {show(part)}", "a part of type text")
        texts.append(str(part["text"]))
    return "\n".join(texts)
