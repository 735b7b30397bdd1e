"""Judges answers to generated reasoning_gym records with the library's own scorers. PURE."""

import re
from collections.abc import Callable
from functools import lru_cache

from scalerl_runtime.data.prompts import parse_entry_answer
from scalerl_runtime.rewards.reading.marked_answers import PHRASE, find_enclosed_answer

# The exceptions of reasoning_gym's scorers for an answer of another form than they expect: they call int(), index,
# unpack, compute and evaluate what the answer holds. Any other exception is the verifier's own failure: no reward.
SCORER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NameError,
    RuntimeError,  # RecursionError and NotImplementedError too
    SyntaxError,
    TypeError,
    ValueError,
)
RIGHT_SCORE = 1.0 - 1e-6  # reasoning_gym gives parts of 1 for near misses; only the full score counts
TAG = re.compile(r"<answer>\s?(.*?)\s?</answer>", re.DOTALL)  # as reasoning_gym.utils.extract_answer finds it
FENCE = re.compile(r"```\w*\n(.*?)\n?```", re.DOTALL)
BOLD = re.compile(r"(\*\*|__|`)(?=\S)(.+)(?<=\S)\1\.?", re.DOTALL)
TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|texttt)\s*\{([^{}]*)\}")

Scorer = Callable[[str, dict[str, object]], float]


def is_right_entry(answer: str, reference: str) -> bool:
    """Return whether reasoning_gym gives `answer` the full score for the record in `reference`."""
    score, record, solution = _find_scorer(reference)
    return any(_is_full(score, record, solution, each) for each in list_readings(answer))


def list_readings(answer: str) -> list[str]:
    """Return what may be the answer, at most four texts: the marked part with and without Markdown and a full stop.

    The library's tags win, and the answer as a whole comes next, because a solution itself may hold boxes and colons.
    """
    tagged = TAG.findall(answer)
    if tagged:
        return _list_forms(tagged[-1].strip())
    marked = find_enclosed_answer(answer)
    if marked is not None:
        return list(dict.fromkeys([answer, *_list_forms(marked.content)]))
    announced = list(PHRASE.finditer(answer))
    content = answer[announced[-1].end() :] if announced else answer
    content = re.sub(r"^(?:\*\*|__)\s", "", content).strip()  # what ended `**Answer:**`
    return list(dict.fromkeys([answer, *_list_forms(content)]))


def _list_forms(content: str) -> list[str]:
    fenced = FENCE.search(content)
    bare = fenced[1] if fenced is not None else TEXT_COMMAND.sub(r"\1", content.strip(" $"))
    bold = BOLD.fullmatch(bare)
    bare = bold[2] if bold is not None else bare
    return list(dict.fromkeys([content, bare, bare.removesuffix(".")]))


def _is_full(score: Scorer, record: dict[str, object], solution: str | None, answer: str) -> bool:
    try:
        return score(answer, record) >= RIGHT_SCORE
    except SCORER_ERRORS:  # a scorer that can grade the solution failed because of the answer: the answer is wrong
        if solution is None or score(solution, record) < RIGHT_SCORE:
            raise
        return False


@lru_cache(maxsize=1024)
def _find_scorer(reference: str) -> tuple[Scorer, dict[str, object], str | None]:
    import reasoning_gym

    entry = parse_entry_answer(reference)
    table = reasoning_gym.create_dataset(entry.task, seed=0, size=1, **entry.options)
    solution = entry.record["answer"]
    return table.score_answer, entry.record, solution if isinstance(solution, str) else None
