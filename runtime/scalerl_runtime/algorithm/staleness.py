"""Staleness: how far generation may run ahead of training, and which groups the next step trains on. PURE.

Staleness is bounded by pacing, never by discarding. A group that is admitted while its generator runs version a has a
*deadline*: the last version that may train on it (a + maxLag in `pipeline`). No token of the group is older than a, so
a group that meets its deadline keeps every token's lag within the bound. Two rules ensure it:

- `capacity`: a group is admitted only if all outstanding groups could still be trained by its deadline, P a step;
- `select_batch`: the earliest deadlines go first. The trainer waits for a group in flight if taking a later one instead
  would make some group late. So long completions are waited for, neither starved nor discarded.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from scalerl_api.recipe import Recipe


class StalenessError(RuntimeError):
    """Outstanding groups can no longer meet their deadlines: the bound was not kept."""


@dataclass(frozen=True)
class StalenessBound:
    """The staleness bound: one rule for the three modes of asynchrony."""

    prompts_per_step: int  # P, groups that a step trains on
    max_lag: int  # most steps between the version of a token and the version that trains on it
    cycle: int  # 0: generate and train at once. n: generate n * P groups, then train n steps on them

    def deadline(self, version: int) -> int:
        """Return the last version that may train on a group admitted at `version`."""
        if self.cycle:
            return version - version % self.cycle + self.cycle - 1
        return version + self.max_lag

    def is_push_due(self, version: int) -> bool:
        """Return whether the generators get the weights of `version` as soon as they exist."""
        return self.cycle == 0 or version % self.cycle == 0


def build_staleness_bound(recipe: Recipe) -> StalenessBound:
    """Return the staleness bound of the recipe's asynchrony.

    `pipeline`: lag <= max_lag. `offPolicy` with k steps: lag <= k - 1. `synchronous`: lag 0.
    """
    mode = recipe.asynchrony
    cycle = {"pipeline": 0, "offPolicy": mode.off_policy_steps, "synchronous": 1}[mode.mode]
    return StalenessBound(recipe.prompts_per_step, mode.largest_lag, cycle=cycle)


@dataclass(frozen=True)
class Admission:
    """Counters of admitted and consumed groups; `dataclasses.asdict` gives JSON, `Admission(**...)` reads it."""

    version: int = 0  # of the trainer: steps done
    admitted: int = 0  # groups ever submitted to a generator, less those withdrawn
    consumed: int = 0  # groups that went into a step, also those that the step filtered out

    @property
    def outstanding(self) -> int:
        """Groups in flight or complete but not yet consumed."""
        return self.admitted - self.consumed

    def admit(self, num_groups: int = 1) -> "Admission":
        """Return the state after submitting groups to a generator."""
        return dataclasses.replace(self, admitted=self.admitted + num_groups)

    def withdraw(self, num_groups: int = 1) -> "Admission":
        """Return the state after groups were lost (a dead generator); their prompts are admitted again."""
        if num_groups > self.outstanding:
            raise ValueError(f"{num_groups} groups withdrawn, {self.outstanding} outstanding")
        return dataclasses.replace(self, admitted=self.admitted - num_groups)

    def step(self, num_groups: int) -> "Admission":
        """Return the state after a step consumed groups, whether or not any of them entered the loss."""
        if num_groups > self.outstanding:
            raise ValueError(f"{num_groups} groups consumed, {self.outstanding} outstanding")
        return Admission(self.version + 1, self.admitted, self.consumed + num_groups)

    def drop(self, num_groups: int) -> "Admission":
        """Return the state after a refill replaced groups: they free capacity, and the step has not run yet."""
        return dataclasses.replace(self, consumed=self.consumed + num_groups)

    def resume(self, num_buffered: int) -> "Admission":
        """Return the state after a restart: only the buffered groups survive; groups in flight start again.

        Without this the lost groups would hold their capacity for ever; with counters from zero the bound would break.
        """
        return dataclasses.replace(self, admitted=self.consumed + num_buffered)


def capacity(bound: StalenessBound, state: Admission, generator_version: int) -> int:
    """Return how many groups may be submitted now to a generator that runs `generator_version`, >= 0.

    With P groups consumed by every step this is (generator_version + max_lag + 1) * P - admitted in `pipeline`.
    A generator whose tokens would be too old gets no group until it is updated.
    """
    steps_left = bound.deadline(generator_version) + 1 - state.version
    return max(0, steps_left * bound.prompts_per_step - state.outstanding)


def select_batch(
    bound: StalenessBound,
    version: int,
    completed: Sequence[int],
    in_flight: Sequence[int],
    *,
    num_groups: int | None = None,
) -> tuple[int, ...] | None:
    """Return the positions in `completed` that the step from `version` trains on; None: wait for a group in flight.

    Args:
        version: of the trainer.
        completed: admitted version of each complete group. Equal deadlines go in the order given: completion order in
            `pipeline`; admission order where a cycle is trained after it is complete, or short ones would go first.
        in_flight: admitted version of each group that is still being generated.
        num_groups: how many to choose, P unless a step is refilled.

    The step waits if it lacks groups, if a cycle is not complete, or if taking the completed groups would leave a group
    in flight that could no longer meet its deadline. Raises StalenessError if waiting cannot help.
    """
    wanted = bound.prompts_per_step if num_groups is None else num_groups
    if len(completed) < wanted or (bound.cycle and in_flight):
        return None
    order = sorted(range(len(completed)), key=lambda i: bound.deadline(completed[i]))
    chosen, rest = order[:wanted], order[wanted:]
    late = [completed[i] for i in chosen if bound.deadline(completed[i]) < version]
    left = [completed[i] for i in rest] + list(in_flight)
    if not late and _is_feasible(bound, version + 1, left):
        return tuple(chosen)
    if in_flight and not late:
        return None
    raise StalenessError(
        f"at version {version} outstanding groups of versions {sorted([*completed, *in_flight])} cannot all be trained "
        f"within lag {bound.max_lag} at {bound.prompts_per_step} groups a step"
    )


def plan_resume(bound: StalenessBound, version: int, buffered: Sequence[int]) -> tuple[int, ...]:
    """Return the positions of the buffered groups that can still meet their deadlines after a restart at `version`.

    All of them, unless the bound became stricter (a smaller maxLag or batch). The prompts of the others are generated
    again: their old completions would break the bound.
    """
    kept: list[int] = []
    for position in sorted(range(len(buffered)), key=lambda i: bound.deadline(buffered[i])):
        if version + len(kept) // bound.prompts_per_step <= bound.deadline(buffered[position]):
            kept.append(position)
    return tuple(sorted(kept))


def _is_feasible(bound: StalenessBound, version: int, admitted_versions: Sequence[int]) -> bool:
    """Whether P a step from `version` on, the earliest deadline first, all are trained in time."""
    deadlines = sorted(map(bound.deadline, admitted_versions))
    return all(version + i // bound.prompts_per_step <= deadline for i, deadline in enumerate(deadlines))
