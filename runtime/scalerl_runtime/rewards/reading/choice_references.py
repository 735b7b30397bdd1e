"""References of the verifier `choice`: the label of the right option, with all options where the row has them. PURE."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

OPTION_COLUMNS = ("options", "choices")
# A label as published: B, (B), B., B) 5, Option B, 3. A word such as `Both` is none.
LABEL = re.compile(
    r"(?:option|choice|answer)?\s*:?\s*[(\[]?\s*([A-Za-z]|\d{1,2})\s*(?:[)\].:].*)?", re.DOTALL | re.IGNORECASE
)
LABELED_OPTION = re.compile(r"\s*[(\[]?([A-Za-z]|\d{1,2})\s*[)\].:]\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Choice:
    """The right option's label, and the texts of all options by label; empty: unknown."""

    label: str
    options: Mapping[str, str]


def build_choice_reference(record: Mapping[str, object], value: object) -> str:
    """Return the label of the right option; as JSON with `label` and `options` where the row lists them.

    `value` is a label, an option's text, or the position of an option, from 0, as an integer. Raises ValueError.
    """
    options = find_options(record)
    label = _find_label(value, options)
    if options and label not in options:
        raise ValueError(f"{label} is none of the options {', '.join(options)}")
    return json.dumps({"label": label, "options": options}, ensure_ascii=False) if options else label


def parse_choice(reference: str) -> Choice:
    """Return what `build_choice_reference` wrote. Raises ValueError for any other text."""
    if reference.startswith("{"):
        stored = json.loads(reference)
        return Choice(stored["label"], stored["options"])
    return Choice(_find_label(reference, {}), {})


def find_options(record: Mapping[str, object]) -> dict[str, str]:
    """Return the row's options by label, from `options` or `choices`: empty if it has none.

    A list, labeled (`A)5`) or in the order of the alphabet; a mapping from labels; or ARC's `text` and `label` lists.
    """
    for column in OPTION_COLUMNS:
        value = record.get(column)
        if isinstance(value, Mapping) and {"text", "label"} <= set(value):
            texts, labels = _list_texts(value["text"]), _list_texts(value["label"])
            if texts and len(texts) == len(labels):
                return dict(zip(labels, texts, strict=True))
        elif isinstance(value, Mapping) and value and all(len(str(key)) == 1 for key in value):
            return {str(key).upper(): str(text) for key, text in value.items()}
        elif texts := _list_texts(value):
            return _label_texts(texts)
    return {}


def _list_texts(value: object) -> list[str]:
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return [str(text) for text in value] if is_list and isinstance(value, Sequence) else []


def _label_texts(texts: list[str]) -> dict[str, str]:
    matches = [LABELED_OPTION.fullmatch(text) for text in texts]
    labeled = {match[1].upper(): match[2].strip() for match in matches if match is not None}
    if len(labeled) == len(texts):
        return labeled
    return dict(zip(ascii_uppercase, texts, strict=False)) if len(texts) <= len(ascii_uppercase) else {}


def _find_label(value: object, options: Mapping[str, str]) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value < len(options):
            return list(options)[value]
        known = f"the row lists {len(options)} options" if options else "the row lists no `options` or `choices`"
        raise ValueError(f"{value} is a position from 0, but {known}; a letter is needed")
    if isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value) == 1:
        return _find_label(value[0], options)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no label of an option such as B")
    same = [label for label, text in options.items() if text.strip() == value.strip()]
    if len(same) == 1 and value.strip() not in options:
        return same[0]
    match = LABEL.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"{value[:60]!r} is no label of an option such as B")
    return match[1].upper()
