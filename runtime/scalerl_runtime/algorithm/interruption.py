"""Forced length interruption: its random budget and the positions of its tokens; and the length penalty. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = Sequence[int] | NDArray[np.int32]


@dataclass(frozen=True)
class ForcedTokens:
    """The tokens of one completion that the engine forced."""

    mask: NDArray[np.bool_]  # [T] True at forced tokens
    mismatches: int  # 1 if the tokens contradict the expected position of the phrase, else 0; a healthy run has none


def draw_budget(rng: np.random.Generator, low: int, high: int) -> int:
    """Return a thinking budget in tokens, uniform on low..high, both included."""
    return int(rng.integers(low, high, endpoint=True))


def count_think_tokens(prompt: Ids, completion: Ids, start_think_ids: Ids) -> int | None:
    """Return the thinking tokens that precede the completion, or None if no thinking is opened.

    0 for a prompt that ends in the opening marker, more if thinking follows the marker there. Negative if the model
    itself opens the thinking: minus the tokens of the completion up to and with the marker.
    """
    start = _find_last(np.asarray(prompt), start_think_ids)
    if start is not None:
        return len(prompt) - start - len(start_think_ids)
    opened = _find_first(np.asarray(completion), start_think_ids)
    return None if opened is None else -(opened + len(start_think_ids))


def forced_mask(
    tokens: Ids, phrase_ids: Ids, end_think_ids: Ids, budget: int, think_tokens_in_prompt: int | None
) -> ForcedTokens:
    """Return which of the tokens [T] the engine forced; its output does not mark them.

    Args:
        tokens: the completion.
        phrase_ids: forced when the thinking has used its budget.
        end_think_ids: the marker that ends the thinking; one that the model wrote is not masked.
        budget: thinking tokens allowed, >= 0.
        think_tokens_in_prompt: thinking before the completion, as `count_think_tokens` returns it; None: no thinking.

    The phrase starts at index budget - think_tokens_in_prompt, or 0, unless the thinking ended before. A preemption
    inside the phrase makes the engine start it again, any number of times: the broken prefixes are forced tokens too.
    If the model itself wrote the first tokens of the phrase, an engine may force only the rest. A
    completion may be cut inside the phrase. Where something else stands at that place, that is a mismatch; and where
    the whole phrase stands there though the model had closed its thinking (vLLM 0.32's first model runner looks only
    for the phrase, not for the marker alone), it is masked and a mismatch.
    """
    tokens, phrase = np.asarray(tokens), np.asarray(phrase_ids)
    mask = np.zeros(len(tokens), dtype=np.bool_)
    if think_tokens_in_prompt is None:
        return ForcedTokens(mask, 0)
    start = max(0, budget - think_tokens_in_prompt)
    if start >= len(tokens):
        return ForcedTokens(mask, 0)
    is_open = _find_first(tokens[:start], end_think_ids) is None
    end, complete = _phrase_end(tokens, phrase, start)
    if is_open or (complete and end - start >= len(phrase)):
        mask[start:end] = True
    return ForcedTokens(mask, int(not complete if is_open else mask.any()))


def length_penalty(reward: float, length: int, limit: int, cache: int) -> float:
    """Return the reward of a completion of `length` tokens: less by up to 1 over the last `cache` tokens to the limit.

    Only a correct one (reward above 0) pays. Source: the penalty arm of Khatri et al. 2025, arXiv:2510.13786, A.16:
    clip((limit - length) / cache - 1, -1, 0).
    """
    if not reward > 0.0:
        return reward
    return reward + min(0.0, max(-1.0, (limit - length) / cache - 1.0))


def _phrase_end(tokens: NDArray[np.int32], phrase: NDArray[np.int32], start: int) -> tuple[int, bool]:
    """Return the index after the forced tokens from `start` on, and whether they are valid forced tokens.

    Valid are any number of broken prefixes of the phrase, then the phrase, or as much of it as the limit left.
    """
    matched = start
    # Where the phrase may begin; tried from left to right, a broken prefix adds the positions after it.
    starts = [start]
    for place in starts:
        length = _common_prefix(tokens[place:], phrase)
        matched = max(matched, place + length)
        if length == len(phrase) or place + length == len(tokens):
            return place + length, True
        starts.extend(range(starts[-1] + 1, place + length + 1))
    for written in range(min(len(phrase) - 1, start), 0, -1):
        if np.array_equal(tokens[start - written : start], phrase[:written]):
            rest = phrase[written:]
            length = _common_prefix(tokens[start:], rest)
            if length == len(rest) or start + length == len(tokens):
                return start + length, True
    return matched, False


def _common_prefix(tokens: NDArray[np.int32], phrase: NDArray[np.int32]) -> int:
    size = min(len(tokens), len(phrase))
    differs = np.flatnonzero(tokens[:size] != phrase[:size])
    return int(differs[0]) if differs.size else size


def _find_all(tokens: NDArray[np.int32], ids: Ids) -> NDArray[np.intp]:
    size = len(ids)
    if size == 0 or len(tokens) < size:
        return np.empty(0, dtype=np.intp)
    windows = np.lib.stride_tricks.sliding_window_view(tokens, size)
    return np.flatnonzero((windows == np.asarray(ids)).all(axis=1))


def _find_first(tokens: NDArray[np.int32], ids: Ids) -> int | None:
    found = _find_all(tokens, ids)
    return int(found[0]) if found.size else None


def _find_last(tokens: NDArray[np.int32], ids: Ids) -> int | None:
    found = _find_all(tokens, ids)
    return int(found[-1]) if found.size else None
