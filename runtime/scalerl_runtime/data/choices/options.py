"""The options of multiple-choice questions, in the forms of public data sets, as lines below a prompt. PURE."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from scalerl_api.data import is_template, list_columns
from scalerl_runtime.data.columns import BadValue, check_text, parse_list, read_value, show, simplify, spell

LETTERS = ascii_uppercase
MIN_OPTIONS = 2
OPTIONS_ALLOWED = (
    "a list of 2 to 26 options, an object with `text` and `label`, an object of options by letter, or a text "
    "with a letter before each"
)
TEXT_KEYS = ("text", "value", "content", "option")
LABEL_KEYS = ("label", "key", "letter", "id")
# `A)5`, `(a) 5`, `A. 5`, `A: 5`
LABELED = re.compile(r"\s*\(?([A-Za-z])\s*[).:]\s*(.*)", re.DOTALL)
# The letters in `A) cat B) dog`, `a ) cat , b ) dog` (MathQA)
_LETTER = re.compile(r"(?:^|(?<=[\s,;]))\(?([A-Za-z])\s?[).:]\s*")


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
        return _build_options([_read_column(record, column) for column in list_columns(name)], None, name)
    value = read_value(record, name)
    if isinstance(value, str):
        value = parse_list(value) or _split_letters(value)
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


def _read_column(record: Mapping[str, object], column: str) -> object:
    """The option in a column of its own; None if the row has one less than others."""
    return None if column in record and simplify(record[column]) is None else read_value(record, column)


def _split_letters(text: str) -> list[str] | None:
    """The options of a text with a letter before each, in the order of the alphabet; None for any other text."""
    text = text.strip()
    starts: list[re.Match[str]] = []
    for match in _LETTER.finditer(text):
        if match[1].upper() == LETTERS[len(starts)] and (starts or match.start() == 0):
            starts.append(match)
            if len(starts) == len(LETTERS):
                break
    if len(starts) < MIN_OPTIONS:
        return None
    ends = [*(match.start() for match in starts[1:]), len(text)]
    return [text[match.end() : end].strip(" \t\r\n,;") for match, end in zip(starts, ends, strict=True)]


def _read_mapping(value: Mapping[str, object], name: str) -> Options:
    if "text" in value and "label" in value:
        texts, labels = value["text"], value["label"]
        if not isinstance(texts, list | tuple) or not isinstance(labels, list | tuple) or len(texts) != len(labels):
            raise BadValue(f"{name} is {show(dict(value))}", "as many labels as texts")
        return _build_options(texts, labels, name)
    present = {key: each for key, each in value.items() if simplify(each) is not None}  # tables fill structs up
    return _build_options(list(present.values()), list(present), name)


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
        return Options(write_lines(texts), tuple(texts), own, is_labeled=True)
    matches = [LABELED.fullmatch(text) for text in texts]
    found = [match for match in matches if match is not None]
    letters = tuple(LETTERS[: len(texts)])
    if tuple(match[1].upper() for match in found) == letters:
        bare = tuple(match[2].strip() for match in found)
        return Options(tuple(text.strip() for text in texts), bare, letters, is_labeled=True)
    return Options(write_lines(texts), tuple(texts), letters, is_labeled=False)


def write_lines(texts: Sequence[str]) -> tuple[str, ...]:
    """Return an option a line, with its letter."""
    return tuple(f"{letter}) {text.strip()}" for letter, text in zip(LETTERS, texts, strict=False))


def _find_key(option: Mapping[str, object], keys: Sequence[str], name: str) -> object:
    for key in keys:
        if key in option:
            return option[key]
    raise BadValue(f"{name} has {show(dict(option))}", f"options with one of {', '.join(keys)}")
