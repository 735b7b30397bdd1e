"""Worked answers to generated tasks: thinking, answer, and a near miss. PURE."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from scalerl_api.validation import Fault
from scalerl_runtime.data.columns import find_field
from scalerl_runtime.data.prompts import GeneratedRecord


@dataclass(frozen=True)
class WorkedAnswer:
    """A right solution."""

    thinking: str
    answer: str


def write_trace(entry: GeneratedRecord) -> WorkedAnswer:
    """Return a solution of `entry`, whose task is one of TRACES."""
    return WorkedAnswer(TRACES[entry.task](entry.record), str(entry.record["answer"]))


def check_task(task: str, path: str) -> Fault | None:
    """Return a fault if no trace can be written for `task`."""
    if task in TRACES:
        return None
    return Fault(path, f"reasoning_gym:{task}", f"traces are written for {', '.join(sorted(TRACES))}; else a file")


def miss_answer(answer: str, rng: np.random.Generator) -> str:
    """Return a near miss: a number off by 1 to 9 in the last place, or a word with one letter changed."""
    if answer.isalpha():
        place = int(rng.integers(len(answer)))
        others = [letter for letter in "abcdefghijklmnopqrstuvwxyz" if letter != answer[place].lower()]
        return answer[:place] + str(rng.choice(others)) + answer[place + 1 :]
    number = Decimal(answer)
    last_place = Decimal(1).scaleb(int(number.as_tuple().exponent))
    return f"{number + last_place * int(rng.integers(1, 10)) * int(rng.choice((-1, 1))):f}"


def _chain_sum(record: Mapping[str, object]) -> str:
    """`12 + 7 - 4` becomes `12+7=19 19-4=15`."""
    first, *rest = str(find_field(record, "metadata.expression")).split(" ")
    steps = []
    total = Decimal(first)
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        after = total + Decimal(term) if sign == "+" else total - Decimal(term)
        steps.append(f"{total:f}{sign}{term}={after:f}")
        total = after
    return " ".join(steps) or first


def _spell_backward(record: Mapping[str, object]) -> str:
    """`sun` becomes `s u n`: separate letters are easier to reverse."""
    return " ".join(str(find_field(record, "metadata.word")))


def _count_bits(record: Mapping[str, object]) -> str:
    """1010 becomes `1:1 0:1 1:2 0:2`: each bit with the number of ones so far."""
    bits = str(find_field(record, "metadata.binary"))
    return " ".join(f"{bit}:{bits[: place + 1].count('1')}" for place, bit in enumerate(bits))


def _gcd(record: Mapping[str, object]) -> str:
    """Euclid's remainders: 12 and 18 become `12%18=12 18%12=6 12%6=0`."""
    numbers = find_field(record, "metadata.numbers")
    assert isinstance(numbers, list), "reasoning_gym's gcd lists its numbers"
    steps = []
    divisor = int(numbers[0])
    for number in map(int, numbers[1:]):
        left, right = divisor, number
        while right:
            steps.append(f"{left}%{right}={left % right}")
            left, right = right, left % right
        divisor = left
    return " ".join(steps)


TRACES: Mapping[str, Callable[[Mapping[str, object]], str]] = {
    "chain_sum": _chain_sum,
    "count_bits": _count_bits,
    "decimal_chain_sum": _chain_sum,
    "gcd": _gcd,
    "spell_backward": _spell_backward,
}
