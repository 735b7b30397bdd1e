"""Compares what a program printed with what it should have printed. PURE."""

import math
import re

TOLERANCE = 1e-6  # absolute and relative, as most contests' checkers have it


def is_same_output(printed: str, expected: str) -> bool:
    """Return whether both are the same text, line by line.

    Blanks at the ends of lines and empty lines at the end do not count. Where the expected text has a number with a
    decimal point, any number within TOLERANCE is the same.
    """
    lines, wanted = _split(printed), _split(expected)
    return len(lines) == len(wanted) and all(map(_is_same_line, lines, wanted))


def _split(text: str) -> list[str]:
    return [line.rstrip() for line in text.replace("\r\n", "\n").rstrip().split("\n")]


def _is_same_line(line: str, wanted: str) -> bool:
    if line == wanted:
        return True
    tokens, expected = re.split(r"(\s+)", line), re.split(r"(\s+)", wanted)
    return len(tokens) == len(expected) and all(map(_is_same_token, tokens, expected))


def _is_same_token(token: str, expected: str) -> bool:
    if token == expected:
        return True
    if "." not in expected:
        return False
    try:
        return math.isclose(float(token), float(expected), rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except ValueError:
        return False
