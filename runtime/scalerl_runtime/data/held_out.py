"""Splits prompts into a training and a held-out part, and shares the held-out prompts out to sources. PURE."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from scalerl_runtime.data.near_duplicates import prompt_key
from scalerl_runtime.types import Prompt


@dataclass(frozen=True)
class Split:
    """The prompts of one source, before near duplicates of held-out prompts are removed."""

    rest: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]


def split_prompts(prompts: Sequence[Prompt], *, num_held_out: int, rng: np.random.Generator) -> Split:
    """Hold out `num_held_out` random prompts of different texts; with fewer different texts fewer are held out."""
    chosen: dict[str, Prompt] = {}
    for position in rng.permutation(len(prompts)):
        if len(chosen) == num_held_out:
            break
        chosen.setdefault(prompts[position].text, prompts[position])
    held_ids = {prompt.id for prompt in chosen.values()}
    rest = tuple(prompt for prompt in prompts if prompt.id not in held_ids)
    return Split(rest, tuple(sorted(chosen.values(), key=lambda prompt: prompt.id)))


def collect_keys(tested: Iterable[Prompt]) -> frozenset[str]:
    """Return the keys of held-out and downstream prompts, near duplicates of which are never trained on."""
    return frozenset(prompt_key(prompt) for prompt in tested)


def remove_near_duplicates(train: Sequence[Prompt], keys: Collection[str]) -> list[Prompt]:
    """Return the training prompts without those that are near duplicates of a held-out or downstream prompt.

    Generated tasks repeat themselves, and collected data has one question in several spellings: the same question can
    be on both sides of a split. `keys`: those of `collect_keys`.
    """
    return [prompt for prompt in train if prompt_key(prompt) not in keys]


def share_out(total: int, weights: Sequence[float]) -> list[int]:
    """Return whole parts of `total` in proportion to `weights`, at least 1 each: by largest remainder.

    `total` must be at least the number of weights.
    """
    if total < len(weights):
        raise ValueError(f"{total} prompts for {len(weights)} sources; need at least one each")
    free, whole = total - len(weights), sum(weights)
    wanted = [max(0.0, total * weight / whole - 1.0) for weight in weights]
    scale = free / sum(wanted) if any(wanted) else 0.0
    exact = [each * scale for each in wanted]
    parts = [math.floor(each) for each in exact]
    order = sorted(range(len(weights)), key=lambda index: (parts[index] - exact[index], index))
    for index in order[: free - sum(parts)]:
        parts[index] += 1
    return [1 + part for part in parts]
