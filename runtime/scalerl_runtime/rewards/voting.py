"""Groups the answers to one prompt for a majority vote, by the verifier's own notion of equal answers. I/O."""

from collections.abc import Sequence

from scalerl_runtime.algorithm.majority import NO_VOTE, RIGHT
from scalerl_runtime.rewards.reading.choice_answers import find_label
from scalerl_runtime.rewards.reading.choice_references import parse_choice
from scalerl_runtime.rewards.reading.math_answers import is_plain_value, read_vote
from scalerl_runtime.rewards.requests import GradeRequest
from scalerl_runtime.rewards.verifier import Judge, Verifier
from scalerl_runtime.types import Completion, Prompt

VOTING = ("math", "choice")  # programs and functions have no answers that could be equal
MAX_COMPARED = 16  # different answers to a prompt that formulas are compared with; beyond, the writing decides


class AnswerVoting:
    """Votes of completions that are graded already."""

    def __init__(self, verifier: Verifier):
        self._verifier = verifier

    async def vote(self, prompt: Prompt, completions: Sequence[Completion]) -> list[int] | None:
        """Return the number of each completion's answer: RIGHT, NO_VOTE, or from 1, equal for equal answers.

        None: the prompt's source has another verifier than `math` or `choice`, or several.
        """
        judges = self._verifier.judges_of(prompt.source)
        if len(judges) != 1 or judges[0].verifier not in VOTING:
            return None
        wrong = _WrongAnswers(judges[0], prompt)
        votes = []
        for each in completions:
            if each.reward is not None and each.reward > 0:
                votes.append(RIGHT)
                continue
            answer = self._verifier.find_answer(judges[0], prompt, each.text)
            reading = "" if answer is None else _read(judges[0].verifier, answer, prompt.answer)
            votes.append(await wrong.number(reading) if reading else NO_VOTE)
        return votes


def _read(verifier: str, answer: str, reference: str) -> str:
    if verifier == "choice":
        return find_label(answer, parse_choice(reference)) or ""
    return read_vote(answer, reference)


class _WrongAnswers:
    """The different wrong answers to one prompt."""

    def __init__(self, judge: Judge, prompt: Prompt):
        self._judge = judge
        self._prompt = prompt
        self._numbers: dict[str, int] = {}
        self._known: list[str] = []  # one answer of each group

    async def number(self, reading: str) -> int:
        """Return the number of the group of an answer."""
        if reading not in self._numbers:
            self._numbers[reading] = await self._find_equal(reading) or len(set(self._numbers.values())) + 1
        return self._numbers[reading]

    async def _find_equal(self, reading: str) -> int | None:
        for known in self._known[:MAX_COMPARED] if self._judge.verifier == "math" else ():
            if is_plain_value(reading) and is_plain_value(known):
                continue
            request = GradeRequest(self._prompt.text, f"\\boxed{{{reading}}}", known, self._prompt.source)
            if (await self._judge.backend.grade(request)).reward == 1.0:
                return self._numbers[known]
        self._known.append(reading)
        return None
