"""From the groups of a step to weighted training sequences, and the step's statistics. PURE."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scalerl_api.recipe import Length, Recipe
from scalerl_runtime.algorithm.advantage import compute_advantages
from scalerl_runtime.algorithm.aggregation import token_weights
from scalerl_runtime.algorithm.interruption import length_penalty
from scalerl_runtime.algorithm.microbatch import TrainSequence
from scalerl_runtime.algorithm.prompts.prompt_filters import StepDecision, decide_step, is_zero_variance
from scalerl_runtime.types import Completion, Group, Prompt


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


@dataclass(frozen=True)
class BatchStats:
    """Statistics over all groups of a step, also those that were dropped from the loss."""

    groups: int
    completions: int
    trained_tokens: int
    reward_mean: float | None  # as verified, before any length penalty; None if no completion has a reward
    reward_by_judge: Mapping[str, float]  # mean reward of each verifier, by its label
    zero_variance_share: float  # of the groups
    truncation_share: float  # of the completions, those cut at the limit
    forced_tokens: int  # by interruptions
    episodes: EpisodeStats | None  # None: no completion is an episode
    excluded: int  # completions without a reward: their verifier failed, or a log-probability is not finite
    completion_tokens_mean: float
    lag_tokens: tuple[int, ...]  # tokens by lag 0, 1, ...
    lag_mean: float
    lag_max: int


@dataclass(frozen=True)
class Batch:
    """The input of one optimizer step; without a sequence the optimizer is skipped."""

    sequences: tuple[TrainSequence, ...]
    decision: StepDecision
    stats: BatchStats
    advantages: tuple[NDArray[np.float64], ...]  # [G] of each group; NaN where a completion is not in the loss


def leave_out_unsound(completions: Sequence[Completion]) -> tuple[Completion, ...]:
    """Take the reward from completions with a log-probability that is not finite: they give no sequence then.

    If all completions of a prompt are such, the weights or the engine are broken: they stay, and `build_batch` raises.
    """
    if not any(_is_sound(each) for each in completions):
        return tuple(completions)
    return tuple(each if _is_sound(each) else replace(each, reward=None, by_judge={}) for each in completions)


def _is_sound(completion: Completion) -> bool:
    return bool(np.isfinite(completion.logps[~completion.forced]).all())


def step_rewards(group: Group, length: Length) -> NDArray[np.float64]:
    """Return the rewards that enter the advantage, [G]: as verified, less the length penalty where that is on."""
    rewards = group.rewards
    if length.control != "penalty":
        return rewards
    limit, cache = length.completion_tokens, length.penalty_cache
    penalized = [
        length_penalty(float(reward), len(completion.tokens), limit, cache)
        for reward, completion in zip(rewards, group.completions, strict=True)
    ]
    return np.array(penalized, dtype=np.float64)


def decide_groups(groups: Sequence[Group], recipe: Recipe) -> StepDecision:
    """Return which of the groups at hand enter the loss, and how many more to wait for."""
    rewards = [step_rewards(group, recipe.length) for group in groups]
    return decide_step(recipe.zero_variance, rewards, prompts_per_step=recipe.prompts_per_step)


def build_batch(groups: Sequence[Group], recipe: Recipe, *, version: int) -> Batch:
    """Return the sequences of the step that trains `version` on these groups.

    Groups of zero variance leave first (unless `keep`); what remains is the batch that deviations and means are taken
    over, as the paper's effective batch: P of `promptMean` counts the prompts that remain. A completion whose
    verifier failed gives no sequence and enters no mean. A truncated completion keeps its gradient: its
    reward is what teaches the policy to be brief. Raises ValueError on an impossible completion.
    """
    for group in groups:
        _check(group, version)
    rewards = [step_rewards(group, recipe.length) for group in groups]
    decision = decide_groups(groups, recipe)
    places = [(g, i) for g in decision.kept for i in range(len(rewards[g]))]
    of_group = np.array([g for g, _ in places], dtype=np.int64)
    reward = np.array([rewards[g][i] for g, i in places], dtype=np.float64)
    trained = np.array([_trained_tokens(groups[g].completions[i]) for g, i in places], dtype=np.int64)
    advantage = compute_advantages(recipe.advantage, reward, of_group)
    weight = token_weights(recipe.aggregation, trained, of_group)
    sequences = tuple(
        _build_sequence(
            groups[g].prompt,
            groups[g].completions[i],
            version=version,
            advantage=float(advantage[row]),
            weight=float(weight[row]),
        )
        for row, (g, i) in enumerate(places)
        if trained[row]
    )
    by_group = tuple(np.full(len(group.completions), np.nan) for group in groups)
    for row, (g, i) in enumerate(places):
        if trained[row]:
            by_group[g][i] = advantage[row]
    return Batch(sequences, decision, _stats(groups, rewards, sequences, version), by_group)


def _build_sequence(
    prompt: Prompt, completion: Completion, *, version: int, advantage: float, weight: float
) -> TrainSequence:
    """Join prompt and completion; only the completion's tokens are trained, the forced ones excepted."""
    zeros = np.zeros(len(prompt.tokens))
    lag = np.asarray(version - completion.versions, dtype=np.int32)
    return TrainSequence(
        tokens=np.concatenate([prompt.tokens, completion.tokens]),
        trained=np.concatenate([zeros.astype(np.bool_), ~completion.forced]),
        logp_gen=np.concatenate([zeros.astype(np.float32), completion.logps]),
        advantage=advantage,
        weight=weight,
        lag=np.concatenate([zeros.astype(np.int32), lag]),
        experts=completion.experts,
    )


