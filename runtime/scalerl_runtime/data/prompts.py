"""From records to prompts: fields, rendering and bad rows. PURE."""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from scalerl_api.data import DataSpec
from scalerl_api.recipe import ThinkTags
from scalerl_api.validation import Fault
from scalerl_runtime.data.chat_template import ChatTokenizer, find_control_tokens, render_chat
from scalerl_runtime.data.columns import show
from scalerl_runtime.data.messages import Message, build_turns, get_last_text, get_question, replace_last_text
from scalerl_runtime.data.rows import Row
from scalerl_runtime.think_tags import Decoder, TagFinder, decode_exactly, opens_thinking
from scalerl_runtime.types import Ints, Prompt

PROBE = "7f3a9c"  # a prompt that no template changes: what follows it is the template's


class Tokenizer(ChatTokenizer, Decoder, Protocol):
    """The used part of a Hugging Face tokenizer."""

    eos_token_id: int | None
    unk_token_id: int | None
    added_tokens_decoder: object  # by id; Mistral's own tokenizer has a method in its place, which raises

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> Mapping[str, list[list[int]]]:
        """Return `input_ids` of every text."""
        ...


@dataclass(frozen=True)
class ChatStyle:
    """How the prompts of a source are written."""

    spec: DataSpec
    tokenizer: Tokenizer
    system_prompt: str | None

    @property
    def is_chat(self) -> bool:
        """Whether a chat template renders them."""
        return self.spec.prompt_format == "chat"

    def render(self, prompt: str | tuple[Message, ...]) -> str:
        """Return the whole text before the answer. Raises ValueError if the prompt cannot be rendered."""
        turns = self._build_turns(prompt)
        if self.is_chat:
            return render_chat(turns, self.tokenizer, self.spec.template_arguments)
        if not isinstance(prompt, str):
            raise ValueError("a list of messages needs promptFormat: chat")
        return turns[-1].content

    def list_texts(self, prompt: str | tuple[Message, ...]) -> list[str]:
        """Return the texts of the data set and of the spec that are rendered."""
        return [turn.content for turn in self._build_turns(prompt)]

    def _build_turns(self, prompt: str | tuple[Message, ...]) -> Sequence[Message]:
        text = self.spec.prompt_template.replace("{prompt}", get_last_text(prompt))
        return build_turns(replace_last_text(prompt, text), self.system_prompt if self.is_chat else None)


@dataclass(frozen=True)
class GeneratedRecord:
    """A generated reasoning_gym record, with the task and options that its scorer needs."""

    task: str
    options: dict[str, int | float | str | bool]
    record: dict[str, object]


def render_rows(
    rows: Sequence[Row],
    spec: DataSpec,
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    tags: ThinkTags,
    vocab_size: int | None = None,
    system_prompt: str | None = None,
) -> tuple[list[Prompt], list[Fault]]:
    """Return a prompt for every row that fits in `max_tokens`, in order, and a fault for every other row.

    Args:
        rows, spec, tokenizer, max_tokens, tags: of the run.
        vocab_size: rows of the model's embedding; a token id beyond them would end the engine. None: unknown.
        system_prompt: the source's own; None: `spec.system_prompt`.
    """
    chat = ChatStyle(spec, tokenizer, spec.system_prompt if system_prompt is None else system_prompt)
    rendered, faults = _render_texts(rows, chat)
    opened = bool(rendered) and opens_thinking(find_prompt_end(chat), tags)
    finder = TagFinder(tags.open, tokenizer)
    encoded = encode([text for _, text in rendered], spec, tokenizer)
    unknown = _find_unknown([row for row, _ in rendered], encoded, chat)
    prompts = []
    for (row, text), tokens in zip(rendered, encoded, strict=True):
        if tokens.size > max_tokens:
            faults.append(Fault(row.where, f"prompt of {tokens.size} tokens", f"at most {max_tokens} (promptTokens)"))
        elif tokens.size == 0:
            faults.append(Fault(row.where, f"prompt {show(text)} has no token", "text that the tokenizer knows"))
        elif vocab_size is not None and tokens.max() >= vocab_size:
            found = f"prompt {show(text)} has token id {tokens.max()}"
            faults.append(Fault(row.where, found, f"ids below the {vocab_size} rows of the model's embedding"))
        elif row.index in unknown:
            faults.append(Fault(row.where, f"prompt {show(text)}", "characters that the tokenizer knows"))
        else:
            difficulty = float(tokens.size) if row.difficulty is None else row.difficulty
            thinking = finder.count_after(tokens.tolist()) if opened else None
            question = get_question(row.prompt)
            prompts.append(Prompt(row.index, text, tokens, row.answer, difficulty, thinking, question))
    return prompts, faults


