"""The letter of the right option, by label, text, position or column; the order of shuffled options. PURE."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256

from scalerl_api.data import DatasetSpec, is_template, list_columns
from scalerl_runtime.data.choices.options import LABELED, LETTERS, Options, read_options, write_lines
from scalerl_runtime.data.columns import BadValue, read_value, show, simplify, spell

_LAST_NUMBER = re.compile(r"\D(\d)$")


def read_question(record: Mapping[str, object], spec: DatasetSpec, question: str) -> tuple[Options, str]:
    """Return the options of a row as they are written below `question`, and the letter of the right one.

    Raises BadValue.
    """
    name = str(spec.options_field)
    options = read_options(record, name)
    value = read_value(record, spec.answer_field)
    if spec.has_answer_option:
        letter = LETTERS[_option_columns(spec).index(spec.answer_field)]
    else:
        letter = find_letter(value, options, spec.answer_field, first=spec.first_option)
    if not (spec.has_answer_option if spec.shuffle_options is None else spec.shuffle_options):
        return options, letter
    order = order_options(question, options.texts)
    texts = tuple(options.texts[place] for place in order)
    shuffled = replace(options, texts=texts, lines=write_lines(texts), labels=tuple(LETTERS[: len(texts)]))
    return shuffled, LETTERS[order.index(LETTERS.index(letter))]


def order_options(question: str, texts: Sequence[str]) -> list[int]:
    """Return the places of the options in an order that their texts and the question alone decide.

    A row keeps its order when others come or go, and every place is equally likely for the right option.
    """
    return sorted(range(len(texts)), key=lambda place: sha256(f"{question}\0{texts[place]}".encode()).digest())


def find_first_option(records: Iterable[object], spec: DatasetSpec) -> int | None:
    """Return the number of the first option, where the answers of a source are numbers that stand for places.

    None: they are labels, texts or letters, or nothing shows from where they count. One row cannot show it: `1` is the
    first option of WinoGrande and the second of MMLU.
    """
    numbers: list[int] = []
    counts: list[int] = []
    num_texts = 0
    values: list[object] = []
    for record in records:
        if not isinstance(record, Mapping):
            continue
        try:
            options = read_options(record, str(spec.options_field))
            value = _take_single(read_value(record, spec.answer_field))
        except BadValue:
            continue  # a bad row, which is reported as such
        spelled = spell(value, "") if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
        if not spelled.strip().isdecimal() or options.is_labeled and _find_label(spelled.strip(), options):
            continue
        numbers.append(int(spelled))
        counts.append(len(options.texts))
        values.append(value)
        num_texts += bool(_find_text(spelled, options))
    if not numbers or num_texts == len(numbers):
        return None
    has_zero, has_last = 0 in numbers, any(n == count for n, count in zip(numbers, counts, strict=True))
    if has_zero != has_last:
        return 0 if has_zero else 1
    names_count = _count_from_one(_option_columns(spec)) and all(isinstance(value, str) for value in values)
    return 1 if names_count and not has_zero else None


def find_letter(value: object, options: Options, name: str, *, first: int | None = None) -> str:
    """Return the letter of the right option.

    Args:
        value: its label, its text, its position, or a list with a 1 at its place and a 0 elsewhere (TruthfulQA).
        options: of the row.
        name: of the column, for messages.
        first: number of the first option; numbers are positions then. None: a number may be a text too, and positions
            count from 0.

    Raises BadValue if it is none, or stands for several.
    """
    marks = simplify(value)
    if isinstance(marks, list | tuple) and len(marks) == len(options.texts) and _is_one_hot(marks):
        return LETTERS[list(marks).index(1)]
    value = _take_single(value)
    spelled = spell(value, name).strip()
    label, text = _find_label(spelled, options), _find_text(spelled, options)
    place = int(spelled) - (first or 0) if spelled.isdecimal() else -1
    position = {place} if 0 <= place < len(options.texts) else set()
    if label and options.is_labeled:
        places = label
    elif first is not None and spelled.isdecimal():
        places = position
    elif isinstance(value, str):
        places = label | text or position
    else:
        places = label | text | position
    last = LETTERS[len(options.texts) - 1]
    if len(places) == 1:
        return LETTERS[min(places)]
    count = "none" if not places else f"{len(places)}"
    allowed = f"a letter from A to {last}, the text of one option, or its position from {first or 0}"
    if first is None and spelled == str(len(options.texts)):
        allowed += "; firstOption: 1 if positions count from 1"
    raise BadValue(f"{name} {show(value)} is {count} of the options", allowed)


def _take_single(value: object) -> object:
    value = simplify(value)
    return simplify(value[0]) if isinstance(value, list | tuple) and len(value) == 1 else value


def _is_one_hot(marks: Sequence[object]) -> bool:
    return all(mark in (0, 1) for mark in marks) and sum(mark == 1 for mark in marks) == 1


def _option_columns(spec: DatasetSpec) -> Sequence[str]:
    """The columns of a template of options; none if they stand in one column."""
    name = str(spec.options_field)
    return list_columns(name) if is_template(name) else ()


def _count_from_one(columns: Sequence[str]) -> bool:
    """Whether columns are called `option1`, `option2`, ..."""
    found = [match[1] for match in map(_LAST_NUMBER.search, columns) if match is not None]
    return bool(columns) and found == [str(number) for number in range(1, len(columns) + 1)]


def _find_label(spelled: str, options: Options) -> set[int]:
    """The option with this label: `B`, `b`, `(B)`, `B.`, or the whole line `B) 5`."""
    labels = [label.casefold() for label in options.labels]
    for candidate in (spelled.casefold(), spelled.strip("()[].: ").casefold()):
        if candidate in labels:
            return {labels.index(candidate)}
    match = LABELED.fullmatch(spelled)
    if match is None or match[1].upper() not in LETTERS[: len(labels)]:
        return set()
    place = LETTERS.index(match[1].upper())
    return {place} if _normalize(match[2]) == _normalize(options.texts[place]) else set()


def _find_text(spelled: str, options: Options) -> set[int]:
    wanted = _normalize(spelled)
    return {place for place, text in enumerate(options.texts) if _normalize(text) == wanted}


def _normalize(text: str) -> str:
    return " ".join(text.split()).rstrip(".").casefold()
