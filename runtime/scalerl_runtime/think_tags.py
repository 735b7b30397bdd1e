"""Finds the texts around the thinking in tokens. PURE.

A tokenizer may spell `</think>` alone with other tokens than before a newline, since merges cross the boundary. The
decoded text is the same, so tags are found in it, and a tag may be one token or several.
"""

from collections.abc import Sequence
from typing import Protocol

from scalerl_api.recipe import ThinkTags

SPARE_TOKENS = 4  # of a window: tokens that decode to nothing may stand between those of a tag
HALF_CHARACTER = "\ufffd"  # how a token that holds a part of a character decodes alone


class Decoder(Protocol):
    """The used part of a Hugging Face tokenizer."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        """Return the text of the tokens."""
        ...


def decode_exactly(tokenizer: Decoder, tokens: list[int]) -> str:
    """Return the text of `tokens`, special tokens and all spaces included."""
    return tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)


class TagFinder:
    """Finds one tag in tokens; what it learns of a token is kept, so use one finder for many completions."""

    def __init__(self, tag: str, tokenizer: Decoder):
        self.tag = tag
        self._tokenizer = tokenizer
        self._window = len(tag.encode()) + SPARE_TOKENS  # a token that spells a part of the tag has a byte of it
        self._may_end: dict[int, bool] = {}

    def find_end(self, tokens: list[int], begin: int, stop: int) -> int | None:
        """Return the index after the first token of tokens[begin:stop] that completes the tag; None if none does.

        Tokens before `begin` may be a part of the tag: they were searched earlier.
        """
        for place in range(begin, stop):
            may_end = self._may_end.get(tokens[place])
            if may_end is None:
                may_end = self._may_end[tokens[place]] = self._can_end(tokens[place])
            if may_end and self._holds(tokens[max(0, place + 1 - self._window) : place + 1]):
                return place + 1
        return None

    def count_after(self, tokens: Sequence[int]) -> int:
        """Return the number of tokens after the one that completes the last tag; 0 if there is no tag."""
        for start in range(len(tokens) - 1, -1, -1):
            tail = [int(token) for token in tokens[start:]]
            if self._holds(tail):
                end = self.find_end(tail, 0, len(tail))
                return 0 if end is None else len(tail) - end
        return 0

    def _can_end(self, token: int) -> bool:
        piece = decode_exactly(self._tokenizer, [token])
        return not piece or self.tag[-1] in piece or HALF_CHARACTER in piece

    def _holds(self, tokens: list[int]) -> bool:
        return self.tag in decode_exactly(self._tokenizer, tokens)


def opens_thinking(text: str, tags: ThinkTags) -> bool:
    """Whether `text` ends in open thinking."""
    return text.rfind(tags.open) > text.rfind(tags.close)
