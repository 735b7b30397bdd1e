"""Pass rates of single prompts over the steps or evaluations that are stored. PURE."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scalerl_operator.run.rollout_selection import RowKey


@dataclass(frozen=True)
class RatePoint:
    """One prompt at one step."""

    step: int
    passed: int
    graded: int
    """At least 1."""

    @property
    def rate(self) -> float:
        """Pass rate in [0, 1]."""
        return self.passed / self.graded


@dataclass(frozen=True)
class PromptRates:
    """One prompt's pass rates, oldest first; at least one."""

    prompt_id: int
    text: str
    points: tuple[RatePoint, ...]
    source: str = ""
    """As `Rollout.source`."""

    @property
    def completions(self) -> int:
        """Graded completions."""
        return sum(point.graded for point in self.points)

    @property
    def mean(self) -> float:
        """Pass rate over all completions."""
        return sum(point.passed for point in self.points) / self.completions


def compute_prompt_rates(keys: Iterable[RowKey], texts: Mapping[int, str]) -> list[PromptRates]:
    """Return the rates of each prompt with a graded completion, those with the lowest newest rate first."""
    counts: dict[int, dict[int, list[int]]] = {}
    sources: dict[int, str] = {}
    for key in keys:
        sources[key.prompt_id] = key.source
        if key.is_right is not None:
            passed_graded = counts.setdefault(key.prompt_id, {}).setdefault(key.file.step, [0, 0])
            passed_graded[0] += key.is_right
            passed_graded[1] += 1
    found = [
        PromptRates(
            prompt,
            texts.get(prompt, ""),
            tuple(RatePoint(step, passed, graded) for step, (passed, graded) in sorted(by_step.items())),
            sources[prompt],
        )
        for prompt, by_step in counts.items()
    ]
    return sorted(found, key=lambda each: (each.points[-1].rate, each.mean, each.prompt_id))
