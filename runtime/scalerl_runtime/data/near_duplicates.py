"""Recognizes prompts that differ only in case, blanks, punctuation or the width of characters. PURE."""

import re
import unicodedata
from collections.abc import Iterator

from scalerl_runtime.types import Prompt

# A number with its grouping commas, a run of letters, or one other character. Combining marks are other characters.
_TOKEN = re.compile(r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)*|\.\d+|[^\W\d_]+|\S")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴-⁹]+")  # noqa: RUF001 # NFKC would make the square of x the name x2
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212"), "-")
_APOSTROPHE = re.compile(r"(?<=[^\W\d_])['\u2019](?=[^\W\d_])")
_BRACKETS = frozenset("()[]{}")
_MARKUP = frozenset("$`\\")  # of LaTeX and Markdown: the same question is written with and without
_ARTICLES = frozenset("ai")  # words of one letter that are rarely names
# Operators in mathematics and programs, punctuation in prose: they count beside a number, a name of one letter or a
# bracket.
_SOMETIMES = frozenset("-*/!^_|#&@:'") | _BRACKETS


def build_key(text: str) -> str:
    """Return what near duplicates have in common: the words, numbers and operators of `text`.

    `2+3` and `2 + 3` have one key, and so have `What is 2+3?` and `what is 2+3`; `2+3` and `2-3`, `3.5` and `35`, `1 2`
    and `12` have not. A text of punctuation alone is its own key.
    """
    spelled = _SUPERSCRIPT.sub(lambda found: "^" + unicodedata.normalize("NFKC", found.group()), text)
    plain = unicodedata.normalize("NFKC", spelled).casefold().translate(_DASHES)
    tokens = _TOKEN.findall(_APOSTROPHE.sub("", plain))
    return "".join(_join(_select(tokens))) or text


def prompt_key(prompt: Prompt) -> str:
    """Return `build_key` of the question, without the template around it."""
    return build_key(prompt.question or prompt.text)


def _select(tokens: list[str]) -> Iterator[str]:
    """Yield the tokens that carry meaning, without the commas of numbers."""
    for index, token in enumerate(tokens):
        if _is_number(token):
            yield token.replace(",", "")
        elif token[0].isalpha():
            yield token
        elif token in _SOMETIMES:
            if _is_operator(tokens, index):
                yield token
        elif token not in _MARKUP and (token == "%" or not unicodedata.category(token).startswith(("P", "C", "Z"))):
            yield token


def _join(tokens: Iterator[str]) -> Iterator[str]:
    """Yield the tokens, with a blank between two numbers."""
    follows_number = False
    for token in tokens:
        is_number = _is_number(token)
        yield f" {token}" if is_number and follows_number else token
        follows_number = is_number


def _is_number(token: str) -> bool:
    return token[0].isdigit() or (token[0] == "." and len(token) > 1)


def _is_operator(tokens: list[str], index: int) -> bool:
    """Whether the sign at `index` stands beside a number, a name of one letter or a bracket, as in a formula."""
    before, after = tokens[max(0, index - 1) : index], tokens[index + 1 : index + 2]
    if tokens[index] == "'":  # a derivative; else a quote
        return any(_is_operand(each) for each in before) and after == ["("]
    if tokens[index] == "!":  # a factorial; else an exclamation
        return any(_is_operand(each) for each in tokens[max(0, index - 2) : index] if each not in _BRACKETS)
    return any(_is_operand(each) for each in (*before, *after))


def _is_operand(token: str) -> bool:
    return _is_number(token) or token in _BRACKETS or (len(token) == 1 and token.isalpha() and token not in _ARTICLES)
