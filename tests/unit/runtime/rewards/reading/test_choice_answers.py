"""The formats of answers to multiple choice: the completion, and the label that it names."""

import json

import pytest

from scalerl_runtime.rewards.reading.choice_answers import is_right_choice

OPTIONS = json.dumps(
    {"label": "B", "options": {"A": "5 apples", "B": "Paris", "C": "7(√3 – 1)", "D": "None of these", "E": "12"}}
)

NAMED = [
    ("B", "B"),
    ("b", "B"),
    ("B.", "B"),
    ("(B)", "B"),
    ("(b)", "B"),
    ("B)", "B"),
    ("[B]", "B"),
    ("**B**", "B"),
    ("**(B)**", "B"),
    ("B:", "B"),
    ("`B`", "B"),
    ("$B$", "B"),
    ("The answer is B", "B"),
    ("The answer is B.", "B"),
    ("The answer is (B).", "B"),
    ("The answer is **B**.", "B"),
    ("the answer is b.", "B"),
    ("The correct answer is B) Paris.", "B"),
    ("The correct option is B.", "B"),
    ("The correct choice is (B)", "B"),
    ("The answer is option B.", "B"),
    ("The answer is: B", "B"),
    ("Answer: B", "B"),
    ("Answer: b", "B"),
    ("answer: (b)", "B"),
    ("**Answer:** B", "B"),
    ("**Answer: B**", "B"),
    ("Answer B", "B"),
    ("Answer:\nB", "B"),
    ("Final answer: B", "B"),
    ("ANSWER = B", "B"),
    (r"\boxed{B}", "B"),
    (r"\boxed{(B)}", "B"),
    (r"\boxed{\text{B}}", "B"),
    (r"\boxed{\textbf{(B)}}", "B"),
    (r"\boxed{b}", "B"),
    (r"\boxed{B) 5}", "B"),
    (r"$\boxed{B}$", "B"),
    (r"\boxed{\text{Option B}}", "B"),
    (r"The answer is $\boxed{\text{(B)}\ 5}$.", "B"),
    ("<answer>C</answer>", "C"),
    ("<answer>(C)</answer>", "C"),
    ("<answer> c </answer>", "C"),
    ("<answer>C. Rome</answer>", "C"),
    ("<answer>The answer is C</answer>", "C"),
    (r"<answer>\boxed{C}</answer>", "C"),
    ("<answer>C", "C"),
    ("#### D", "D"),
    ("so 5\n#### (D)", "D"),
    ("Option D", "D"),
    ("Option D.", "D"),
    ("I choose option D.", "D"),
    ("I would pick D.", "D"),
    ("Choice (c)", "C"),
    ("It is option C because it fits.", "C"),
    ("B because Paris is in France.", "B"),
    ("B) 5(√3 + 1)", "B"),
    ("(B) 5", "B"),
    ("B. Paris", "B"),
    ("B: Paris", "B"),
    ("The answer is B because A is wrong.", "B"),
    ("The answer is B, since A and C are wrong.", "B"),
    ("The answer is B, not A.", "B"),
    ("A good answer is B", "B"),
    ("A good answer is B.", "B"),
    ("I think the answer is B", "B"),
    ("I think that the answer is E.", "E"),
    ("The answer is A.", "A"),
    ("The answer is A", "A"),
    ("Answer: A", "A"),
    ("Answer: a", "A"),
    ("A", "A"),
    ("a", "A"),
    ("The answer is A because it is.", "A"),
    ("The answer is I.", "I"),
    ("Option A is wrong. The answer is B.", "B"),
    ("The answer is B. Option A is wrong.", "B"),
    ("Answer: A. No wait. Answer: B", "B"),
    (r"\boxed{A} no, \boxed{B}", "B"),
    ("(A) 5 (B) 6 (C) 7\nThe answer is (C).", "C"),
    ("Option A: 5, option B: 6. The answer is B", "B"),
    ("So it must be\n(B)", "B"),
    ("We get 6, that is (B).", "B"),
    ("Thus the result is **B**.", "B"),
    ("答案是B。", "B"),
    ("答案：B", "B"),
    ("正确答案是 (B)", "B"),
    ("故选B。", "B"),
    ("选项B", "B"),
    ("Die Antwort ist B.", "B"),
    ("La respuesta es B.", "B"),
    ("La réponse est (B)", "B"),
    ("Z", "Z"),
    ("The answer is J.", "J"),
    ("The answer to this question is B.", "B"),
    ("3", "3"),
    ("(3)", "3"),
    ("The answer is 3.", "3"),
    ("Option 3", "3"),
    (r"\boxed{3}", "3"),
    ("3. five apples", "3"),
    ("Answer: 3)", "3"),
    ("<answer>3</answer>", "3"),
]


