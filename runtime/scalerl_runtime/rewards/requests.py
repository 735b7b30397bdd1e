"""The request to a verifier, and one reward of the rewards of several verifiers. PURE."""

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Self

from scalerl_runtime.types import Reward


@dataclass(frozen=True)
class GradeRequest:
    """One completion to grade."""

    prompt: str
    answer: str  # the completion without its thinking; for `python:`, the whole completion
    reference: str
    source: str = ""  # name of the training source or downstream set
    question: str = ""  # the prompt before its rendering; empty: it is `prompt`

    def to_list(self) -> list[str]:
        """Return the fields in order, for JSON."""
        return list(astuple(self))

    @classmethod
    def parse(cls, fields: list[str]) -> Self:
        """Inverse of `to_list`."""
        return cls(*fields)


def combine(rewards: Mapping[str, Reward], weights: Mapping[str, float]) -> Reward:
    """Return the mean of the rewards by judge, weighted.

    A judge that failed (an error) leaves the completion without a reward: a mean of the other judges is on another
    scale than the rest of its group. A judge that has no opinion (neither reward nor error) is left out, as in TRL.
    """
    by_judge = {name: each.reward for name, each in rewards.items() if each.reward is not None}
    errors = {name: each.error for name, each in rewards.items() if each.error}
    if errors:
        words = "; ".join(error if len(rewards) == 1 else f"{name}: {error}" for name, error in errors.items())
        return Reward(None, words, by_judge)
    if not by_judge:
        return Reward(None, "every verifier returned None: no opinion", by_judge)
    total = sum(weights[name] for name in by_judge)
    mean = sum(weights[name] * reward for name, reward in by_judge.items()) / total
    timed_out = any(each.timed_out for each in rewards.values())
    return Reward(min(1.0, max(-1.0, mean)), "", by_judge, timed_out)
