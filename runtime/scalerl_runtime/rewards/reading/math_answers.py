"""Judges mathematics: whether the answer in a completion equals the reference. PURE."""

import re
from fractions import Fraction
from functools import lru_cache

from scalerl_runtime.rewards.reading.arithmetic import TooLarge, find_operations
from scalerl_runtime.rewards.reading.marked_answers import cut_sentence, find_marked_answer
from scalerl_runtime.rewards.reading.math_references import parse_math_reference
from scalerl_runtime.rewards.reading.math_text import (
    SYMBOL,
    build_expression,
    find_last_expression,
    is_words,
    normalize_words,
    take_exact,
)

MAX_EXPRESSION = 1000  # characters; sympy's time grows fast, and no answer of a data set is as long
NUMERAL = re.compile(r"-?\d{1,300}(?:\.\d{1,6})?")  # math-verify rounds after six decimals
FRACTION = re.compile(r"^(-?)\\[dtc]?frac\s*\{(\d+)\}\s*\{(\d+)\}$")
PLAIN_NUMBER = re.compile(r"-?\d+(?:/\d+)?")
EQUALS = re.compile(r"(?<![<>!=\\:])=(?!=)|\\equiv(?![A-Za-z])")
STATED_WORDS = re.compile(r"(?:\b(?:is|was|are|be|on)\b|[:=：是])\s*([^:=：]+)$", re.IGNORECASE)


def is_right_mathematics(answer: str, reference: str) -> bool:
    """Return whether `answer` equals `reference`, or one of its alternatives. Raises ValueError for a bad reference.

    There is no time limit here: math-verify's own is a signal, which works only in a main thread. Sizes are bounded
    before anything is computed, and the parent process has a limit.
    """
    try:
        alternatives = parse_math_reference(reference)
    except ValueError as error:
        raise ValueError(f"the reference answer {reference!r} cannot be judged: {error}") from error
    return any(_is_right(answer, each) for each in alternatives)


def read_mathematics(answer: str) -> str:
    """Return the expression that is judged; empty if the answer has none."""
    marked = find_marked_answer(answer, _is_mathematical)
    return build_expression(find_last_expression(answer) if marked is None else marked.content)


def read_words(answer: str) -> str:
    """Return the words that are compared with a reference of words."""
    marked = find_marked_answer(answer, lambda _: True)
    if marked is not None:
        return normalize_words(marked.content)
    lines = [line for line in answer.strip().splitlines() if line.strip()]
    sentence = lines[-1].strip().rstrip(".!*`_ ") if lines else ""
    sentence = re.split(r"(?<=[.!?])\s+", sentence)[-1]
    stated = STATED_WORDS.search(sentence)
    return normalize_words(sentence if stated is None else cut_sentence(stated[1]))


def read_vote(answer: str, reference: str) -> str:
    """Return what an answer stands for in a majority vote, alike for values that are written alike; empty: nothing.

    Numbers have one form: `0.50`, `0.5` and `.5` are `1/2`. Raises ValueError for a bad reference.
    """
    first, *_ = parse_math_reference(reference)
    if is_words(first):
        return read_words(answer)
    reading = read_mathematics(answer)
    if not reading or len(reading) > MAX_EXPRESSION:
        return ""
    reading = _take_result(reading, first)
    number = FRACTION.sub(r"\1\2/\3", re.sub(r"^(-?)(?=\.)", r"\g<1>0", reading))
    is_number = NUMERAL.fullmatch(number) or PLAIN_NUMBER.fullmatch(number) and not re.search(r"/0+$", number)
    return str(Fraction(number)) if is_number else reading


def is_plain_value(vote: str) -> bool:
    """Whether equal votes are written alike, so that they need no comparison: a number or words."""
    return PLAIN_NUMBER.fullmatch(vote) is not None or is_words(vote)


def _is_right(answer: str, reference: str) -> bool:
    if is_words(reference):
        return read_words(answer) == normalize_words(reference)
    reading = read_mathematics(answer)
    if not reading or len(reading) > MAX_EXPRESSION:
        return False
    reading = _take_result(reading, reference)
    try:
        operations = find_operations(_drop_left_side(reading))
    except TooLarge:
        return False
    if NUMERAL.fullmatch(reading) and NUMERAL.fullmatch(reference):
        return Fraction(reading) == Fraction(reference)  # as math-verify finds too, in a hundredth of its time
    gold, gold_operations = _parse_reference(reference)
    if gold is None:
        return _squeeze(reading) == _squeeze(reference)
    if not operations <= gold_operations:
        return False  # `5+7` is the question, not the answer 12
    from math_verify import verify

    target = _parse(reading)
    return target is not None and bool(verify([gold], [target], timeout_seconds=None))


@lru_cache(maxsize=1024)  # all completions of a group share one reference
def _parse_reference(reference: str) -> tuple[object | None, frozenset[str]]:
    """Return the parsed reference, None if math-verify cannot read it, and its own undone operations.

    Raises ValueError if it is too large to compare.
    """
    try:
        operations = find_operations(_drop_left_side(reference))
    except TooLarge as error:
        raise ValueError(f"the reference answer {reference!r} is too large to compare: {error}") from error
    return _parse(reference), operations


def _squeeze(expression: str) -> str:
    """Return the written form that decides where a reference has no value: `3:30 p.m`, `\\textcircled{1}`."""
    return re.sub(r"\s|\\(?:left|right)(?![A-Za-z])|[{}.]", "", expression).casefold()


def _parse(expression: str) -> object | None:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    # No `units`: its list holds letters, and `3t` would become 3.
    kept = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
    config = LatexExtractionConfig(normalization_config=kept, boxed_match_priority=-1)
    parsed = parse(f"${expression}$", [config], parsing_timeout=None)
    return None if not parsed or isinstance(parsed[0], str) else parsed[0]


def _take_result(reading: str, reference: str) -> str:
    """Return what an equation such as `5+7=12` says; whole if the reference is an equation or there are several."""
    exact = take_exact(reading)
    if EQUALS.search(reference) or re.search(r"[,;]", exact):
        return exact
    return _drop_left_side(exact)


def _drop_left_side(expression: str) -> str:
    parts = [part for part in EQUALS.split(expression) if part.strip()]
    if not parts or re.search(r"[,;]", expression):
        return ", ".join(EQUALS.split(part)[-1] for part in re.split(r"[,;]", expression))
    return parts[0] if SYMBOL.fullmatch(parts[-1]) else parts[-1]


def _is_mathematical(content: str) -> bool:
    return re.search(r"\d|\\[A-Za-z]", content) is not None or not is_words(content)
