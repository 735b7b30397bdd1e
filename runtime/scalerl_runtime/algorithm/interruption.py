"""Forced length interruption: its random budget and the positions of its tokens; and the length penalty. PURE."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scalerl_runtime.think_tags import Decoder, TagFinder
from scalerl_runtime.types import Flags, Ints


class TextTokenizer(Decoder, Protocol):
    """The used part of a Hugging Face tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the tokens of `text`."""
        ...


@dataclass(frozen=True)
class Interruption:
    """How the thinking of a run is interrupted. Engine and coordinator each build one from the same texts."""

    opens: TagFinder
    closes: TagFinder
    phrase: tuple[int, ...]  # the forced tokens

    @classmethod
    def build(cls, opens: str, closes: str, phrase: str, tokenizer: TextTokenizer) -> "Interruption":
        """Return the interruption of these texts for one tokenizer."""
        forced = tokenizer.encode(phrase, add_special_tokens=False)
        return cls(TagFinder(opens, tokenizer), TagFinder(closes, tokenizer), tuple(forced))


class ThinkingBudget:
    """The thinking budget of one completion. Mutable: it remembers what it has read.

    The thinking begins with the completion if the prompt opens it, else after the first opening tag in the completion.
    A completion that opens no thinking has no budget. The phrase begins when `budget` tokens of thinking are there; it
    is not forced if a closing tag stands before it, and a completion is interrupted at most once.
    """

    def __init__(self, interruption: Interruption, budget: int, think_tokens: int | None):
        """`budget`: thinking tokens allowed, >= 0; `think_tokens`: as in `Prompt`."""
        self._interruption = interruption
        self._budget = budget
        self._start = None if think_tokens is None else max(0, budget - think_tokens)
        self._read = 0
        self._closed = False

    def find_start(self, tokens: list[int]) -> int | None:
        """Return where the phrase begins, perhaps beyond the end of `tokens`; None if it is not forced.

        `tokens`: the completion so far; each call sees those of the call before, and perhaps more.
        """
        if self._closed:
            return None
        if self._start is None:
            opened = self._interruption.opens.find_end(tokens, self._read, len(tokens))
            self._start = None if opened is None else opened + self._budget
        stop = len(tokens) if self._start is None else min(len(tokens), self._start)
        self._closed = self._interruption.closes.find_end(tokens, self._read, stop) is not None
        self._read = max(self._read, stop)
        return None if self._closed else self._start

    def find_forced(self, tokens: list[int]) -> int | None:
        """Return the token that must follow `tokens`; None if the model chooses it."""
        start = self.find_start(tokens)
        if start is None or len(tokens) < start:
            return None
        place = len(tokens) - start
        return self._interruption.phrase[place] if place < len(self._interruption.phrase) else None


@dataclass(frozen=True)
class ForcedTokens:
    """The tokens of one completion that the engine forced."""

    mask: Flags  # [T] True at forced tokens
    mismatches: int  # 1 if something else stands in the phrase's place, else 0; a healthy run has none


def draw_budget(rng: np.random.Generator, low: int, high: int) -> int:
    """Return a thinking budget in tokens, uniform on low..high, both included."""
    return int(rng.integers(low, high, endpoint=True))


def forced_mask(tokens: Ints, interruption: Interruption, budget: int, think_tokens: int | None) -> ForcedTokens:
    """Return which of the tokens [T] of a completion the engine forced; its output does not mark them.

    The engine decides by the same `ThinkingBudget`, and continues a phrase after a preemption, so the phrase has one
    possible place. A completion may be cut inside it. If something else stands there, nothing after that place is
    known to be the model's own: all of it is masked, and it is a mismatch.
    """
    mask: NDArray[np.bool_] = np.zeros(len(tokens), dtype=np.bool_)
    start = ThinkingBudget(interruption, budget, think_tokens).find_start(tokens.tolist())
    if start is None or start >= len(tokens):
        return ForcedTokens(mask, 0)
    found = tokens[start : start + len(interruption.phrase)].tolist()
    is_phrase = found == list(interruption.phrase[: len(found)])
    mask[start : start + len(found) if is_phrase else None] = True
    return ForcedTokens(mask, int(not is_phrase))


def length_penalty(reward: float, length: int, limit: int, cache: int) -> float:
    """Return the reward of a completion of `length` tokens: less by up to 1 over the last `cache` tokens to the limit.

    Only a correct one (reward above 0) pays. Source: the penalty arm of Khatri et al. 2025, arXiv:2510.13786, A.16:
    clip((limit - length) / cache - 1, -1, 0).
    """
    if not reward > 0.0:
        return reward
    return reward + min(0.0, max(-1.0, (limit - length) / cache - 1.0))
