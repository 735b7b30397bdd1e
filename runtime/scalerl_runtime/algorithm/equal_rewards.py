"""Finds that all rewards of a run's first steps are equal: often the verifier, not the model, is wrong. PURE."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from scalerl_runtime.types import Completion, Group, Prompt

NUM_STEPS = 2
NUM_SHOWN = 3  # completions
NUM_CHARACTERS = 200  # of a completion; its end, where the answer is


@dataclass(frozen=True)
class FirstRewards:
    """The rewards of an attempt's first steps."""

    steps: int = 0
    rewards: frozenset[float | None] = frozenset()

    def add(self, groups: Sequence[Group]) -> "FirstRewards":
        """Return them with another step's; steps after the first NUM_STEPS do not count."""
        if self.steps >= NUM_STEPS:
            return replace(self, steps=NUM_STEPS + 1)
        found = frozenset(completion.reward for _, completion in _each(groups))
        return FirstRewards(self.steps + 1, self.rewards | found)

    @property
    def is_due(self) -> bool:
        """Whether the last of the first steps was just added, and all rewards are equal."""
        return self.steps == NUM_STEPS and len(self.rewards) == 1


def describe_equal_rewards(groups: Sequence[Group], describe_reading: Callable[[Prompt, str], str]) -> str:
    """Return the warning, with completions of different prompts where there are several.

    `describe_reading`: words for the verifiers' reading of a completion's text.
    """
    firsts = [(group, group.completions[0]) for group in groups if group.completions]
    rest = [(group, completion) for group, completion in _each(groups) if completion is not group.completions[0]]
    shown = [*firsts, *rest][:NUM_SHOWN]
    reward = shown[0][1].reward
    words = "without a reward" if reward is None else f"{reward:+g}"
    lines = [
        f"every completion of the first {NUM_STEPS} steps got the same reward, {words}: nothing is learned from them"
    ]
    return "\n".join([*lines, *(_describe(group, completion, describe_reading) for group, completion in shown)])


def _describe(group: Group, completion: Completion, describe_reading: Callable[[Prompt, str], str]) -> str:
    text = completion.text if len(completion.text) <= NUM_CHARACTERS else f"...{completion.text[-NUM_CHARACTERS:]}"
    cut = " (cut at the limit)" if completion.finish == "length" else ""
    reference = group.prompt.answer[:NUM_CHARACTERS]
    reading = describe_reading(group.prompt, completion.text)
    return f"  prompt {group.prompt.id}: completion{cut} {text!r}, {reading}, reference {reference!r}"


def _each(groups: Sequence[Group]) -> Iterator[tuple[Group, Completion]]:
    for group in groups:
        for completion in group.completions:
            yield group, completion
