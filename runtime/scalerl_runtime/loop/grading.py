"""Turns samples into graded completions: the reward, and the mask of the tokens that were forced. I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from scalerl_runtime.algorithm.interruption import ForcedTokens, Interruption, forced_mask
from scalerl_runtime.types import Completion, EngineOutput, Prompt, Reward, build_completion


class Grader(Protocol):
    """Rewards a completion."""

    async def __call__(self, prompt: Prompt, text: str) -> Reward:
        """Reward of one completion. An error that it raises ends the attempt."""
        ...


class Voting(Protocol):
    """Tells equal answers to one prompt from different ones."""

    async def vote(self, prompt: Prompt, completions: Sequence[Completion]) -> list[int] | None:
        """Return the number of each completion's answer (see `maj_at_k`); None: its verifier knows no equal answers."""
        ...


@dataclass(frozen=True)
class GradedSample:
    """A completion with its reward."""

    completion: Completion
    mismatches: int = 0  # 1 if its forced phrase is at the wrong position, else 0
    timed_out: bool = False  # see `Reward.timed_out`


@dataclass(frozen=True)
class SampleGrader:
    """Grades what an engine sampled."""

    grade: Grader
    interruption: Interruption | None  # None: no completion is interrupted

    async def finish(self, prompt: Prompt, sample: EngineOutput | Completion, budget: int | None) -> GradedSample:
        """Return a sample with its reward; an episode has it already. `budget`: of its thinking; None: unlimited."""
        if isinstance(sample, Completion):
            return GradedSample(sample)
        reward, forced = await self.grade(prompt, sample.text), self._find_forced(prompt, sample, budget)
        completion = build_completion(sample, reward, forced.mask)
        return GradedSample(completion, forced.mismatches, reward.timed_out)

    def _find_forced(self, prompt: Prompt, sample: EngineOutput, budget: int | None) -> ForcedTokens:
        """Return which tokens of `sample` the engine forced."""
        if budget is None or self.interruption is None:
            return ForcedTokens(np.zeros(len(sample.tokens), dtype=np.bool_), 0)
        return forced_mask(sample.tokens, self.interruption, budget, prompt.think_tokens)
