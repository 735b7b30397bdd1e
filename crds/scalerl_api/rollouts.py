"""The files of a run's completions: names and columns, written by the runtime, read by the CLI and the report. PURE."""

import re
from dataclasses import dataclass, field

ROLLOUTS = "rollouts"  # folder in the run's folder
_NAME = re.compile(r"(?:step-(\d{6,})|eval-(\d{6,})-(\w[\w.-]*))\.parquet")


@dataclass(frozen=True)
class RolloutFileName:
    """The meaning of a file's name: all completions of one step, or of one evaluation of one set."""

    step: int
    dataset: str | None = None
    """The evaluated set; None: the completions that the step trained."""

    def __str__(self) -> str:
        """Return the file's name, for example `eval-000100-held_out.parquet`."""
        stem = f"eval-{self.step:06d}-{self.dataset}" if self.dataset is not None else f"step-{self.step:06d}"
        return f"{stem}.parquet"


def parse_name(name: str) -> RolloutFileName | None:
    """Return the meaning of a file's name; None for any other file, unfinished ones included."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    step, evaluated, dataset = found.groups()
    return RolloutFileName(int(step)) if step is not None else RolloutFileName(int(evaluated), dataset)


@dataclass(frozen=True)
class Rollout:
    """One completion: a row of the files. Lone surrogates in its texts are replaced by U+FFFD."""

    step: int
    """Step that trained it; of an evaluation, the step whose weights were evaluated."""
    dataset: str | None
    """The evaluated set; None: the step trained it."""
    attempt: int
    epoch: int
    """Pass over the prompts; 0 in an evaluation."""
    prompt_id: int
    """Position in its data set; the same in every epoch and attempt."""
    sample: int
    """Position in its group, from 0."""
    prompt: str
    reference: str
    """The verifier's reference answer."""
    completion: str
    reward: float | None
    """In [-1, 1]; None: the verifier itself failed."""
    rewards: dict[str, float] = field(default_factory=dict)
    """Reward by judge."""
    excluded: bool = False
    """Without a reward, so in no loss and in no pass rate."""
    advantage: float | None = None
    """None: not in the loss; its group was filtered, or it is of an evaluation."""
    admitted_version: int = 0
    """Version of the generator's weights when the prompt was submitted."""
    version_min: int = 0
    """Oldest version that sampled one of its tokens."""
    version_max: int = 0
    lag: int = 0
    """Steps between `version_min` and the trained version."""
    finish: str = "stop"
    """`stop` or `length`."""
    num_tokens: int = 0
    forced_start: int | None = None
    """First token of the interruption; None without one."""
    forced_end: int | None = None
    """Token after it."""
    forced_text_start: int | None = None
    """First character of the interruption in `completion`; None if its text was not found there."""
    forced_text_end: int | None = None
    turns: int = 1
    """Turns of the policy; above 1 only with an environment."""
    tool_errors: int = 0
    """Turns that the environment marked as errors."""
    observations: tuple[tuple[int, int], ...] = ()
    """Parts that the environment wrote: (first character, character after it) in `completion`."""
    source: str = ""
    """Name of the prompt's training source, or of its downstream set; empty: a single source without a name, or a file
    of an older version."""
    mean_logp: float | None = None
    """Mean log-probability (nats) under the generator of its tokens, those of observations left out; None without a
    token."""

    @property
    def segments(self) -> list[tuple[str, bool]]:
        """The completion in parts: (text, whether an interruption or an environment wrote it)."""
        spans = self.observations
        if self.forced_text_start is not None and self.forced_text_end is not None:
            spans = ((self.forced_text_start, self.forced_text_end),)
        parts, position = [], 0
        for start, end in spans:
            parts += [(self.completion[position:start], False), (self.completion[start:end], True)]
            position = end
        return [*parts, (self.completion[position:], False)]

    @property
    def is_right(self) -> bool | None:
        """Whether it passes; None if it was not graded."""
        return None if self.reward is None else self.reward > 0
