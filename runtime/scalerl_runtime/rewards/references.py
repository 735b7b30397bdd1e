"""From a row's answer value to the text that a verifier compares with. PURE."""

import json
import math
from collections.abc import Callable, Mapping

from scalerl_runtime.rewards.choice_references import build_choice_reference
from scalerl_runtime.rewards.code_reference import build_code_reference
from scalerl_runtime.rewards.math_references import build_math_reference

BuildReference = Callable[[Mapping[str, object], object], str]
NUM_SHOWN = 60  # characters of a value in a message


def build_reference(verifier: str, record: Mapping[str, object], value: object) -> str:
    """Return the reference for `verifier` from the answer `value` of the row `record`.

    Raises ValueError, whose text says what is wrong and what is allowed.
    """
    build = BUILDERS.get(verifier, _build_any)
    return build(record, value)


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
    text = repr(value)
    return text if len(text) <= NUM_SHOWN else f"{text[: NUM_SHOWN - 3]}..."


BUILDERS: dict[str, BuildReference] = {
    "math": _build_math,
    "choice": build_choice_reference,
    "code": build_code_reference,
}
