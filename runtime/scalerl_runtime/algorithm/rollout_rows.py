"""The stored form of completions: rows of a step's groups or of an evaluation, and which groups are stored. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scalerl_api.rollouts import Rollout
from scalerl_api.wire import RolloutExample
from scalerl_runtime.types import Completion, Group, Prompt

EXAMPLE_CHARACTERS = 300  # of each text of an example


@dataclass(frozen=True)
class RowSource:
    """The values that all rows of one attempt share."""

    attempt: int
    seed: int
    phrase: str
    """Text that an interruption forces."""
    share: float
    """Share of a step's groups to store, in (0, 1]."""


def choose_groups(groups: Sequence[Group], source: RowSource) -> list[int]:
    """Return the indices of the groups to store, at least one.

    The choice depends on the seed and the prompt alone, so a resumed run chooses the same groups.
    """
    draws = [np.random.default_rng([source.seed, 3, g.epoch, g.prompt.id]).random() for g in groups]
    chosen = [index for index, draw in enumerate(draws) if draw < source.share]
    return chosen or [int(np.argmin(draws))]


def step_rows(
    groups: Sequence[Group], advantages: Sequence[NDArray[np.float64]], source: RowSource, *, step: int
) -> list[Rollout]:
    """Return the rows of the chosen groups that `step` trained; `advantages` are [G] for each group, NaN for none."""
    return [
        replace(
            _build_row(group.prompt, completion, source, step=step, version=step - 1),
            sample=sample,
            epoch=group.epoch,
            admitted_version=group.admitted_version,
            advantage=_number(advantage),
        )
        for index in choose_groups(groups, source)
        for group in [groups[index]]
        for sample, (completion, advantage) in enumerate(zip(group.completions, advantages[index], strict=True))
    ]


def eval_rows(
    prompt: Prompt, completions: Sequence[Completion], source: RowSource, *, step: int, dataset: str
) -> list[Rollout]:
    """Return the rows of one prompt's completions in the evaluation of `step`."""
    return [
        replace(
            _build_row(prompt, completion, source, step=step, version=step, dataset=dataset),
            sample=sample,
            admitted_version=step,
        )
        for sample, completion in enumerate(completions)
    ]


def choose_example(groups: Sequence[Group], *, step: int) -> RolloutExample:
    """Return one completion of a step, the first with the highest reward, and how many were graded and passed."""
    graded = [
        (completion.reward, group.prompt, completion)
        for group in groups
        for completion in group.completions
        if completion.reward is not None
    ]
    fallback = [(None, group.prompt, completion) for group in groups for completion in group.completions[:1]]
    reward, prompt, completion = max(graded, key=lambda each: each[0]) if graded else fallback[0]
    return RolloutExample(
        step=step,
        prompt=storable(prompt.text)[:EXAMPLE_CHARACTERS],
        completion=storable(completion.text)[:EXAMPLE_CHARACTERS],
        reward=reward,
        passed=sum(each[0] > 0 for each in graded),
        graded=len(graded),
        completions=sum(len(group.completions) for group in groups),
    )


def storable(text: str) -> str:
    """Return `text` as valid Unicode: a surrogate without its pair becomes U+FFFD; all else, NUL included, is kept."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def find_forced_text(text: str, phrase: str, place: float) -> tuple[int, int] | None:
    """Return the characters (start, end) of the forced `phrase` in `text`; None if it does not occur whole.

    Of several occurrences it is the one that starts nearest to `place`, in [0, 1] of the text.
    """
    phrase = phrase.strip()
    starts = []
    start = text.find(phrase) if phrase else -1
    while start >= 0:
        starts.append(start)
        start = text.find(phrase, start + 1)
    if not starts:
        return None
    nearest = min(starts, key=lambda each: abs(each - place * len(text)))
    return nearest, nearest + len(phrase)


def _build_row(
    prompt: Prompt, completion: Completion, source: RowSource, *, step: int, version: int, dataset: str | None = None
) -> Rollout:
    size, text = len(completion.tokens), storable(completion.text)
    episode = completion.episode
    forced = np.flatnonzero(completion.forced) if episode is None else np.empty(0, np.int64)
    logps = completion.logps if episode is None else completion.logps[~completion.forced]
    characters = find_forced_text(text, source.phrase, float(forced[0]) / size) if forced.size else None
    oldest = int(completion.versions.min(initial=version))
    return Rollout(
        step=step,
        dataset=dataset,
        attempt=source.attempt,
        epoch=0,
        prompt_id=prompt.id,
        sample=0,
        prompt=storable(prompt.text),
        reference=storable(prompt.answer),
        completion=text,
        reward=completion.reward,
        rewards=dict(completion.by_judge),
        excluded=completion.reward is None,
        version_min=oldest,
        version_max=int(completion.versions.max(initial=oldest)),
        lag=version - oldest,
        finish=completion.finish,
        num_tokens=size,
        forced_start=int(forced[0]) if forced.size else None,
        forced_end=int(forced[-1]) + 1 if forced.size else None,
        forced_text_start=characters[0] if characters else None,
        forced_text_end=characters[1] if characters else None,
        turns=1 if episode is None else episode.turns,
        tool_errors=0 if episode is None else episode.errors,
        observations=() if episode is None or text != completion.text else episode.observations,
        source=prompt.source,
        mean_logp=_number(float(logps.mean())) if logps.size else None,
    )


def _number(value: float) -> float | None:
    """Return a finite number as it is, anything else as None."""
    return float(value) if np.isfinite(value) else None