def _render_texts(rows: Sequence[Row], chat: ChatStyle) -> tuple[list[tuple[Row, str]], list[Fault]]:
    """Return every row with its rendered text, and a fault for each row that cannot be rendered."""
    rendered, faults = [], []
    control = find_control_tokens(chat.tokenizer.added_tokens_decoder) if chat.is_chat else None
    for row in rows:
        texts = [row.prompt] if isinstance(row.prompt, str) else [turn.content for turn in row.prompt]
        match = next((match for text in texts if control and (match := control.search(text))), None)
        if match is not None:
            found = f"prompt {show(texts[-1])} has the text {match[0]}"
            faults.append(Fault(row.where, found, "text without control tokens, which the template alone may write"))
            continue
        try:
            rendered.append((row, chat.render(row.prompt)))
        except ValueError as error:
            found = f"prompt {show(get_last_text(row.prompt))}"
            faults.append(Fault(row.where, found, f"text that the model's template takes: {error}"))
    return rendered, faults


def _find_unknown(rows: Sequence[Row], encoded: Sequence[Ints], chat: ChatStyle) -> frozenset[int]:
    """Return the index of every row whose text, or the spec's text around it, has a character without a token.

    The tokenizer's unknown token may also mark the beginning or the end, and a template may write it: only what the
    text alone becomes counts, without the places where it spells that token.
    """
    unknown = chat.tokenizer.unk_token_id
    if unknown is None:
        return frozenset()
    spelled = decode_exactly(chat.tokenizer, [unknown])
    suspects = [row for row, tokens in zip(rows, encoded, strict=True) if unknown in tokens]
    texts = ["".join(chat.list_texts(row.prompt)).replace(spelled, "") for row in suspects]
    alone = chat.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return frozenset(row.index for row, ids in zip(suspects, alone, strict=True) if unknown in ids)


def encode(texts: list[str], spec: DataSpec, tokenizer: Tokenizer) -> list[Ints]:
    """Return the tokens of rendered prompts; special tokens are added to plain prompts, a chat template has its own."""
    if not texts:
        return []
    ids = tokenizer(texts, add_special_tokens=spec.prompt_format == "plain")["input_ids"]
    return [np.array(each, dtype=np.int32) for each in ids]


def find_prompt_end(chat: ChatStyle) -> str:
    """Return the text that the templates write after a user's prompt: it opens the thinking, or it does not.

    A user's prompt, and with `chat` the whole of `promptTemplate`, may mention a tag; the chat template comes after it.
    """
    if not chat.is_chat:
        return chat.spec.prompt_template.rpartition("{prompt}")[2]
    try:
        turns = build_turns(PROBE, chat.system_prompt)
        return render_chat(turns, chat.tokenizer, chat.spec.template_arguments).rpartition(PROBE)[2]
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
        raise ValueError(f"a value in {show(entry.record)} cannot be stored") from error
    if not same:
        raise ValueError(f"{show(entry.record)} is stored as another value")
    return json.dumps({"task": entry.task, "options": entry.options, "record": literal})


def parse_entry_answer(answer: str) -> GeneratedRecord:
    """Return the record that `build_entry_answer` stored."""
    stored = json.loads(answer)
    return GeneratedRecord(stored["task"], stored["options"], ast.literal_eval(stored["record"]))
