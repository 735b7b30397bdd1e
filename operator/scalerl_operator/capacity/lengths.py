"""Lengths of prompts and completions: assumed from the recipe's limits, or measured. PURE.

A distribution is a grid of equally likely lengths, in tokens, so that every number of it is a sum over the grid.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

from scalerl_api.recipe import Length

GRID = 400  # lengths of a grid
SIGMA = 0.7  # of an assumed lognormal: reasoning lengths whose longest of 16 is about twice the mean, as in note 082
MEAN_SHARE = 0.4  # of the limit; an assumption. Note 082's 5,000 median at a limit of 14,336 has .41
PROMPT_SHARE = 0.1  # of promptTokens; an assumption: limits are set so that hardly any prompt is refused


@dataclass(frozen=True)
class Lengths:
    """Lengths of completions, in tokens, and the mean of prompts."""

    grid: tuple[float, ...]
    """Equally likely lengths of completions, ascending, each > 0."""
    prompt: float
    """Mean tokens of a prompt."""
    source: str
    """Where the numbers are from, for people."""

    @cached_property
    def mean(self) -> float:
        """Mean tokens of a completion."""
        return math.fsum(self.grid) / len(self.grid)

    @cached_property
    def sequence(self) -> float:
        """Mean tokens of prompt and completion."""
        return self.prompt + self.mean

    @cached_property
    def sequence_squared(self) -> float:
        """Mean of the square of prompt and completion, tokens squared: what attention grows with."""
        return math.fsum((self.prompt + each) ** 2 for each in self.grid) / len(self.grid)

    @cached_property
    def context(self) -> float:
        """Mean tokens in the cache of a sequence that is being generated, over all steps of decoding.

        A completion of n tokens is seen at each length below n once: the mean is prompt + E[n^2] / (2 E[n]).
        """
        return self.prompt + math.fsum(each * each for each in self.grid) / (2 * math.fsum(self.grid))

    @property
    def longest(self) -> float:
        """The longest completion."""
        return self.grid[-1]

    def longest_of(self, count: float) -> float:
        """Expected length of the longest of `count` completions, count >= 1.

        The sum over the grid of length times the chance that the longest falls there: (i/n)^count - ((i-1)/n)^count.
        """
        n = len(self.grid)
        return math.fsum(each * ((i / n) ** count - ((i - 1) / n) ** count) for i, each in enumerate(self.grid, 1))


def longest_completion(length: Length) -> int:
    """Return the most tokens of a completion that the recipe's control lets through."""
    if length.control == "interruption":
        return min(length.interrupt_max, length.think_tokens) + length.answer_tokens
    return length.completion_tokens


def assume_lengths(length: Length, *, mean_tokens: float | None = None) -> Lengths:
    """Return a lognormal of completions cut at the recipe's limit, with a stated mean.

    Args:
        length: the recipe's limits.
        mean_tokens: of a completion, > 0 and at most the limit; None: MEAN_SHARE of the limit.

    Raises:
        ValueError: a mean that is not in (0, limit].
    """
    limit = float(longest_completion(length))
    mean = MEAN_SHARE * limit if mean_tokens is None else mean_tokens
    if not 0 < mean <= limit:
        raise ValueError(f"{mean:g}; a mean above 0, at most {limit:.0f}, the longest completion of the recipe")
    said = f"{MEAN_SHARE:.0%} of the longest, assumed" if mean_tokens is None else "given"
    grid = _lognormal(mean, limit)
    prompt = max(1.0, PROMPT_SHARE * length.prompt_tokens)
    source = f"completions of {mean:,.0f} tokens ({said}), lognormal with sigma {SIGMA} cut at {limit:,.0f}; " + (
        f"prompts of {prompt:,.0f} ({PROMPT_SHARE:.0%} of promptTokens, assumed)"
    )
    return Lengths(grid, prompt, source)


def measured_lengths(completions: Sequence[float], prompt: float, source: str) -> Lengths:
    """Return the distribution of measured completions, in any order; the grid is their quantiles. Not empty."""
    ordered = sorted(max(1.0, each) for each in completions)
    if len(ordered) <= GRID:
        return Lengths(tuple(ordered), prompt, source)
    places = ((i + 0.5) / GRID * len(ordered) for i in range(GRID))
    return Lengths((*(ordered[int(place)] for place in places),), prompt, source)


def _lognormal(mean: float, limit: float) -> tuple[float, ...]:
    """Return the quantiles of a lognormal cut at `limit` whose mean is `mean`, by bisection over its median."""
    normal = NormalDist()
    shape = [math.exp(SIGMA * normal.inv_cdf((i + 0.5) / GRID)) for i in range(GRID)]
    low, high = 0.0, limit / shape[0]
    for _ in range(100):
        median = (low + high) / 2
        if math.fsum(min(limit, median * each) for each in shape) / GRID < mean:
            low = median
        else:
            high = median
    return tuple(max(1e-9, min(limit, high * each)) for each in shape)
