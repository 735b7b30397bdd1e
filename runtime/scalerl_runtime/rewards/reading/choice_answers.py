"""Judges multiple choice: whether a completion names the right option, by its label or its text. PURE."""

import re

from scalerl_runtime.rewards.reading.choice_references import Choice, parse_choice
from scalerl_runtime.rewards.reading.marked_answers import cut_sentence, find_enclosed_answer
from scalerl_runtime.rewards.reading.math_text import normalize_words, strip_markdown

VERB = (
    r"(?:(?:is|are|was|would be|will be|must be|should be)\b\s*(?:(?:therefore|thus|simply|just|then|clearly)\b)?"
    r"|[:：=])"
)
AFTER_VERB = r"[:：\s*_`]*(?:(?:the\s+)?(?:option|choice|answer|letter)\b\s*:?\s*)?"
# `The answer is B`, `Answer (B)`, `The correct option is B`, `答案是B`: the last one counts.
STATEMENT = re.compile(
    rf"(?:\b(?:answer|letter|solution)\b(?:\s+(?:to|for|of)\b[^.:\n]{{0,100}}?\s{VERB}|[*_`]*\s*{VERB}?)"
    rf"|\b(?:option|choice|alternative|one)\b[*_`]*\s*{VERB}"
    r"|(?:正确)?(?:答案|选项)(?:应该|应当)?(?:是|为|选)?|答え(?:は)?|정답(?:은)?"
    r"|\b(?:Antwort|Lösung|respuesta|réponse|risposta|resposta)\b\s*(?:(?:ist|es|est|è|é)\b)?)" + AFTER_VERB,
    re.IGNORECASE,
)
# `Option D`, `I choose (c)`: a list of options is written so too, so it counts only if there is no other.
MENTION = re.compile(
    r"(?:\b(?:option|choice|alternative)\b|\b(?:choose|pick|select|go with)\b|故?选择?)" + AFTER_VERB, re.IGNORECASE
)
TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|mbox|textbf|mathbf|textit|textrm|mathit)\s*\{([^{}]*)\}")
WORDS_BEFORE = re.compile(
    r"(?:the\s+)?(?:correct\s+|right\s+)?(?:option|choice|answer|letter)\b\s*(?:is\b)?\s*[:：]?\s*", re.IGNORECASE
)
LABEL = re.compile(r"[(\[{]?\s*([A-Za-z]|\d{1,2}(?![.,]\d))(?:\s*([)\]}]))?")
# After a label there is nothing, a sign, or a word that goes on about it; `A good answer` and `I think` have none.
AFTER_LABEL = re.compile(
    r"\s*(?:$|[.,:;!?。，：；)\]\n–—]|-\s"
    r"|(?:because|since|as|so|for|which|with|due|where|but|by|\(|is the|is correct)(?!\w)"
    r"|[\u3040-\u30ff\u4e00-\u9fff])",
    re.IGNORECASE,
)
NEXT_LABEL = re.compile(
    r"\s*(?:,|/|&|\+|;|\b(?:and|or)\b|[或和、])[\s,]*(?:and\b|or\b)?\s*(?:option|choice|answer)?\s*[(\[]?([A-Za-z]|\d{1,2})(?![\w'’])",
    re.IGNORECASE,
)
OTHER_OPTION = re.compile(r"(?<!\w)\(?[A-Z](?:\)|[.:]\s)")
LISTED_OPTION = re.compile(r"^\s*\(?([A-Z])[).:]", re.MULTILINE)
BRACKETED = re.compile(r"\(([A-Za-z])\)|(?<![\w(])([A-Z])\)|\*\*\(?([A-Z])\)?[.):]?\*\*")


def is_right_choice(answer: str, reference: str) -> bool:
    """Return whether `answer` names the option of `reference`, and no other. Raises ValueError for a bad reference."""
    choice = parse_choice(reference)
    return find_label(answer, choice) == choice.label


def read_choice(answer: str) -> str | None:
    """Return the label that `answer` names, where the options are unknown."""
    return find_label(answer, Choice("", {}))


