"""References of the verifier `math`: what is mathematics, what is text, and what could not be judged. PURE."""

import ast
import json
import math
import re
from collections.abc import Sequence
from functools import lru_cache

from scalerl_api.validation import shorten
from scalerl_runtime.rewards.reading.arithmetic import TooLarge, find_operations
from scalerl_runtime.rewards.reading.marked_answers import find_announced_answer, find_enclosed_answer
from scalerl_runtime.rewards.reading.math_text import (
    APPROXIMATELY,
    MAX_TEXT_WORDS,
    MAX_UNIT_WORDS,
    TEXT,
    WORD,
    build_expression,
    is_words,
    normalize_words,
    take_exact,
)

NUM_SHOWN = 60  # characters of a value in a message
MAX_TEXT_LENGTH = 100  # characters; languages without spaces have no other bound
SOLUTION_LENGTH = 80  # a longer text is a solution, whose last `the answer is` counts
# Words of a column that has no answers: such a text would be compared, and nobody would ever be right.
PLACEHOLDER = re.compile(
    r"\s*(?:see|refer|cf|consult|check)\b|\b(?:appendix|omitted|todo|tbd|placeholder|unknown)\b"
    r"|\s*(?:n/?a|nan|null|proof|not\s?found)\s*$",
    re.IGNORECASE,
)
TRUTH_WORDS = {True: ("yes", "true"), False: ("no", "false")}  # of a column of truth values, such as BoolQ's
MAPPING = re.compile(r"""\{\s*(?:["'].*?["']|\w+)\s*:""", re.DOTALL)


def build_math_reference(value: object) -> str:
    """Return the canonical text of a reference: an expression, a few words, or JSON with several acceptable answers.

    Of a solution the marked answer is taken: `#### 18`, `\\boxed{}`. Raises ValueError for what could not be judged.
    """
    if isinstance(value, list | tuple):
        return _join_alternatives(value)
    if isinstance(value, bool):
        return json.dumps({"any_of": list(TRUTH_WORDS[value])})
    if not isinstance(value, str | int | float):
        raise ValueError(f"{_show(value)} is neither text nor a number")
    if isinstance(value, str):
        return _build_text(value)
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return str(int(value)) if isinstance(value, int) or value.is_integer() else _write_decimal(value)


@lru_cache(maxsize=1024)  # all completions of a group share one reference
def parse_math_reference(reference: str) -> tuple[str, ...]:
    """Return the acceptable answers in a reference, canonical or as a row has it. Raises ValueError."""
    canonical = build_math_reference(reference)
    if canonical.startswith('{"any_of"'):
        return tuple(json.loads(canonical)["any_of"])
    return (canonical,)


def _write_decimal(value: float) -> str:
    text = repr(value)
    return re.sub(r"e\+?(-?)0*(\d+)", r"\\times 10^{\1\2}", text)


def _join_alternatives(values: Sequence[object]) -> str:
    if len(values) == 1:
        return build_math_reference(values[0])
    if not values or not all(isinstance(value, str) for value in values):
        raise ValueError(
            f"{_show(values)} may be several acceptable answers or one list; strings are several acceptable answers, "
            "and one string such as '[1, 2]' is one list"
        )
    return json.dumps({"any_of": list(dict.fromkeys(map(build_math_reference, values)))}, ensure_ascii=False)


def _build_text(value: str) -> str:
    stored = _parse_stored(value)
    if stored is not None:
        return _join_alternatives(stored)
    content = _find_content(value).strip()
    _check_content(content)
    if is_words(content):
        return normalize_words(content)
    expression = build_expression(content)
    approximations = list(APPROXIMATELY.finditer(expression))
    is_single = len(approximations) == 1 and ("," not in expression or approximations[0].start() == 0)
    if is_single:  # of a list the first value alone would be left
        expression = take_exact(expression)
    if not expression:
        raise ValueError(f"{_show(content)} is not mathematics")
    try:
        find_operations(expression)
    except TooLarge as error:
        raise ValueError(f"{_show(content)} is too large to compare: {error}") from error
    return expression


def _check_content(content: str) -> None:
    """Raise ValueError if `content` is empty, a mapping, or prose."""
    if not content:
        raise ValueError("it is empty; an answer is needed")
    if MAPPING.match(content):
        raise ValueError(f"{_show(content)} is a mapping, not a value")
    bare = TEXT.sub(r" \1 ", content)
    words = WORD.findall(bare)
    if PLACEHOLDER.search(bare):
        raise ValueError(f"{_show(content)} refers to an answer and is none")
    if is_words(content) and (len(words) > MAX_TEXT_WORDS or len(content) > MAX_TEXT_LENGTH):
        raise ValueError(f"{_show(content)} is prose; mathematics, or at most {MAX_TEXT_WORDS} words, can be judged")
    if len(words) > MAX_UNIT_WORDS:
        raise ValueError(f"{_show(content)} is prose with numbers; one value, with its unit, can be judged")


def _parse_stored(value: str) -> list[object] | None:
    """Return a list of strings, or what `_join_alternatives` wrote; None for any other text."""
    text = value.strip()
    if text[:1] + text[-1:] not in ("[]", "{}") or not ('"' in text or "'" in text):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            stored = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(stored, dict) and list(stored) == ["any_of"]:
            return list(stored["any_of"])
        return stored if isinstance(stored, list) else None
    return None


def _find_content(value: str) -> str:
    marked = find_enclosed_answer(value)
    while marked is not None:
        value = marked.content
        marked = find_enclosed_answer(value)
    if len(value) > SOLUTION_LENGTH or "\n" in value.strip() or re.match(r"(?i)\s*(?:the )?(?:final )?answer\b", value):
        announced = find_announced_answer(value, lambda _: True)
        return value if announced is None else announced.content
    return value


def _show(value: object) -> str:
    return shorten(repr(value), NUM_SHOWN)
