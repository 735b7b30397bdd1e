"""Reads columns of a record: dotted paths, templates over several, numbers as text. PURE."""

import ast
import difflib
import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from scalerl_api.data import is_template, list_columns, parse_template
from scalerl_api.validation import shorten

NUM_SHOWN = 60  # characters of a value in a message
NUM_COLUMNS = 30  # names in a message
TEXT_ALLOWED = "a non-empty string"


class BadValue(ValueError):
    """A value of a row that cannot be used: what was found, and what is allowed."""

    def __init__(self, found: str, allowed: str):
        super().__init__(f"{found}, {allowed}")
        self.found = found
        self.allowed = allowed


@dataclass(frozen=True)
class ColumnValues:
    """The values of several columns that a template names without a text between them, such as two of tests."""

    names: tuple[str, ...]
    values: tuple[object, ...]

    def join(self) -> str:
        """Return them as one text. Raises BadValue for a value that has none."""
        return "".join(spell(value, name) for name, value in zip(self.names, self.values, strict=True))


def find_field(record: Mapping[str, object], name: str) -> object:
    """Return the field `name`, or the value at the dotted path `name` (`metadata.expression`); None if missing.

    A path also goes into the JSON text of an object or a list (`verification_info.ground_truth`).
    """
    if name in record:
        return record[name]
    value: object = record
    for part in name.split("."):
        if isinstance(value, str):
            value = parse_list(value)
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, Sequence) and not isinstance(value, str) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def read_value(record: Mapping[str, object], name: str) -> object:
    """Return the value of a column or a path, plain; the text of a template. Raises BadValue if it is missing.

    A list of texts and numbers in a template is written as JSON: `[19, 36, 55, 7]`.
    """
    if name in record or not is_template(name):
        value = simplify(find_field(record, name))
        if value is None:
            raise BadValue(f"{name} is missing", TEXT_ALLOWED)
        return value
    text = ""
    for piece in parse_template(name):
        text += piece.text
        if piece.column is not None:
            text += _spell_plainly(read_value(record, piece.column), piece.column)
    return text


def read_columns(record: Mapping[str, object], name: str) -> object:
    """Return what `read_value` does; of a template of columns alone, such as `{public}{private}`, all their values."""
    if name in record or not is_template(name):
        return read_value(record, name)
    pieces = parse_template(name)
    columns = tuple(piece.column for piece in pieces if piece.column is not None)
    if len(columns) < 2 or any(piece.text.strip() for piece in pieces):
        return read_value(record, name)
    values = [None if record.get(column, "") is None else read_value(record, column) for column in columns]
    if all(value is None for value in values):
        raise BadValue(f"{name} is missing", TEXT_ALLOWED)
    return ColumnValues(columns, tuple(values))


def parse_list(text: str) -> object:
    """Return the list or mapping that `text` is, as JSON or as Python writes it; None if it is neither."""
    if not text.lstrip().startswith(("[", "{")) or not text.rstrip().endswith(("]", "}")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of a backslash in a text that is no list
        try:
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None


def simplify(value: object) -> object:
    """Return a value of a table's library as Python's own; None for NaN, by which tables mark a gap."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Decimal) and value.is_finite():
        return int(value) if value == value.to_integral_value() else f"{value.normalize():f}"
    is_gap = isinstance(value, float) and math.isnan(value) or isinstance(value, Decimal)
    return None if is_gap else value


def spell(value: object, name: str) -> str:
    """Return the one text of a plain string or number: 3.0 is `3`, 0.5 is `0.5`. Raises BadValue for anything else.

    A truth value is refused: `True`, `true`, `yes` and `1` all spell it.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return f"{Decimal(repr(value)):f}" if not value.is_integer() else str(int(value))
    raise BadValue(f"{name} is {show(value)}", TEXT_ALLOWED)


def _spell_plainly(value: object, name: str) -> str:
    if not isinstance(value, list | tuple):
        return spell(value, name)
    texts = [spell(simplify(each), f"{name}[{place}]") for place, each in enumerate(value)]
    quoted = [
        json.dumps(each, ensure_ascii=False) if isinstance(each, str) else text
        for each, text in zip(value, texts, strict=True)
    ]
    return f"[{', '.join(quoted)}]"


def check_text(text: str, name: str) -> None:
    """Raise BadValue for a blank text, or one that is no valid Unicode."""
    if not text.strip():
        raise BadValue(f"{name} is empty", TEXT_ALLOWED)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadValue(f"{name} holds half a character (a lone surrogate)", "valid Unicode") from error


def find_missing(records: Iterable[Mapping[str, object]], name: str) -> str | None:
    """Return the column of `name` that no record has, not even empty; None if there is none."""
    known = list(records)
    if not known or any(name in record for record in known):
        return None
    for column in list_columns(name):
        if not any(column in record or find_field(record, column) is not None for record in known):
            return column
    return None


def describe_columns(records: Iterable[Mapping[str, object]], column: str) -> str:
    """Return the names of the columns that the records have, nested ones with their path, and the one most alike."""
    names: dict[str, None] = {}
    for record in records:
        for name, value in record.items():
            names[str(name)] = None
            if isinstance(value, Mapping):
                names |= {f"{name}.{inner}": None for inner in value}
    plain = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(column.casefold(), plain, n=1)
    listed = ", ".join(list(names)[:NUM_COLUMNS]) + (", ..." if len(names) > NUM_COLUMNS else "")
    return f"a column of {listed}" + (f"; did you mean {plain[near[0]]}?" if near else "")


def show(value: object) -> str:
    """Return a value for a message, shortened."""
    return shorten(repr(value), NUM_SHOWN)
