from decimal import Decimal

import numpy as np
import pytest
import reasoning_gym

from scalerl_runtime.data.prompts import GeneratedRecord
from scalerl_runtime.data.worked_answers import TRACES, WorkedAnswer, check_task, miss_answer, write_trace


@pytest.mark.parametrize(
    ("task", "metadata", "answer", "thinking", "rule"),
    [
        ("chain_sum", {"expression": "12 + 7 - 4"}, "15", "12+7=19 19-4=15", "one sum after the other"),
        ("chain_sum", {"expression": "3 - 9 - 10"}, "-16", "3-9=-6 -6-10=-16", "through negative numbers"),
        ("chain_sum", {"expression": "8"}, "8", "8", "nothing to add"),
        ("decimal_chain_sum", {"expression": "0.5 + 1.25"}, "1.75", "0.5+1.25=1.75", "decimals are exact"),
        ("decimal_chain_sum", {"expression": "0.1 + 0.2"}, "0.3", "0.1+0.2=0.3", "not as floats add them"),
        ("spell_backward", {"word": "sun"}, "nus", "s u n", "letters apart"),
        ("count_bits", {"binary": "1010"}, "2", "1:1 0:1 1:2 0:2", "every bit with the count so far"),
        ("gcd", {"numbers": [12, 18]}, "6", "12%18=12 18%12=6 12%6=0", "Euclid's remainders"),
        ("gcd", {"numbers": [8, 4, 6]}, "2", "8%4=0 4%6=4 6%4=2 4%2=0", "three numbers are two times two"),
    ],
)
def test_thinking(task, metadata, answer, thinking, rule):
    trace = write_trace(GeneratedRecord(task, {}, {"metadata": metadata, "answer": answer}))
    assert trace == WorkedAnswer(thinking, answer), rule


@pytest.mark.parametrize("task", sorted(TRACES))
def test_every_task_has_the_fields_that_its_trace_reads(task):
    table = reasoning_gym.create_dataset(task, seed=3, size=20)
    for record in table:
        trace = write_trace(GeneratedRecord(task, {}, record))
        assert table.score_answer(trace.answer, record) == 1.0
        assert trace.thinking


@pytest.mark.parametrize("task", ["chain_sum", "decimal_chain_sum"])
def test_the_thinking_of_a_sum_ends_with_the_answer(task):
    for record in reasoning_gym.create_dataset(task, seed=4, size=30):
        trace = write_trace(GeneratedRecord(task, {}, record))
        assert Decimal(trace.thinking.rpartition("=")[2]) == Decimal(trace.answer)


@pytest.mark.parametrize(
    ("answer", "wrong", "rule"),
    [
        ("15", {str(15 + off) for off in range(-9, 10) if off}, "off by 1 to 9"),
        ("-4", {str(-4 + off) for off in range(-9, 10) if off}, "a negative number too"),
        ("0.50", {f"{(50 + off) / 100:.2f}" for off in range(-9, 10) if off}, "in the last place that is written"),
        (
            "ab",
            {x + "b" for x in "bcdefghijklmnopqrstuvwxyz"} | {"a" + x for x in "acdefghijklmnopqrstuvwxyz"},
            "letter",
        ),
    ],
)
def test_a_near_miss_is_never_right(answer, wrong, rule):
    rng = np.random.default_rng(0)
    found = {miss_answer(answer, rng) for _ in range(1500)}
    assert found == wrong, rule


def test_a_task_without_traces_is_a_fault():
    assert check_task("gcd", "spec.warmStart.source") is None
    fault = check_task("sudoku", "spec.warmStart.source")
    assert str(fault) == (
        "spec.warmStart.source: reasoning_gym:sudoku, traces are written for "
        "chain_sum, count_bits, decimal_chain_sum, gcd, spell_backward; else a file"
    )