def _trained_tokens(completion: Completion) -> int:
    """Return the number of tokens that enter the loss; 0 for a completion whose verifier failed."""
    return 0 if completion.reward is None else int(np.count_nonzero(~completion.forced))


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


def _check(group: Group, version: int) -> None:
    name = f"a completion of prompt {group.prompt.id}"
    for completion in group.completions:
        size = len(completion.tokens)
        for field, values in (
            ("logps", completion.logps),
            ("versions", completion.versions),
            ("forced", completion.forced),
        ):
            if len(values) != size:
                raise ValueError(f"{name} has {len(values)} {field} for {size} tokens; need one each")
        tokens = len(group.prompt.tokens) + size - 1
        if completion.experts is not None and len(completion.experts) != tokens:
            raise ValueError(f"{name} has experts of {len(completion.experts)} tokens; need those of {tokens}")
        newest, oldest = int(completion.versions.max(initial=-1)), int(completion.versions.min(initial=version))
        if newest > version or oldest < group.admitted_version:
            raise ValueError(
                f"{name} has tokens of versions {oldest}..{newest}; need {group.admitted_version}..{version}"
            )
        if completion.reward is not None and not _is_sound(completion):
            raise ValueError(f"{name} has a log-probability that is not finite at a token that was not forced")


def _stats(
    groups: Sequence[Group], rewards: Sequence[NDArray[np.float64]], sequences: Sequence[TrainSequence], version: int
) -> BatchStats:
    completions = [completion for group in groups for completion in group.completions]
    rewarded = [completion.reward for completion in completions if completion.reward is not None]
    lags = np.concatenate([np.empty(0, np.int64), *(version - completion.versions for completion in completions)])
    return BatchStats(
        groups=len(groups),
        completions=len(completions),
        trained_tokens=sum(int(np.count_nonzero(sequence.trained)) for sequence in sequences),
        reward_mean=float(np.mean(rewarded)) if rewarded else None,
        reward_by_judge=_mean_by_judge(completions),
        zero_variance_share=_mean([is_zero_variance(each) for each in rewards]),
        truncation_share=_mean([completion.finish == "length" for completion in completions]),
        forced_tokens=sum(int(np.count_nonzero(each.forced)) for each in completions if each.episode is None),
        episodes=measure_episodes(completions),
        excluded=len(completions) - len(rewarded),
        completion_tokens_mean=_mean([len(completion.tokens) for completion in completions]),
        lag_tokens=tuple(np.bincount(lags.astype(np.int64)).tolist()),
        lag_mean=float(lags.mean()) if lags.size else 0.0,
        lag_max=int(lags.max(initial=0)),
    )


def _mean_by_judge(completions: Sequence[Completion]) -> dict[str, float]:
    names = dict.fromkeys(name for completion in completions for name in completion.by_judge)
    return {name: _mean([c.by_judge[name] for c in completions if name in c.by_judge]) for name in names}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
