"""Extracts the answer from a completion and compares it with the reference. PURE."""

from collections.abc import Callable
from functools import lru_cache

from scalerl_api.recipe import ThinkTags
from scalerl_runtime.data.prompts import parse_entry_answer

DELIMITED = ("$", "\\boxed", "\\(", "\\[")  # how math-verify finds LaTeX in a text
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


def find_answer(completion_text: str, tags: ThinkTags, *, opened: bool) -> str | None:
    """Return what follows the last closing tag, or the whole completion without thinking; None in unfinished thinking.

    `opened`: the prompt opened the thinking.
    """
    _, closed, answer = completion_text.rpartition(tags.close)
    if closed:
        return answer.strip()
    return None if opened or tags.open in completion_text else completion_text.strip()


def is_right_mathematics(answer: str, reference: str) -> bool:
    """Return whether math-verify finds both equal. Raises ValueError if the reference is not mathematics.

    There is no time limit here: math-verify's own is a signal, which works only in a main thread. The parent process
    has one instead.
    """
    from math_verify import verify

    gold = _parse_reference(reference)
    if not gold:
        raise ValueError(f"the reference answer {reference!r} is not mathematics")
    target = _parse_mathematics(answer) or _parse_mathematics(f"${answer}$")
    return bool(target) and bool(verify(gold, target, timeout_seconds=None))


@lru_cache(maxsize=1024)  # all completions of a group share one reference
def _parse_reference(reference: str) -> list[object]:
    bare = [] if any(mark in reference for mark in DELIMITED) else _parse_mathematics(f"${reference}$")
    return _parse_mathematics(reference) + bare


def _parse_mathematics(text: str) -> list[object]:
    from math_verify import parse

    return list(parse(text, parsing_timeout=None))


def is_right_entry(answer: str, reference: str) -> bool:
    """Return whether reasoning_gym gives `answer` the full score for the record in `reference`."""
    score, record, solution = _find_scorer(reference)
    try:
        return score(answer, record) >= RIGHT_SCORE
    except SCORER_ERRORS:  # a scorer that can grade the solution failed because of the answer: the answer is wrong
        if solution is None or score(solution, record) < RIGHT_SCORE:
            raise
        return False


Scorer = Callable[[str, dict[str, object]], float]


@lru_cache(maxsize=1024)
def _find_scorer(reference: str) -> tuple[Scorer, dict[str, object], str | None]:
    import reasoning_gym

    entry = parse_entry_answer(reference)
    table = reasoning_gym.create_dataset(entry.task, seed=0, size=1, **entry.options)
    solution = entry.record["answer"]
    return table.score_answer, entry.record, solution if isinstance(solution, str) else None
