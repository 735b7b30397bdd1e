"""The attributes of spans: numbers and ids, no text of a prompt or completion. PURE.

`gen_ai.*` are OpenTelemetry's names for generation; all others are scalerl's own.
"""

import numpy as np

from scalerl_api.recipe import Recipe
from scalerl_runtime.algorithm.batch import BatchStats
from scalerl_runtime.loop.slots import InFlightGroup
from scalerl_runtime.trackers.tracing import Values
from scalerl_runtime.types import Group


def submitted_values(work: InFlightGroup) -> Values:
    """Of a rollout that begins."""
    return {
        "scalerl.prompt.id": work.prompt.id,
        "scalerl.prompt.epoch": work.epoch,
        "scalerl.rollout.version.admitted": work.version,
        "scalerl.generator.index": work.slot,
    }


def request_values(work: InFlightGroup, recipe: Recipe) -> Values:
    """Of the engine's part of a rollout."""
    return {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.choice.count": len(work.budgets),
        "gen_ai.request.max_tokens": recipe.length.completion_tokens,
        "gen_ai.request.temperature": recipe.temperature,
        "gen_ai.usage.input_tokens": len(work.prompt.tokens),
    }


def group_values(group: Group) -> Values:
    """Of a rollout that is graded. Its lag is known when a step trains on it, so the step has it."""
    rewards = [each.reward for each in group.completions if each.reward is not None]
    versions = [each.versions for each in group.completions if len(each.versions)]
    return {
        "gen_ai.usage.output_tokens": sum(len(each.tokens) for each in group.completions),
        "gen_ai.response.finish_reasons": [each.finish for each in group.completions],
        "scalerl.rollout.rewards": rewards,
        "scalerl.rollout.ungraded": len(group.completions) - len(rewards),
        "scalerl.rollout.version.last": int(np.concatenate(versions).max()) if versions else group.admitted_version,
    }


def step_values(stats: BatchStats) -> Values:
    """Of a step that is trained."""
    reward: Values = {} if stats.reward_mean is None else {"scalerl.step.reward": stats.reward_mean}
    return {
        "scalerl.step.groups": stats.groups,
        "scalerl.step.completions": stats.completions,
        "scalerl.step.tokens": stats.trained_tokens,
        "scalerl.step.lag.mean": stats.lag_mean,
        "scalerl.step.lag.max": stats.lag_max,
        **reward,
    }


def set_values(pass_rate: float, prompts: int) -> Values:
    """Of a test set that is evaluated."""
    return {"scalerl.evaluation.pass_rate": pass_rate, "scalerl.evaluation.prompts": prompts}
