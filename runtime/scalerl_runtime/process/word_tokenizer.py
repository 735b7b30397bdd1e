"""A tokenizer of words that stands in for a model's own one that is not on this machine. PURE."""

import re
from collections.abc import Mapping

_WORD = re.compile(r"\S+\s*|\s+")


class WordTokenizer:
    """Every word, with the blanks after it, is a token; a conversation is its texts, a line each.

    A word is one or more tokens of a real tokenizer, so a prompt is never longer than it really is.
    """

    chat_template: str | None = "{{ messages }}"
    eos_token_id: int | None = None
    unk_token_id: int | None = None
    added_tokens_decoder: object = {}

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._words: list[str] = []

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> Mapping[str, list[list[int]]]:
        """See `Tokenizer`."""
        del add_special_tokens
        return {"input_ids": [[self._number(word) for word in _WORD.findall(each)] for each in text]}

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        """See `Decoder`."""
        del skip_special_tokens, clean_up_tokenization_spaces
        return "".join(self._words[each] for each in token_ids)

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        **template_arguments: int | float | str | bool,
    ) -> str:
        """See `ChatTokenizer`."""
        del tokenize, add_generation_prompt, template_arguments
        return "".join(f"{turn['role']}: {turn['content']}\n" for turn in conversation)

    def _number(self, word: str) -> int:
        if word not in self._ids:
            self._ids[word] = len(self._words)
            self._words.append(word)
        return self._ids[word]
