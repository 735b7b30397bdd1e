"""From a record of a data set to a row: prompt, options, reference. PURE."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from scalerl_api.data import DatasetSpec
from scalerl_api.validation import Fault
from scalerl_runtime.data.choices.answers import read_question
from scalerl_runtime.data.choices.options import append_options
from scalerl_runtime.data.columns import (
    BadValue,
    ColumnValues,
    check_text,
    find_field,
    read_columns,
    read_value,
    show,
    simplify,
    spell,
)
from scalerl_runtime.data.messages import (
    Message,
    find_last_reply,
    get_last_text,
    parse_messages,
    replace_last_text,
)

# The reference for the verifier that is named, from a record and its answer. Raises ValueError.
BuildReference = Callable[[str, Mapping[str, object], object], str]
# The reference for the verifiers of a source.
BuildAnswer = Callable[[Mapping[str, object], object], str]
# Verifiers that write references of their own; any other one takes the value as it is.
READING_VERIFIERS = ("math", "choice", "code", "reasoning_gym")


@dataclass(frozen=True)
class Row:
    """A record whose fields are well-formed."""

    index: int  # position in its data set, bad rows counted
    where: str  # identifies the record in messages
    prompt: str | tuple[Message, ...]  # before rendering; messages end with a user's turn
    answer: str
    difficulty: float | None  # None: the record has none
    letter: str = ""  # of the right option; empty without `optionsField`


def spell_reference(_verifier: str, _record: Mapping[str, object], value: object) -> str:
    """Return a text or a number as a reference; of a list of one element, the element. Raises BadValue."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = simplify(value[0])
    return spell(value, "it")


def bind_verifiers(build_reference: BuildReference, verifiers: Sequence[str]) -> BuildAnswer:
    """Return the function that builds a row's one reference for all verifiers of its source.

    Those that read references must agree on it; the others get the same text.
    """
    reading = [each for each in verifiers if each in READING_VERIFIERS] or list(verifiers[:1])

    def build(record: Mapping[str, object], value: object) -> str:
        if isinstance(value, ColumnValues) and reading != ["code"]:
            value = value.join()
        first, *others = {build_reference(each, record, value): each for each in reading}.items()
        if others:
            raise ValueError(f"{first[1]} and {others[0][1]} read it differently; a verifier that takes it")
        return first[0]

    return build


def parse_row(record: object, spec: DatasetSpec, build_answer: BuildAnswer, *, index: int, where: str) -> Row | Fault:
    """Return the fields that `spec` names, or the fault of the first bad one."""
    record = _name_places(record)
    if not isinstance(record, Mapping):
        return Fault(where, show(record), "an object with named fields")
    letter = ""
    try:
        prompt = _read_prompt(record, spec.prompt_field)
        if spec.options_field is None:
            value = read_columns(record, spec.answer_field)
            reply = find_last_reply(value)
            value = value if reply is None else reply
        else:
            options, letter = read_question(record, spec, get_last_text(prompt))
            prompt = replace_last_text(prompt, append_options(get_last_text(prompt), options))
            value = letter
            record = {**record, "options": options.by_letter}  # the verifier `choice` reads this name
        answer = _build_answer(record, value, spec.answer_field, build_answer)
    except BadValue as error:
        return Fault(where, error.found, error.allowed)
    difficulty = _find_difficulty(record)
    return Row(index=index, where=where, prompt=prompt, answer=answer, difficulty=difficulty, letter=letter)


def is_selected(record: object, spec: DatasetSpec) -> bool:
    """Whether `where` takes a record: each column that it names has the value, as text."""
    record = _name_places(record)
    if not spec.where or not isinstance(record, Mapping):
        return True
    return all(_spell_any(find_field(record, name)) == _spell_any(wanted) for name, wanted in spec.where.items())


def _spell_any(value: object) -> str:
    """A value as it is compared by `where`: 3.0 is `3`, True is `true`."""
    value = simplify(value)
    if isinstance(value, bool):
        return str(value).lower()
    return spell(value, "it") if isinstance(value, str | int | float) else repr(value)


def _name_places(record: object) -> object:
    """Return a record that is a list of objects, such as one of Open-Reasoner-Zero, with its places as names."""
    if isinstance(record, list) and record and all(isinstance(each, Mapping) for each in record):
        return {str(place): each for place, each in enumerate(record)}
    return record


def _read_prompt(record: Mapping[str, object], name: str) -> str | tuple[Message, ...]:
    value = read_value(record, name)
    turns = parse_messages(value, name)
    if turns is not None:
        return turns
    text = spell(value, name)
    check_text(text, name)
    return text


def _build_answer(record: Mapping[str, object], value: object, name: str, build_answer: BuildAnswer) -> str:
    if isinstance(value, str):
        check_text(value, name)
    try:
        answer = build_answer(record, value)
    except BadValue as error:
        raise BadValue(f"{name} is {show(value)}", error.allowed) from error
    except ValueError as error:
        raise BadValue(f"{name} is {show(value)}", str(error)) from error
    check_text(answer, name)
    return answer


def _find_difficulty(record: Mapping[str, object]) -> float | None:
    value = simplify(record.get("difficulty"))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
