"""An environment with a calculator: word problems whose arithmetic the policy may leave to a tool. PURE.

A turn that ends with `calc(EXPRESSION)` is a call, and the observation is its value. Any other turn is the answer: its
last number is compared with the reference, which is a number, or GSM8K's solution with a number after `####`.

The expression is parsed and never executed: numbers, `+ - * / // % **` and parentheses.
"""

import ast
import operator
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from scalerl_runtime.environments.protocol import Step

MAX_CHARACTERS = 500  # of an expression: the parser recurses
MAX_DIGITS = 400  # of a value; int to text is quadratic
MAX_PLACES = 10  # of a value that no decimal fraction equals
_CALL = re.compile(r"calc\(((?:(?!calc\()[^\n])*)\)\s*\Z")  # the last of a line
# A minus after a digit, a letter or a bracket is a difference, not a sign.
_NUMBER = re.compile(r"(?:(?<![\w.)])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?:(?<![\w.)])-)?\.\d+")
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda left, right: Fraction(left // right),
    ast.Mod: operator.mod,
}


class CalculatorError(ValueError):
    """An expression without a value; the text is for the policy."""


class Calculator:
    """One episode: any number of calls, then an answer."""

    def __init__(self, *, before: str = "", after: str = ""):
        """`before`, `after`: around each value, such as line ends; a chat template has its own."""
        self._before = before
        self._after = after
        self._answer: Fraction | None = None

    def reset(self, prompt: str, reference: str) -> None:  # noqa: ARG002  # the policy has the prompt
        """Begin an episode. Raises ValueError for a reference without a number."""
        self._answer = find_number(reference.rpartition("####")[2])
        if self._answer is None:
            raise ValueError(f"the reference {reference[:80]!r} has no number")

    def step(self, message: str) -> Step:
        """Reply to a call with its value, and to an answer with the reward."""
        call = _CALL.search(message)
        if call is None:
            return Step(done=True, reward=1.0 if find_number(message) == self._answer else -1.0)
        try:
            text, failed = format_value(compute(call.group(1))), False
        except CalculatorError as error:
            text, failed = f"error: {error}", True
        return Step(f"{self._before}{text}{self._after}", error=failed)


def find_number(text: str) -> Fraction | None:
    """Return the last number in `text`, commas between its digits left out; None without one."""
    found = _NUMBER.findall(text)
    return Fraction(Decimal(found[-1].replace(",", ""))) if found else None


def compute(expression: str) -> Fraction:
    """Return the exact value of an arithmetic expression. Raises CalculatorError."""
    if len(expression) > MAX_CHARACTERS:
        raise CalculatorError(f"more than {MAX_CHARACTERS} characters")
    try:
        tree = ast.parse(expression.strip().replace(",", ""), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise CalculatorError("no arithmetic") from error
    return _value(tree.body)


def format_value(value: Fraction) -> str:
    """Return a value as a decimal number, rounded to MAX_PLACES places."""
    if value.denominator == 1:
        return str(value.numerator)
    scaled = str(abs(round(value * 10**MAX_PLACES))).zfill(MAX_PLACES + 1)
    text = f"{scaled[:-MAX_PLACES]}.{scaled[-MAX_PLACES:]}".rstrip("0").rstrip(".")
    return f"-{text}" if value < 0 and text != "0" else text


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(_exact(number))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            try:
                return _bounded(_OPERATORS[type(sign)](_value(left), _value(right)))
            except ZeroDivisionError as error:
                raise CalculatorError("division by zero") from error
    raise CalculatorError("only numbers, + - * / // % ** and parentheses")


def _exact(number: float) -> Fraction:
    """Return the number as written: 0.1 is a tenth."""
    try:
        return Fraction(Decimal(repr(number)))
    except (InvalidOperation, OverflowError, ValueError) as error:
        raise CalculatorError("a number that is too large") from error


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or abs(exponent) > MAX_DIGITS:
        raise CalculatorError(f"exponents are whole numbers up to {MAX_DIGITS}")
    if base == 0 and exponent < 0:
        raise CalculatorError("division by zero")
    digits = max(len(str(abs(base.numerator))), len(str(base.denominator)))
    if digits * abs(exponent) > MAX_DIGITS:
        raise CalculatorError("a number that is too large")
    return Fraction(base ** int(exponent))


def _bounded(value: Fraction) -> Fraction:
    limit = 10**MAX_DIGITS
    if abs(value.numerator) > limit or value.denominator > limit:
        raise CalculatorError("a number that is too large")
    return value
