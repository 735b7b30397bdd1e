"""References of the verifier `math`: what is mathematics, what is text, and what could not be judged. PURE."""

import json
import math


def build_math_reference(value: object) -> str:
    """Return the canonical text of a reference: mathematics, a few words, or JSON with several acceptable answers.

    Raises ValueError if it can be neither.
    """
    if isinstance(value, list | tuple):
        return _join_alternatives(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is neither text nor a number")
    if isinstance(value, str):
        if not value.strip():
            raise ValueError("it is empty; an answer is needed")
        return value.strip()
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return str(int(value)) if isinstance(value, int) or value.is_integer() else repr(value)


def _join_alternatives(values: list[object] | tuple[object, ...]) -> str:
    if len(values) == 1:
        return build_math_reference(values[0])
    if not values or not all(isinstance(value, str) for value in values):
        raise ValueError(
            f"{values!r} may be several acceptable answers or one list; strings are several acceptable answers, "
            "and one string such as '[1, 2]' is one list"
        )
    return json.dumps({"any_of": [build_math_reference(value) for value in values]}, ensure_ascii=False)
