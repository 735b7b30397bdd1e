"""From rewards to advantages. PURE."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Normalization = Literal["batchStd", "groupStd", "none"]


def compute_advantages(
    kind: Normalization, rewards: NDArray[np.float64], group: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the reward less its group's mean, divided as `kind` says, [B].

    Args:
        kind: `batchStd`: by the standard deviation of all advantages of the batch. `groupStd`: by the standard
            deviation of the group's rewards. `none`: by nothing.
        rewards: [B]; NaN where the verifier failed.
        group: [B] which group a completion belongs to, any integers.

    A completion whose verifier failed has advantage 0 and enters no mean and no deviation. The same holds where a group
    has fewer than two valid rewards: there is nothing to compare. A group of equal rewards has advantages of
    exactly 0. Standard deviations divide by the count (not the count less one); nothing is divided by zero.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    if rewards.shape != np.shape(group) or rewards.ndim != 1:
        raise ValueError(f"rewards has shape {rewards.shape}, group {np.shape(group)}; need one entry each")
    _, index = np.unique(group, return_inverse=True)
    advantages = np.zeros_like(rewards)
    counted = np.zeros(rewards.shape, dtype=bool)
    for each in range(int(index.max(initial=-1)) + 1):
        members = np.flatnonzero((index == each) & ~np.isnan(rewards))
        if members.size < 2:
            continue
        counted[members] = True
        centered = _center(rewards[members])
        advantages[members] = _over_std(centered) if kind == "groupStd" else centered
    if kind == "batchStd" and counted.any():
        advantages[counted] = _over_std(advantages[counted])
    return advantages


def _center(rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """Subtract the mean; equal rewards give exact zeros, which rounding of the mean would not (0.1, 0.1, 0.1)."""
    if rewards.min() == rewards.max():
        return np.zeros_like(rewards)
    centered: NDArray[np.float64] = rewards - rewards.mean()
    return centered


def _over_std(centered: NDArray[np.float64]) -> NDArray[np.float64]:
    deviation = float(centered.std())
    return centered / deviation if deviation > 0.0 else centered
