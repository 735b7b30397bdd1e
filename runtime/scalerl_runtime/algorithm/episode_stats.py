"""Statistics of a step's episodes: turns, errors, and the share of what the environment wrote. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalerl_runtime.types import Completion


@dataclass(frozen=True)
class EpisodeStats:
    """Over the completions of a step that are episodes."""

    turns_mean: float  # of the policy, per episode
    tool_errors: int  # replies that the environment marked as errors
    observation_share: float  # of all tokens after the prompt
    cut_observations: int  # longer than `observationTokens`

    def values(self) -> dict[str, float]:
        """Return the step's metrics by name."""
        return {
            "episode_turns_mean": self.turns_mean,
            "tool_errors": float(self.tool_errors),
            "observation_share": self.observation_share,
            "cut_observations": float(self.cut_observations),
        }


def measure_episodes(completions: Sequence[Completion]) -> EpisodeStats | None:
    """Return the statistics of those completions that are episodes; None if none is."""
    found = [(each, each.episode) for each in completions if each.episode is not None]
    if not found:
        return None
    tokens = sum(len(completion.tokens) for completion, _ in found)
    return EpisodeStats(
        turns_mean=float(np.mean([episode.turns for _, episode in found])),
        tool_errors=sum(episode.errors for _, episode in found),
        observation_share=sum(int(completion.forced.sum()) for completion, _ in found) / max(1, tokens),
        cut_observations=sum(episode.cut for _, episode in found),
    )
