"""Filters: groups that enter the loss, and prompts that are excluded for the rest of the run. PURE."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ZeroVariance = Literal["drop", "keep", "refill"]

# DAPO keeps sampling until the batch is full. Bounded here: with only uninformative groups it never fills.
REFILL_ROUNDS = 3


@dataclass(frozen=True)
class StepDecision:
    """The decision on the groups that are available for a step."""

    kept: tuple[int, ...]  # positions of the groups that enter the loss
    dropped: tuple[int, ...]  # positions of those that do not
    refill: int  # more groups to wait for before the step; 0: step now

    @property
    def optimizer_step(self) -> bool:
        """False: no group is left to learn from; skip the optimizer, but advance the version."""
        return self.refill == 0 and bool(self.kept)


def is_zero_variance(rewards: NDArray[np.float64]) -> bool:
    """Return whether a group has nothing to compare: fewer than two valid rewards (NaN is invalid), or all equal."""
    valid = rewards[~np.isnan(rewards)]
    return valid.size < 2 or bool(valid.min() == valid.max())


def decide_step(kind: ZeroVariance, rewards: Sequence[NDArray[np.float64]], *, prompts_per_step: int) -> StepDecision:
    """Decide on the available groups by their rewards; each [G], as they enter the advantage.

    `keep`: all enter. `drop`: groups of zero variance leave and the step is smaller. `refill`: they leave and more
    groups are requested, until the step is full or (REFILL_ROUNDS + 1) * prompts_per_step groups were taken.
    So a step needs finitely many groups, whatever the rewards; with none kept it only advances the version.
    """
    zero = [kind != "keep" and is_zero_variance(each) for each in rewards]
    kept = tuple(i for i, is_zero in enumerate(zero) if not is_zero)
    dropped = tuple(i for i, is_zero in enumerate(zero) if is_zero)
    refill = 0
    if kind == "refill":
        left = (REFILL_ROUNDS + 1) * prompts_per_step - len(rewards)
        refill = max(0, min(prompts_per_step - len(kept), left))
    return StepDecision(kept, dropped, refill)


@dataclass(frozen=True)
class PassRateHistory:
    """Every prompt's pass rate over the run so far, and the prompts that are excluded for good.

    ScaleRL's no-positive-resampling: a prompt whose historic pass rate reaches `threshold` leaves the later epochs.
    """

    threshold: float  # in [0, 1]
    counts: Mapping[int, tuple[int, int]]  # prompt id -> (passes, graded completions)
    excluded: frozenset[int]  # permanent, even if a group already in flight lowers the rate afterwards

    @classmethod
    def empty(cls, threshold: float) -> "PassRateHistory":
        """Return an empty history."""
        return cls(threshold, {}, frozenset())

    def record(self, results: Iterable[tuple[int, NDArray[np.float64]]]) -> "PassRateHistory":
        """Return the history with groups added: (prompt id, [G] rewards as verified, before any length penalty).

        A reward above 0 is a pass. NaN, a failure of the verifier, is not counted.
        """
        counts, excluded = dict(self.counts), set(self.excluded)
        for prompt, rewards in results:
            passes, graded = counts.get(prompt, (0, 0))
            passes += int(np.count_nonzero(rewards > 0.0))
            graded += int(np.count_nonzero(~np.isnan(rewards)))
            if graded == 0:
                continue
            counts[prompt] = passes, graded
            if passes / graded >= self.threshold:
                excluded.add(prompt)
        return PassRateHistory(self.threshold, counts, frozenset(excluded))

    def pass_rate(self, prompt: int) -> float | None:
        """Return the historic pass rate in [0, 1]; None for a prompt that was never graded."""
        passes, graded = self.counts.get(prompt, (0, 0))
        return passes / graded if graded else None

    def to_dict(self) -> dict[str, object]:
        """Return a JSON-able value for `from_dict`; the same history always gives the same value."""
        return {
            "threshold": self.threshold,
            "counts": [[prompt, *self.counts[prompt]] for prompt in sorted(self.counts)],
            "excluded": sorted(self.excluded),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> "PassRateHistory":
        """Return the history that `to_dict` described. Raises ValueError on anything else."""
        match data:
            case {"threshold": float() | int() as threshold, "counts": list(rows), "excluded": list(excluded)}:
                counts = {int(prompt): (int(passes), int(graded)) for prompt, passes, graded in rows}
                return cls(float(threshold), counts, frozenset(map(int, excluded)))
        raise ValueError(f"pass-rate history has keys {sorted(data)}; need threshold, counts, excluded")
