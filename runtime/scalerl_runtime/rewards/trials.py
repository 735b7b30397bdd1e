"""The answers that a verifier must find right or wrong before a run starts. PURE."""

from dataclasses import dataclass

from scalerl_runtime.rewards.code_reference import do_nothing_programs, parse_code_reference
from scalerl_runtime.rewards.references import WRONG_ANSWERS, build_right_answers


@dataclass(frozen=True)
class RowTrials:
    """The answers to try on one row."""

    right: tuple[str, ...]  # each must be right; empty: no answer of the row is known to be right
    wrong: tuple[str, ...]  # each must be wrong


def build_trials(verifier: str, reference: str) -> RowTrials:
    """Return the trials of one row for a verifier of ours. Raises ValueError if it cannot read the reference."""
    if verifier == "code":
        solution = parse_code_reference(reference).solution
        return RowTrials((solution,) if solution else (), do_nothing_programs(reference))
    return RowTrials(build_right_answers(verifier, reference), WRONG_ANSWERS)
