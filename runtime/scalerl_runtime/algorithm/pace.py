"""The pace of generation inside the staleness bound, and the sequences that an engine has room for. PURE.

The bound (staleness.py) says what may never happen; the pace keeps tokens younger than the bound where that costs the
trainer nothing. Choice, proof and measurements: note 082.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from scalerl_runtime.algorithm.staleness import StalenessBound

SMOOTHING = 1 / 64  # weight of the newest group in the mean lengths
MIN_RUNNING_SHARE = 0.25  # an engine gets at most four times the sequences that it runs at once


def groups_to_start(bound: StalenessBound, num_ready: int, num_in_flight: int) -> int:
    """Return how many groups the pace lets start now, >= 0; `capacity` limits them further.

    Args:
        bound: the staleness bound, with P prompts a step.
        num_ready: complete groups that wait for a step.
        num_in_flight: groups that generators are sampling.

    The number of outstanding groups is held constant, at three eighths of the lag less than the bound allows: that
    slack lets long completions end before their deadline stops the trainer. Two ready groups beyond a batch take the
    place of one more, so engines that are ahead slow down gradually and never drain. With less than a batch outstanding
    at least one group may start: the trainer cannot wait for ever. A cycle has to be complete before it is trained, so
    it has no pace.
    """
    excess, slack = max(0, num_ready - bound.prompts_per_step) // 2, 3 * bound.max_lag // 8
    if bound.cycle:
        excess = slack = 0
    return max(0, (bound.max_lag + 1 - slack) * bound.prompts_per_step - excess - num_ready - num_in_flight)


@dataclass(frozen=True)
class RunningShare:
    """Estimates which share of a group's completions runs, on average over the time until its longest is complete."""

    mean_tokens: float = 0.0
    longest_tokens: float = 0.0

    @property
    def value(self) -> float:
        """The share, in [0.25, 1]; 1 while no group is complete."""
        return max(MIN_RUNNING_SHARE, self.mean_tokens / self.longest_tokens) if self.longest_tokens else 1.0

    def add(self, lengths: Sequence[int]) -> "RunningShare":
        """Return the estimate after another group, whose completions have these numbers of tokens."""
        mean, longest = sum(lengths) / len(lengths), float(max(lengths))
        if not self.longest_tokens:
            return RunningShare(mean, longest)
        return dataclasses.replace(
            self,
            mean_tokens=self.mean_tokens + SMOOTHING * (mean - self.mean_tokens),
            longest_tokens=self.longest_tokens + SMOOTHING * (longest - self.longest_tokens),
        )

    def sequences(self, max_sequences: int) -> int:
        """Return how many sequences, in whole groups, an engine can have so that `max_sequences` of them run."""
        return int(max_sequences / self.value)
