"""From a row's answer value to the text that a verifier compares with, and what must be right and wrong then. PURE."""

import json
import math
from collections.abc import Callable, Mapping

from scalerl_api.validation import shorten
from scalerl_runtime.data.prompts import parse_entry_answer
from scalerl_runtime.rewards.code_reference import build_code_reference
from scalerl_runtime.rewards.reading.choice_answers import read_choice
from scalerl_runtime.rewards.reading.choice_references import build_choice_reference, parse_choice
from scalerl_runtime.rewards.reading.generated_answers import list_readings
from scalerl_runtime.rewards.reading.math_answers import read_mathematics, read_words
from scalerl_runtime.rewards.reading.math_references import build_math_reference, parse_math_reference

BuildReference = Callable[[Mapping[str, object], object], str]
WRONG_ANSWERS = ("", "I do not know")  # no verifier may find them right, whatever the reference
NUM_SHOWN = 60  # characters of a value in a message


def build_reference(verifier: str, record: Mapping[str, object], value: object) -> str:
    """Return the reference for `verifier` from the answer `value` of the row `record`.

    Raises ValueError, whose text says what is wrong and what is allowed.
    """
    build = BUILDERS.get(verifier, _build_any)
    return build(record, value)


def build_right_answers(verifier: str, reference: str) -> tuple[str, ...]:
    """Return answers that must be right for `reference`; none where no answer is known, as for `http:` and `python:`.

    Raises ValueError if the reference itself is bad.
    """
    if verifier == "math":
        return tuple(f"\\boxed{{{each}}}" for each in parse_math_reference(reference))
    if verifier == "choice":
        label = parse_choice(reference).label
        return (f"\\boxed{{{label}}}", f"The answer is {label}.")
    if verifier == "reasoning_gym":
        solution = parse_entry_answer(reference).record.get("answer")
        return (f"<answer>{solution}</answer>",) if isinstance(solution, str) else ()
    return ()


def describe_reading(verifier: str, answer: str) -> str:
    """Return what the verifier reads in an answer, in words for a message."""
    if verifier == "math":
        expression, words = read_mathematics(answer), read_words(answer)
        return f"read as {_show(expression or words)}" if expression or words else "no answer was found in it"
    if verifier == "choice":
        label = read_choice(answer)
        return f"read as option {label}" if label else "no option, or several, were found in it"
    if verifier == "reasoning_gym":
        return f"read as {_show(list_readings(answer)[-1])}"
    return f"judged as it is: {_show(answer)}"


def _build_any(_record: Mapping[str, object], value: object) -> str:
    """Text and numbers as they are, anything else as JSON: only the user's judge knows what it means."""
    if isinstance(value, str):
        return _check_text(value)
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)  # tables store a column of integers with one gap as floats
    if value is None:
        raise ValueError("it is missing; an answer is needed")
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{_show(value)} cannot be written as JSON ({error})") from error


def _build_math(_record: Mapping[str, object], value: object) -> str:
    return build_math_reference(value)


def _check_text(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty; an answer is needed")
    return text


def _show(value: object) -> str:
    return shorten(repr(value), NUM_SHOWN)


BUILDERS: dict[str, BuildReference] = {
    "math": _build_math,
    "choice": build_choice_reference,
    "code": build_code_reference,
}
