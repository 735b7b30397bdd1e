"""Splits prompts into a training and a held-out part. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalerl_runtime.types import Prompt


@dataclass(frozen=True)
class Split:
    """The prompts of `train` and the held-out prompts taken from them."""

    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    num_removed: int  # training rows with the text of a held-out or downstream prompt


def split_prompts(
    prompts: Sequence[Prompt], *, num_held_out: int, never_train: frozenset[str], rng: np.random.Generator
) -> Split:
    """Hold out `num_held_out` random prompts of different texts; no training prompt has one of these texts.

    Generated tasks repeat themselves, so the same text can be drawn for both sides. Such rows are removed from
    training, as are the texts in `never_train`. With fewer different texts fewer are held out; the caller refuses that.
    """
    chosen: dict[str, Prompt] = {}
    for position in rng.permutation(len(prompts)):
        if len(chosen) == num_held_out:
            break
        chosen.setdefault(prompts[position].text, prompts[position])
    held_ids = {prompt.id for prompt in chosen.values()}
    rest = [prompt for prompt in prompts if prompt.id not in held_ids]
    train = tuple(prompt for prompt in rest if prompt.text not in chosen and prompt.text not in never_train)
    held_out = tuple(sorted(chosen.values(), key=lambda prompt: prompt.id))
    return Split(train, held_out, num_removed=len(rest) - len(train))
