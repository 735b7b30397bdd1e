"""Multiple-choice questions: options as lines below a prompt, and the letter of the right one. PURE."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from scalerl_api.data import is_template, list_columns
from scalerl_runtime.data.columns import BadValue, check_text, read_value, show, simplify, spell
from scalerl_runtime.data.messages import parse_list

LETTERS = ascii_uppercase
MIN_OPTIONS = 2
OPTIONS_ALLOWED = "a list of 2 to 26 options, an object with `text` and `label`, or an object of options by letter"
TEXT_KEYS = ("text", "value", "content", "option")
LABEL_KEYS = ("label", "key", "letter", "id")
# `A)5`, `(a) 5`, `A. 5`, `A: 5`
_LABELED = re.compile(r"\s*\(?([A-Za-z])\s*[).:]\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Options:
    """The options of a question, by letter."""

    lines: tuple[str, ...]  # as they are written below the prompt
    texts: tuple[str, ...]  # without letters
    labels: tuple[str, ...]  # the data set's own, such as ARC's `1` to `4`; otherwise the letters
    is_labeled: bool  # whether the data set labels them

    @property
    def by_letter(self) -> dict[str, str]:
        """Every text by its letter."""
        return dict(zip(LETTERS, self.texts, strict=False))


def read_options(record: Mapping[str, object], name: str) -> Options:
    """Return the options in the column `name`, or in the columns of a template, one each. Raises BadValue."""
    if name not in record and is_template(name):
        return _build_options([read_value(record, column) for column in list_columns(name)], None, name)
    value = read_value(record, name)
    if isinstance(value, str):
        value = parse_list(value)
    if isinstance(value, Mapping):
        return _read_mapping(value, name)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise BadValue(f"{name} is {show(read_value(record, name))}", OPTIONS_ALLOWED)
    if value and all(isinstance(each, Mapping) for each in value):
        texts, labels = [_find_key(each, TEXT_KEYS, name) for each in value], None
        if all(any(key in each for key in LABEL_KEYS) for each in value):
            labels = [_find_key(each, LABEL_KEYS, name) for each in value]
        return _build_options(texts, labels, name)
    return _build_options(value, None, name)


def append_options(text: str, options: Options) -> str:
    """Return the prompt's text with an option a line below it."""
    return "\n".join([text.rstrip(), *options.lines])


def find_letter(value: object, options: Options, name: str) -> str:
    """Return the letter of the right option.

    `value` is its label, its text, or its position from 0. Raises BadValue if it is none, or stands for several.
    """
    value = simplify(value)
    if isinstance(value, list | tuple) and len(value) == 1:
        value = simplify(value[0])
    spelled = spell(value, name).strip()
    label, text = _find_label(spelled, options), _find_text(spelled, options)
    is_position = spelled.isdecimal() and int(spelled) < len(options.texts)
    position = {int(spelled)} if is_position else set()
    if label and options.is_labeled:
        places = label
    elif isinstance(value, str):
        places = label | text or position
    else:
        places = label | text | position
    last = LETTERS[len(options.texts) - 1]
    if len(places) == 1:
        return LETTERS[min(places)]
    count = "none" if not places else f"{len(places)}"
    allowed = f"a letter from A to {last}, the text of one option, or its position from 0"
    raise BadValue(f"{name} {show(value)} is {count} of the options", allowed)


def _read_mapping(value: Mapping[str, object], name: str) -> Options:
    if "text" in value and "label" in value:
        texts, labels = value["text"], value["label"]
        if not isinstance(texts, list | tuple) or not isinstance(labels, list | tuple) or len(texts) != len(labels):
            raise BadValue(f"{name} is {show(dict(value))}", "as many labels as texts")
        return _build_options(texts, labels, name)
    return _build_options(list(value.values()), list(value), name)


def _build_options(values: Sequence[object], labels: Sequence[object] | None, name: str) -> Options:
    present = [simplify(each) for each in values]
    while present and present[-1] is None and labels is None:  # tables fill a short list up
        present.pop()
    if not MIN_OPTIONS <= len(present) <= len(LETTERS):
        raise BadValue(f"{name} has {len(present)} options", OPTIONS_ALLOWED)
    texts = [spell(each, f"{name}[{place}]") for place, each in enumerate(present)]
    for place, text in enumerate(texts):
        check_text(text, f"{name}[{place}]")
    if labels is not None:
        own = tuple(spell(simplify(each), name).strip() for each in labels)
        if len({each.casefold() for each in own}) < len(own):
            raise BadValue(f"{name} has the labels {', '.join(own)}", "every label once")
        return Options(_write_lines(texts), tuple(texts), own, is_labeled=True)
    matches = [_LABELED.fullmatch(text) for text in texts]
    found = [match for match in matches if match is not None]
    letters = tuple(LETTERS[: len(texts)])
    if tuple(match[1].upper() for match in found) == letters:
        bare = tuple(match[2].strip() for match in found)
        return Options(tuple(text.strip() for text in texts), bare, letters, is_labeled=True)
    return Options(_write_lines(texts), tuple(texts), letters, is_labeled=False)


def _write_lines(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{letter}) {text.strip()}" for letter, text in zip(LETTERS, texts, strict=False))


def _find_key(option: Mapping[str, object], keys: Sequence[str], name: str) -> object:
    for key in keys:
        if key in option:
            return option[key]
    raise BadValue(f"{name} has {show(dict(option))}", f"options with one of {', '.join(keys)}")


def _find_label(spelled: str, options: Options) -> set[int]:
    """The option with this label: `B`, `b`, `(B)`, `B.`, or the whole line `B) 5`."""
    labels = [label.casefold() for label in options.labels]
    for candidate in (spelled.casefold(), spelled.strip("()[].: ").casefold()):
        if candidate in labels:
            return {labels.index(candidate)}
    match = _LABELED.fullmatch(spelled)
    if match is None or match[1].upper() not in LETTERS[: len(labels)]:
        return set()
    place = LETTERS.index(match[1].upper())
    return {place} if _normalize(match[2]) == _normalize(options.texts[place]) else set()


def _find_text(spelled: str, options: Options) -> set[int]:
    wanted = _normalize(spelled)
    return {place for place, text in enumerate(options.texts) if _normalize(text) == wanted}


def _normalize(text: str) -> str:
    return " ".join(text.split()).rstrip(".").casefold()
