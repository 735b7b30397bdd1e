"""From records to prompts: fields, rendering and bad rows. PURE."""

import ast
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from scalerl_api.data import DatasetSpec, DataSpec
from scalerl_api.recipe import ThinkTags
from scalerl_api.validation import Fault
from scalerl_runtime.data.chat_template import ChatTokenizer, render_chat
from scalerl_runtime.think_tags import Decoder, TagFinder, opens_thinking
from scalerl_runtime.types import Ints, Prompt

PROBE = "7f3a9c"  # a prompt that no template changes: what follows it is the template's
NUM_SHOWN = 60  # characters of a value in a message


class Tokenizer(ChatTokenizer, Decoder, Protocol):
    """The used part of a Hugging Face tokenizer."""

    eos_token_id: int | None
    unk_token_id: int | None

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> Mapping[str, list[list[int]]]:
        """Return `input_ids` of every text."""
        ...


@dataclass(frozen=True)
class Row:
    """A record whose fields are well-formed."""

    index: int  # position in its data set, bad rows counted
    where: str  # identifies the record in messages
    prompt: str  # before rendering
    answer: str
    difficulty: float | None  # None: the record has none


@dataclass(frozen=True)
class GeneratedRecord:
    """A generated reasoning_gym record, with the task and options that its scorer needs."""

    task: str
    options: dict[str, int | float | str | bool]
    record: dict[str, object]


def parse_row(record: object, spec: DatasetSpec, *, index: int, where: str) -> Row | Fault:
    """Return the fields that `spec` names, or the fault of the first bad one."""
    if not isinstance(record, Mapping):
        return Fault(where, _show(record), "an object with named fields")
    texts = {}
    for name in (spec.prompt_field, spec.answer_field):
        value = find_field(record, name)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # lossless; answers are often numbers
        fault = _text_fault(value, name, where)
        if fault is not None:
            return fault
        texts[name] = str(value)
    return Row(
        index=index,
        where=where,
        prompt=texts[spec.prompt_field],
        answer=texts[spec.answer_field],
        difficulty=_find_difficulty(record),
    )


def _find_difficulty(record: Mapping[str, object]) -> float | None:
    value = record.get("difficulty")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def find_field(record: Mapping[str, object], name: str) -> object:
    """Return the field `name`, or the value at the dotted path `name` (`metadata.expression`); None if missing."""
    if name in record:
        return record[name]
    value: object = record
    for part in name.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, Sequence) and not isinstance(value, str) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _text_fault(value: object, name: str, where: str) -> Fault | None:
    if value is None:
        return Fault(where, f"{name} is missing", "a non-empty string")
    if not isinstance(value, str):
        return Fault(where, f"{name} is {_show(value)}", "a non-empty string")
    if not value.strip():
        return Fault(where, f"{name} is empty", "a non-empty string")
    try:
        value.encode()
    except UnicodeEncodeError:
        return Fault(where, f"{name} holds half a character (a lone surrogate)", "valid Unicode")
    return None


def render_rows(
    rows: Sequence[Row],
    spec: DataSpec,
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    tags: ThinkTags,
    vocab_size: int | None = None,
) -> tuple[list[Prompt], list[Fault]]:
    """Return a prompt for every row that fits in `max_tokens`, in order, and a fault for every other row.

    `vocab_size`: rows of the model's embedding; a token id beyond them would end the engine. None: unknown.
    """
    rendered, faults = _render_texts(rows, spec, tokenizer)
    opened = bool(rendered) and opens_thinking(find_prompt_end(spec, tokenizer), tags)
    finder = TagFinder(tags.open, tokenizer)
    prompts = []
    for (row, text), tokens in zip(rendered, encode([text for _, text in rendered], spec, tokenizer), strict=True):
        if tokens.size > max_tokens:
            faults.append(Fault(row.where, f"prompt of {tokens.size} tokens", f"at most {max_tokens} (promptTokens)"))
        elif tokens.size == 0:
            faults.append(Fault(row.where, f"prompt {_show(text)} has no token", "text that the tokenizer knows"))
        elif vocab_size is not None and tokens.max() >= vocab_size:
            found = f"prompt {_show(text)} has token id {tokens.max()}"
            faults.append(Fault(row.where, found, f"ids below the {vocab_size} rows of the model's embedding"))
        elif tokenizer.unk_token_id is not None and tokenizer.unk_token_id in tokens:
            faults.append(Fault(row.where, f"prompt {_show(text)}", "characters that the tokenizer knows"))
        else:
            difficulty = float(tokens.size) if row.difficulty is None else row.difficulty
            think_tokens = finder.count_after(tokens.tolist()) if opened else None
            prompts.append(Prompt(row.index, text, tokens, row.answer, difficulty, think_tokens))
    return prompts, faults


def _render_texts(
    rows: Sequence[Row], spec: DataSpec, tokenizer: Tokenizer
) -> tuple[list[tuple[Row, str]], list[Fault]]:
    """Return every row with its rendered text, and a fault for each row that the chat template refuses."""
    rendered, faults = [], []
    for row in rows:
        text = spec.prompt_template.replace("{prompt}", row.prompt)
        try:
            rendered.append((row, render_chat(text, tokenizer) if spec.prompt_format == "chat" else text))
        except ValueError as error:
            faults.append(
                Fault(row.where, f"prompt {_show(row.prompt)}", f"text that the model's template takes: {error}")
            )
    return rendered, faults


def encode(texts: list[str], spec: DataSpec, tokenizer: Tokenizer) -> list[Ints]:
    """Return the tokens of rendered prompts; special tokens are added to plain prompts, a chat template has its own."""
    if not texts:
        return []
    ids = tokenizer(texts, add_special_tokens=spec.prompt_format == "plain")["input_ids"]
    return [np.array(each, dtype=np.int32) for each in ids]


def find_prompt_end(spec: DataSpec, tokenizer: Tokenizer) -> str:
    """Return the text that the templates write after a user's prompt: it opens the thinking, or it does not.

    A user's prompt, and with `chat` the whole of `promptTemplate`, may mention a tag; the chat template comes after it.
    """
    if spec.prompt_format == "plain":
        return spec.prompt_template.rpartition("{prompt}")[2]
    try:
        return render_chat(PROBE, tokenizer).rpartition(PROBE)[2]
    except ValueError:  # it renders other texts, or every row is refused
        return ""


def build_entry_answer(entry: GeneratedRecord) -> str:
    """Return a prompt's answer that holds a whole reasoning_gym record. Raises ValueError if a value has no literal.

    The record is a Python literal inside JSON: scorers distinguish tuples from lists and integer keys from strings.
    """
    literal = repr(entry.record)
    try:
        same = ast.literal_eval(literal) == entry.record
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"a value in {_show(entry.record)} cannot be stored") from error
    if not same:
        raise ValueError(f"{_show(entry.record)} is stored as another value")
    return json.dumps({"task": entry.task, "options": entry.options, "record": literal})


def parse_entry_answer(answer: str) -> GeneratedRecord:
    """Return the record that `build_entry_answer` stored."""
    stored = json.loads(answer)
    return GeneratedRecord(stored["task"], stored["options"], ast.literal_eval(stored["record"]))


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= NUM_SHOWN else f"{text[: NUM_SHOWN - 3]}..."