@pytest.mark.parametrize(("completion", "label"), NAMED)
def test_the_label_that_is_named(completion, label):
    assert is_right_choice(completion, label)
    assert not is_right_choice(completion, "Q")
    assert not is_right_choice(completion, "4")


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "I do not know",
        "A and B",
        "A or B",
        "A, B",
        "A/B",
        "The answer is A or B.",
        "The answer is A and B",
        "The answer is B and A",
        "The answer is A, B",
        "The answer is either A or B.",
        "Both A and B",
        "The answer is both B and C",
        r"\boxed{A, B}",
        r"\boxed{A} or \boxed{B}",
        "<answer>A or B</answer>",
        "Answer: A/B",
        "(A) 5 (B) 6",
        "A) 5 B) 6",
        "A. 5\nB. 6",
        "A. 5 B. 6 C. 7",
        "A)5 B)6 C)7",
        "A)5\nB)6\nC)7",
        "(A) 5\n(B) 6\n(C) None of these",
        "ABCDE",
        "A B C D",
        "The answer is a good one.",
        "A good answer is hard to find",
        "A good question",
        "I think so",
        "I am not sure",
        "The answer is good",
        "Because",
        "Bob",
        "Option A: 5, option B: 6",
        "The answer is Bob.",
        r"\boxed{}",
        r"\boxed{AB}",
        "<answer></answer>",
        "#### ",
        "The answer is not given",
        "The answer is B or (A)",
        "The options are (A) and (B)",
        "Either (A) or (B)",
        "The answer is 3.5",
        "35",
        "3.5",
        "3,000",
        "The answer is 3 or 4",
        "a prime number",
        "The answer is a",
    ],
)
def test_no_label_or_several(completion):
    named = [label for label in "ABCDE3456" if is_right_choice(completion, label)]
    assert named == ([] if completion != "The answer is a" else ["A"])


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("Paris", True),
        ("The answer is Paris.", True),
        (r"\boxed{\text{Paris}}", True),
        ("<answer>paris</answer>", True),
        ("Answer: Paris", True),
        ("B", True),
        ("B) Paris", True),
        ("It is Rome", False),
        ("5 apples", False),
        ("None of these", False),
        ("A", False),
        ("The answer is 12", False),
        ("The answer is Paris or Rome", False),
        ("F", False),
        ("", False),
        ("Paris is a city. The answer is 5 apples.", False),
        ("The answer is 5 apples, not Paris", False),
    ],
)
def test_options_are_known_by_their_text(completion, right):
    assert is_right_choice(completion, OPTIONS) is right


def test_a_label_counts_before_an_options_text():
    numbered = json.dumps({"label": "2", "options": {"1": "2", "2": "1", "3": "4"}})
    assert is_right_choice("2", numbered)
    assert not is_right_choice("1", numbered)
    assert not is_right_choice("4", numbered)
    assert is_right_choice("4", numbered.replace('"label": "2"', '"label": "3"'))


@pytest.mark.parametrize("reference", ["Paris", "", "A and B", "the first"])
def test_a_reference_without_a_label_is_bad(reference):
    with pytest.raises(ValueError, match="no label"):
        is_right_choice("B", reference)
