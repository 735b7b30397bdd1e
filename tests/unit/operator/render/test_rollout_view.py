"""Completions on a terminal: cut, marked, and unable to steer it."""

import io
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from stored_rollouts import build_row

from scalerl_api.rollouts import Rollout
from scalerl_operator.render.rollout_view import RolloutView, build_rollouts, describe_reference, sparkline
from scalerl_operator.render.text import escape, shorten
from scalerl_operator.run.rollout_selection import Counts, RolloutQuery
from scalerl_runtime.rewards.code_reference import build_code_reference


def draw(*rollouts: Rollout, full: bool = False, colours: bool = False) -> str:
    view = RolloutView("sums", RolloutQuery(), (7,), Counts(1, 2, 3), len(rollouts), rollouts, full)
    stream = io.StringIO()
    Console(file=stream, width=100, highlight=False, force_terminal=colours).print(build_rollouts(view))
    return stream.getvalue()


def test_forced_part_is_marked_without_colours_too() -> None:
    text = draw(build_row(7, 2, 1, -1.0))
    assert "<think>2 and 1; ⟦time is up</think>⟧ 9\n" in text
    assert "⟦ ⟧ was forced by the interruption" in text
    assert "forced 5 to 8" in text
    assert "⟦" not in draw(build_row(7, 2, 0, 1.0))


def test_observations_are_marked() -> None:
    text = "calc(6*7)\n42\nso calc(2)2 42"
    row = replace(build_row(7, 2, 0, 1.0), completion=text, turns=3, tool_errors=1, observations=((9, 13), (23, 24)))
    shown = draw(row)
    assert "so calc(2)⟦2⟧ 42\n" in shown
    assert shown.count("⟦") == 3, "two observations, and the line that explains the marks"
    assert "⟦ ⟧ was written by the environment" in shown
    assert "forced" not in shown
    assert "3 turns, 1 with an error" in " ".join(shown.split())


def test_long_text_is_cut_in_its_middle_with_a_hint() -> None:
    long = replace(build_row(7, 2, 0, 1.0), completion="a" * 3000 + "THE END")
    assert "[… 1,507 characters; --full shows all …]" in " ".join(draw(long).split())
    assert "THE END" in draw(long)
    assert "--full" not in draw(long, full=True)
    assert draw(long, full=True).count("a") > 3000


@given(st.text(max_size=60))
def test_a_completion_cannot_steer_the_terminal(text: str) -> None:
    row = replace(build_row(7, 2, 0, 1.0), completion=text, prompt=text, reference=text)
    for letter in draw(row):
        assert letter == "\n" or letter.isprintable() or letter.isspace(), repr(letter)
    assert "\x1b" not in draw(row)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\x1b[31mb", "a\\x1b[31mb"), ("\0", "\\x00"), ("\u202ex", "\\u{202e}x"), ("é 😀\n", "é 😀\n"), ("\r", "\\x0d")],
)
def test_control_characters_are_spelled_out(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_markup_in_a_completion_is_text() -> None:
    assert "[bold]x[/bold]" in draw(replace(build_row(7, 2, 0, 1.0), completion="[bold]x[/bold]"), colours=True)


def test_sparkline() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert len(sparkline([0.5] * 1000)) == 24


def test_shortened_text_is_one_line() -> None:
    assert shorten("a\n b\tc", 9) == "a b c"
    assert shorten("x" * 50, 9) == "xxxxxxxx…"


@pytest.mark.parametrize(
    ("tests", "shown"),
    [
        (["assert f(1) == 2", "assert f(2) == 3"], "assert f(1) == 2 assert f(2) == 3"),
        ({"inputs": [[1, "a"]], "outputs": [[2]], "fn_name": "f"}, "f(1, 'a') == [2]"),
        ({"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}, r"'1 2\n' -> '3\n'; '3 4\n' -> '7\n'"),
    ],
)
def test_reference_of_a_program_is_its_tests(tests: object, shown: str) -> None:
    reference = build_code_reference({"prompt": "Write f.", "solution": "def f(x): return x + 1"}, tests)
    assert describe_reference(reference) == shown


def test_reference_of_a_generated_task_is_its_answer() -> None:
    record = json.dumps({"task": "chain_sum", "options": {}, "record": "{'question': '1 + 1', 'answer': '2'}"})
    assert describe_reference(record) == "2"
    for other in ("19", "{", '{"record": 3}', '{"record": "open("}', "[1]"):
        assert describe_reference(other) == other
    for other in ('{"kind": "calls"}', '{"kind": "stdio", "inputs": 3}', '{"kind": ["tests"]}'):
        assert describe_reference(other) == other, "only looks like tests"
    assert len(describe_reference("assert f(1)\n" * 100)) == 200