def find_label(answer: str, choice: Choice) -> str | None:
    """Return the label of the option that `answer` names; None if it names none, or several."""
    marked = find_enclosed_answer(answer)
    while marked is not None and (inner := find_enclosed_answer(marked.content)) is not None:
        marked = inner
    if marked is not None:
        return _read_label(marked.content, choice) or _find_stated(marked.content, choice) or None
    text = strip_markdown(answer.strip())
    for label in (_read_label(text, choice), _find_stated(text, choice), _find_bracketed(answer, choice)):
        if label is not None:
            return label or None
    return None


def _find_stated(text: str, choice: Choice) -> str | None:
    """The label in the last statement that names one; empty if it names several; None if there is no statement."""
    for match in reversed(list(STATEMENT.finditer(text))):
        rest = text[match.end() :]
        label = LABEL.match(rest)
        if label is not None and _is_list(rest, label):
            return ""
        if label is not None and _ends_label(rest, label):
            return _accept(label[1], choice) or ""
        by_text = _match_text(cut_sentence(rest), choice)
        if by_text is not None:
            return by_text
    return _find_mentioned(text, choice)


def _find_mentioned(text: str, choice: Choice) -> str | None:
    found = set()
    for match in MENTION.finditer(text):
        rest = text[match.end() :]
        label = LABEL.match(rest)
        if label is not None and (_is_list(rest, label) or _ends_label(rest, label)):
            found.add("" if _is_list(rest, label) else label[1].upper())
    return _accept(found.pop(), choice) if len(found) == 1 else None


def _read_label(content: str, choice: Choice) -> str | None:
    """The label in a text that is nothing but an answer: `B`, `(b)`, `B) 5 apples`, `Option B`, or an option's text."""
    text = strip_markdown(TEXT_COMMAND.sub(r"\1", content)).strip(" $.:\n\t*_`'\"")
    text = re.sub(r"^\\[(\[]|\\[)\]]$", "", text).strip()
    text = WORDS_BEFORE.sub("", text, count=1)
    label = LABEL.match(text)
    if label is not None and label.end() == len(text) and (accepted := _accept(label[1], choice)):
        return accepted
    by_text = _match_text(text, choice)
    if by_text is not None or label is None or "\n" in text:
        return by_text
    rest = text[label.end() :]
    is_option = label[2] or re.match(r"[.:]\s|\s+(?:because|since|as)\b", rest)
    if not is_option or _is_list(text, label) or OTHER_OPTION.search(rest) or _find_stated(rest, choice) is not None:
        return None
    return _accept(label[1], choice)


def _ends_label(text: str, label: re.Match[str]) -> bool:
    if label[2]:
        return True
    is_article = label[1] in ("a", "i") and text[label.end() :].strip(" .*_`\n") != ""
    return AFTER_LABEL.match(text, label.end()) is not None and not is_article


def _is_list(text: str, label: re.Match[str]) -> bool:
    following = NEXT_LABEL.match(text, label.end())
    if following is None:
        return False
    rest = text[following.end() :]
    is_word = following[1] in ("a", "I") and re.match(r"\s+[a-z]", rest) is not None  # `B, a prime number`
    return not is_word and following[1].upper() != label[1].upper()


def _find_bracketed(answer: str, choice: Choice) -> str | None:
    """The one label in brackets or bold in the last line, such as `so (B)`; None if it lists several."""
    lines = [line for line in answer.strip().splitlines() if line.strip()]
    if lines and LISTED_OPTION.match(lines[-1]) and len(set(LISTED_OPTION.findall(answer))) > 1:
        return None  # the question's options, copied
    found = {
        next(group for group in match.groups() if group).upper()
        for match in BRACKETED.finditer(lines[-1] if lines else "")
    }
    return _accept(found.pop(), choice) if len(found) == 1 else None


def _match_text(text: str, choice: Choice) -> str | None:
    words = normalize_words(text)
    same = [label for label, option in choice.options.items() if normalize_words(option) == words]
    return same[0] if words and len(same) == 1 else None


def _accept(label: str, choice: Choice) -> str | None:
    return label.upper() if not choice.options or label.upper() in choice.options else None
