"""Votes by the real verifiers: which answers to one prompt are the same."""

import asyncio

import numpy as np
import pytest

from scalerl_api import parse_run
from scalerl_runtime.algorithm.majority import NO_VOTE, RIGHT
from scalerl_runtime.rewards.references import build_reference
from scalerl_runtime.rewards.verifier import make_verifier
from scalerl_runtime.rewards.voting import AnswerVoting
from scalerl_runtime.types import Completion, Prompt

OPTIONS = {"options": ["cat", "dog", "eel"]}


def vote(reward, reference, texts):
    """Grade the texts, and return their votes."""
    spec = {
        "model": {"source": "some/model"},
        "data": {"train": {"source": "rows.jsonl"}},
        "reward": {"timeoutSeconds": 60.0, **reward},
        "budget": {"steps": 400},
    }
    verifier = make_verifier(parse_run({"metadata": {"name": "votes"}, "spec": spec}))
    none = np.zeros(0, np.int32)
    prompt = Prompt(1, "?", none, reference)

    async def grade():
        completions = []
        for text in texts:
            found = await verifier.verify(prompt, text)
            empty = (none, np.zeros(0, np.float32), none, np.zeros(0, np.bool_))
            completions.append(Completion(*empty, "stop", text, found.reward))
        try:
            return await AnswerVoting(verifier).vote(prompt, completions)
        finally:
            await verifier.close()

    return asyncio.run(grade())


@pytest.mark.parametrize(
    ("reward", "reference", "answers"),
    [
        (
            {"verifier": "math"},
            "12",
            [
                ("\\boxed{12}", RIGHT),
                ("12.0", RIGHT),
                ("The answer is 0.5.", 1),
                ("\\boxed{.50}", 1),
                (r"\boxed{\frac{1}{2}}", 1),
                (r"\boxed{\frac{\sqrt{2}}{\sqrt{8}}}", 1),
                ("\\boxed{x+1}", 2),
                ("\\boxed{1+x}", 2),
                ("\\boxed{x+2}", 3),
                ("I do not know", NO_VOTE),
                ("<think>so it is 12", NO_VOTE),
                ("<think>12?</think>13", 4),
                ("#### 13", 4),
            ],
        ),
        (
            {"verifier": "math"},
            build_reference("math", {}, "Monday"),
            [("Monday", RIGHT), ("The answer is Friday.", 1), ("\\boxed{\\text{friday}}", 1), ("Sunday", 2)],
        ),
        (
            {"verifier": "choice"},
            build_reference("choice", OPTIONS, "B"),
            [("B", RIGHT), ("The answer is dog.", RIGHT), ("(a)", 1), ("cat", 1), ("C", 2), ("A or C", NO_VOTE)],
        ),
    ],
    ids=["numbers and formulas", "words", "options"],
)
def test_equal_answers_have_one_vote(reward, reference, answers):
    texts, votes = zip(*answers, strict=True)
    assert vote(reward, reference, texts) == list(votes)


@pytest.mark.parametrize(
    ("reward", "rule"),
    [
        ({"verifier": "code", "timeoutSeconds": 60.0}, "programs"),
        ({"verifiers": [{"verifier": "math"}, {"verifier": "choice"}]}, "several verifiers"),
    ],
)
def test_there_is_no_vote_without_equal_answers(reward, rule):
    assert vote(reward, "assert f(1) == 2" if rule == "programs" else "B", []) is None, rule
