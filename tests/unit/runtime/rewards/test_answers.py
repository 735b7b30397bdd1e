import pytest

from scalerl_api.recipe import ThinkTags
from scalerl_runtime.data.prompts import GeneratedRecord, build_entry_answer
from scalerl_runtime.rewards.answers import find_answer, is_right_entry, is_right_mathematics


@pytest.mark.parametrize("tags", [("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|a|>x<|m|>", "<|b|>y<|m|>")])
@pytest.mark.parametrize(
    ("opened", "completion", "answer", "rule"),
    [
        (False, "4", "4", "no thinking: all of it is the answer"),
        (False, " 4\n", "4", "space around an answer is none of it"),
        (False, "OPEN2+2=4CLOSE4", "4", "the answer follows the thinking"),
        (False, "OPENaCLOSE5OPENbCLOSE 4", "4", "the last thinking counts"),
        (False, "OPEN2+2=4", None, "cut in its thinking"),
        (False, "5OPEN2+2=4", None, "an answer before unfinished thinking is none"),
        (True, "2+2=4", None, "the prompt opened the thinking"),
        (True, "2+2=4CLOSE4", "4", "and the completion closed it"),
        (False, "OPENaCLOSE", "", "nothing after the thinking is an empty answer"),
        (False, "", "", "an empty completion is an empty answer"),
    ],
)
def test_find_answer(tags, opened, completion, answer, rule):
    written = completion.replace("OPEN", tags[0]).replace("CLOSE", tags[1])
    assert find_answer(written, ThinkTags(open=tags[0], close=tags[1]), opened=opened) == answer, rule


@pytest.mark.parametrize(
    ("answer", "reference", "right", "rule"),
    [
        ("42", "42", True, "the same number"),
        ("43", "42", False, "another number"),
        (r"The answer is $\frac{1}{2}$.", "0.5", True, "a fraction and its decimal"),
        (r"$\boxed{\frac{2}{4}}$", r"\frac{1}{2}", True, "an unreduced fraction, in a box"),
        (r"$2x + 2y$", "2(x+y)", True, "an expanded product"),
        (r"$x^2$", "2x", False, "another expression"),
        (r"$\sqrt{8}$", r"$2\sqrt{2}$", True, "two forms of a root"),
        (r"$\{1, 2\}$", r"$\{2, 1\}$", True, "sets have no order"),
        (r"$(1, 2)$", r"$(2, 1)$", False, "tuples have"),
        (r"\frac12", "0.5", True, "LaTeX without delimiters"),
        ("x^2", "$x^2$", True, "a formula without delimiters"),
        ("$(1, 2)$", "$1 < x < 2$", True, "an interval for the inequality that was asked for"),
        (
            "$1 < x < 2$",
            "$(1, 2)$",
            False,
            "the other way round it may be a point: the reference is the first argument",
        ),
        ("-7", "7", False, "the sign counts"),
        ("1,000", "1000", True, "a separator of thousands"),
        ("no idea", "42", False, "words are no number"),
        ("", "42", False, "nothing is wrong"),
    ],
)
def test_mathematics(answer, reference, right, rule):
    assert is_right_mathematics(answer, reference) is right, rule


def test_a_reference_that_is_no_mathematics_is_not_the_answers_fault():
    with pytest.raises(ValueError, match="reference answer '' is not mathematics"):
        is_right_mathematics("42", "")


ENTRY = build_entry_answer(GeneratedRecord("chain_sum", {}, {"question": "12 + 7 =", "answer": "19", "metadata": {}}))


@pytest.mark.parametrize(
    ("answer", "right", "rule"),
    [
        ("19", True, "the record's answer"),
        ("18", False, "another number"),
        ("it is 19 or so", False, "part of a score is not right"),
        ("", False, "nothing"),
    ],
)
def test_generated_entry(answer, right, rule):
    assert is_right_entry(answer, ENTRY) is right, rule


BROKEN = build_entry_answer(GeneratedRecord("gcd", {}, {"question": "?", "answer": "3"}))


def test_a_scorer_that_fails_on_the_answer_only_means_wrong_else_it_raises(monkeypatch):
    """reasoning_gym's scorers do not expect every answer; the record's own they must be able to score."""
    from scalerl_runtime.rewards import answers

    def score(answer: str, _record: dict[str, object]) -> float:
        return 1.0 if int(answer) == 3 else 0.0

    monkeypatch.setattr(answers, "_find_scorer", lambda _: (score, {}, "3"))
    assert answers.is_right_entry("three", BROKEN) is False
    for solution in ("III", "4", None):  # it raises for the solution too, finds it wrong, or has none
        monkeypatch.setattr(answers, "_find_scorer", lambda _, kept=solution: (score, {}, kept))
        with pytest.raises(ValueError, match="invalid literal"):
            answers.is_right_entry("three", BROKEN)
