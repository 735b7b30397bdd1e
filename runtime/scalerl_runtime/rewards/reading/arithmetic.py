"""Finds operations between numbers that an expression leaves undone, and refuses huge ones. PURE.

`5+7`, `6/2`, `2^{10}`, `\\sqrt{16}`, `5!` and `\\sin 30` are operations. Numerals are not: `\\frac{2}{4}`,
`3\\frac{1}{2}`, `50\\%`, `3 \\times 10^8`; nor is what holds a symbol or has no rational value: `2x`, `3\\pi`.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

MAX_DIGITS = 4000  # Python writes no longer integers (sys.get_int_max_str_digits), and sympy writes what it compares
MAX_EXPANDED_POWER = 100  # sympy expands (x+1)^n
MAX_SYMBOL_POWER = 1_000_000
MAX_FACTORIAL = 1400  # 1400! has less than MAX_DIGITS digits
MAX_TOKENS = 1500
MAX_DEPTH = 40

TOKEN = re.compile(
    r"(?P<number>\d{1,3}(?:(?:,|\{,\}|\\[,!])\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
    r"|(?P<command>\\[A-Za-z]+|\\.)|(?P<symbol>\*\*|\S)"
)
IGNORED = re.compile(r"\\(?:left|right|[bB]ig[lr]?|displaystyle|q?quad|limits|[,;!:$])|[~$']")
OPENERS = frozenset(("(", "[", "{", r"\{", r"\langle", r"\lfloor", r"\lceil", r"\lvert"))
CLOSERS = frozenset((")", "]", "}", r"\}", r"\rangle", r"\rfloor", r"\rceil", r"\rvert"))
FUNCTION = re.compile(
    r"\\(?:(?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|log|ln|lg|gcd|lcm|max|min|sum|prod|int|lim|det)(?![A-Za-z])"
)
CONSTANTS = frozenset((r"\pi", "π", r"\infty", "∞", "e", "i", r"\pm", r"\mp", "±"))
SUMS = frozenset("+-−–") | {r"\pm", r"\mp", "±"}
PRODUCTS = frozenset("*×·⋅") | {r"\cdot", r"\times", r"\ast"}
QUOTIENTS = frozenset("/÷") | {r"\div"}
FRACTIONS = frozenset((r"\frac", r"\dfrac", r"\tfrac", r"\cfrac"))
TEXTS = frozenset((r"\text", r"\mathrm", r"\textbf", r"\mathbf", r"\operatorname", r"\begin", r"\end", r"\mbox"))
SUM, PRODUCT, POWER = 10, 20, 30  # binding powers
POSTFIX = frozenset(("!", "%", r"\%", "^", "**", "_"))


class TooLarge(ValueError):
    """An expression that sympy could not compare in time or memory."""


@dataclass(frozen=True)
class Term:
    """A part of an expression."""

    value: Fraction | None = None  # its rational value; None: it has none, or holds symbols
    numeric: bool = False  # no symbols
    plain: bool = False  # an integer numeral or a power of ten: a quotient of two is a fraction
    fraction: bool = False  # a fraction below 1, which an integer before it makes a mixed number
    ten_power: bool = False
    atom: bool = False  # one symbol


SYMBOL = Term(atom=True)


def find_operations(text: str) -> frozenset[str]:
    """Return the kinds of operations between numbers in `text`, such as `sum`. Raises TooLarge."""
    reader = _ExpressionReader(text)
    while not reader.at_end:
        reader.read_element()
    return frozenset(reader.operations)


class _ExpressionReader:
    def __init__(self, text: str):
        tokens = [match[0] for match in TOKEN.finditer(text)]
        self._tokens = [token for token in tokens if not IGNORED.fullmatch(token)]
        if len(self._tokens) > MAX_TOKENS:
            raise TooLarge(f"an expression of {len(self._tokens)} symbols; at most {MAX_TOKENS} are compared")
        self._position = 0
        self._depth = 0
        self.operations: set[str] = set()

    @property
    def at_end(self) -> bool:
        return self._position >= len(self._tokens)

    def read_element(self) -> Term | None:
        """Read an expression; None for a separator or anything else that begins none."""
        before = self._position
        term = self._expression(0)
        if self._position == before:
            self._position += 1
            return None
        return term

    def _peek(self) -> str:
        return "" if self.at_end else self._tokens[self._position]

    def _take(self) -> str:
        token = self._peek()
        self._position += 1
        return token

    def _expression(self, binding: int) -> Term:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TooLarge(f"an expression nested more than {MAX_DEPTH} deep")
        left = self._prefix()
        while left is not None:
            next_left = self._postfix(left) if self._peek() in POSTFIX else self._infix(left, binding)
            if next_left is None:
                break
            left = next_left
        self._depth -= 1
        return left or Term()

    def _begins_term(self, token: str) -> bool:
        if token == "" or token in CLOSERS or token in SUMS | PRODUCTS | QUOTIENTS | POSTFIX:
            return False
        return token[0].isalnum() or token in OPENERS or token[0] == "\\" and token[1:].isalpha() or token in CONSTANTS

    def _prefix(self) -> Term | None:
        token = self._peek()
        if token in SUMS:
            self._take()
            term = self._expression(PRODUCT)
            value = None if term.value is None else -term.value if token not in "+" else term.value
            return Term(value, term.numeric, plain=term.plain)
        if token == "|":
            return self._absolute()
        if not self._begins_term(token):
            return None
        self._take()
        if token[0].isdigit() or token[0] == ".":
            return _number(token)
        if token in OPENERS:
            return self._group(token)
        return self._command(token) if token[0] == "\\" else Term(numeric=token in CONSTANTS, atom=True)

    def _command(self, token: str) -> Term:
        if token in FRACTIONS:
            return self._divide(self._argument(), self._argument())
        if token == r"\sqrt":
            degree = self._group("[").value if self._peek() == "[" and self._take() else Fraction(2)
            return self._root(self._argument(), degree)
        if token in (r"\binom", r"\dbinom", r"\tbinom"):
            return self._binomial(self._argument(), self._argument())
        if token in TEXTS:
            self._skip_group()
            return SYMBOL
        if FUNCTION.fullmatch(token):
            while self._peek() in ("^", "_"):
                self._take()
                self._argument()
            return self._record("function", self._expression(PRODUCT).numeric)
        return Term(numeric=token in CONSTANTS, atom=True)

    def _skip_group(self) -> None:
        if self._peek() == "{":
            while not self.at_end and self._take() != "}":
                pass

    def _argument(self) -> Term:
        """A group, or one token; of a number its first digit, as TeX does: `\\frac12`."""
        token = self._peek()
        if token.isdigit() and len(token) > 1:
            self._tokens[self._position : self._position + 1] = list(token)
        return self._operand()

    def _operand(self) -> Term:
        token = self._take()
        if token in OPENERS:
            return self._group(token)
        if token in SUMS:
            term = self._operand()
            return Term(None if term.value is None else -term.value, term.numeric, plain=term.plain)
        if token[:1].isdigit():
            return _number(token)
        return self._command(token) if token[:1] == "\\" else Term(numeric=token in CONSTANTS, atom=True)

    def _group(self, opener: str) -> Term:
        elements = []
        while not self.at_end and self._peek() not in CLOSERS:
            elements.append(self.read_element())
        self._take()
        if len(elements) != 1 or elements[0] is None:  # several, and None for each comma: numbers of a function
            return Term(numeric=bool(elements) and all(each is None or each.numeric for each in elements))
        term = elements[0]
        if opener in (r"\lfloor", r"\lceil", r"\lvert"):
            return self._record("rounding", term.numeric)
        return Term(term.value, term.numeric, plain=term.plain, fraction=term.fraction, ten_power=term.ten_power)

    def _absolute(self) -> Term:
        self._take()
        term = self._expression(0)
        if self._peek() == "|":
            self._take()
            return self._record("absolute value", term.numeric)
        return Term()

    def _postfix(self, left: Term) -> Term:
        token = self._take()
        if token in ("%", r"\%"):
            return Term(None if left.value is None else left.value / 100, left.numeric)
        if token == "!":
            return self._factorial(left)
        if token == "_":
            self._argument()  # an index, or the base of a number
            return Term(numeric=left.numeric, atom=True)
        if self._peek() == r"\circ" or self._tokens[self._position : self._position + 2] == ["{", r"\circ"]:
            self._skip_group() if self._peek() == "{" else self._take()
            return left
        exponent = self._operand()
        while self._peek() in ("^", "**"):  # a tower in plain text, 9^9^9, is read from its top
            self._take()
            exponent = self._power(exponent, self._expression(POWER))
        return self._power(left, exponent)

    def _infix(self, left: Term, binding: int) -> Term | None:
        token = self._peek()
        if token in SUMS and binding < SUM:
            self._take()
            return self._combine("sum", left, self._expression(SUM), lambda a, b: a + b if token == "+" else a - b)
        if binding >= PRODUCT:
            return None
        if token in QUOTIENTS:
            self._take()
            return self._divide(left, self._expression(PRODUCT))
        if token in PRODUCTS:
            self._take()
            return self._multiply(left, self._expression(PRODUCT), is_written=True)
        if self._begins_term(token):
            return self._multiply(left, self._expression(PRODUCT), is_written=False)
        return None

    def _combine(self, kind: str, left: Term, right: Term, operation: Callable[[Fraction, Fraction], Fraction]) -> Term:
        numeric = left.numeric and right.numeric
        if left.value is None or right.value is None:
            return Term(numeric=numeric)
        self.operations.add(kind)
        return Term(operation(left.value, right.value), numeric)

    def _multiply(self, left: Term, right: Term, *, is_written: bool) -> Term:
        if right.ten_power and left.value is not None and right.value is not None:
            return Term(left.value * right.value, numeric=True)
        is_mixed = left.plain and right.fraction and not is_written
        if is_mixed and left.value is not None and right.value is not None:
            return Term(left.value + right.value, numeric=True)
        return self._combine("product", left, right, lambda a, b: a * b)

    def _divide(self, left: Term, right: Term) -> Term:
        if not right.value:
            return Term(numeric=left.numeric and right.numeric)
        if left.plain and right.plain and left.value is not None and (left.value / right.value).denominator != 1:
            value = left.value / right.value
            return Term(value, numeric=True, fraction=0 < value < 1)
        return self._combine("quotient", left, right, lambda a, b: a / b)

    def _power(self, base: Term, exponent: Term) -> Term:
        numeric = base.numeric and exponent.numeric
        if exponent.value is None:
            return Term(numeric=numeric)
        if base.value is None:
            bound = MAX_SYMBOL_POWER if base.atom else MAX_EXPANDED_POWER
            if abs(exponent.value) > bound:
                raise TooLarge(f"a power above {bound}")
            return Term(numeric=numeric)
        _check_size(base.value, exponent.value)
        value = _raise(base.value, exponent.value)
        if base.plain and base.value == 10 and exponent.value.denominator == 1:
            return Term(value, numeric=True, plain=True, ten_power=True)
        return self._record("power", numeric and value is not None, value)

    def _root(self, term: Term, degree: Fraction | None) -> Term:
        if term.value is None or not degree:
            return Term(numeric=term.numeric)
        value = _raise(term.value, 1 / degree)
        return self._record("root", value is not None, value, numeric=True)

    def _factorial(self, term: Term) -> Term:
        if term.value is not None and abs(term.value) > MAX_FACTORIAL:
            raise TooLarge(f"a factorial above {MAX_FACTORIAL}")
        is_known = term.value is not None and term.value >= 0 and term.value.denominator == 1
        value = Fraction(math.factorial(int(term.value))) if is_known and term.value is not None else None
        return self._record("factorial", term.numeric, value, numeric=term.numeric)

    def _binomial(self, top: Term, bottom: Term) -> Term:
        if top.value is not None and abs(top.value) > MAX_FACTORIAL:
            raise TooLarge(f"a binomial coefficient above {MAX_FACTORIAL}")
        return self._record("binomial", top.numeric and bottom.numeric)

    def _record(
        self, kind: str, is_operation: bool, value: Fraction | None = None, *, numeric: bool | None = None
    ) -> Term:
        if is_operation:
            self.operations.add(kind)
        return Term(value, is_operation if numeric is None else numeric)


def _number(token: str) -> Term:
    digits = re.sub(r"\{,\}|\\[,!]|,", "", token)
    if len(digits) > MAX_DIGITS:
        raise TooLarge(f"a number of {len(digits)} digits")
    return Term(Fraction(digits), numeric=True, plain="." not in digits)


def _check_size(base: Fraction, exponent: Fraction) -> None:
    size = max(abs(base.numerator), base.denominator)
    exponent_size = max(abs(exponent.numerator), exponent.denominator)
    if size > 1 and exponent_size.bit_length() + math.log2(math.log10(size) + 1e-9) > math.log2(MAX_DIGITS) + 1:
        raise TooLarge(f"a power of more than {MAX_DIGITS} digits")
    if size > 1 and exponent_size * math.log10(size) > MAX_DIGITS:
        raise TooLarge(f"a power of more than {MAX_DIGITS} digits")


def _raise(base: Fraction, exponent: Fraction) -> Fraction | None:
    """Return the rational power, or None if it is none, or not real."""
    degree = exponent.denominator
    if base < 0 and degree % 2 == 0 or base == 0 and exponent < 0 or degree > MAX_EXPANDED_POWER:
        return None
    top, bottom = _root(abs(base.numerator), degree), _root(base.denominator, degree)
    if top is None or bottom is None or abs(exponent.numerator) > MAX_DIGITS * 4:
        return None
    return Fraction(-top if base < 0 else top, bottom) ** exponent.numerator


def _root(number: int, degree: int) -> int | None:
    """Return the exact integer root, or None."""
    if degree == 1 or number < 2:
        return number
    low, high = 1, 1 << (number.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= number else (low, middle - 1)
    return low if low**degree == number else None
