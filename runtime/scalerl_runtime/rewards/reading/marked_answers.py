"""Finds the part of a completion that is marked as its answer. PURE.

The last box, `<answer>` tag or `####` line counts; without one, the last sentence such as `The answer is X`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

MAX_NESTED = 5  # a box in a tag in a box; more is no answer that anybody writes
MAX_SENTENCE = 3000  # characters after `the answer is` that are looked at
BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])\s*")
BARE_BOX = re.compile(r"\\[A-Za-z]+(?:\{[^{}]*\})*|[^\s${}\\,;]+")  # `\boxed 5`, `\boxed\frac{1}{2}`
SPACE_BETWEEN_BOXES = re.compile(
    r"[\s$&~]|\\[()\[\],;]|\\q?quad|[.,;、，]"
    r"|\\text\s*\{\s*(?:and|or)\s*\}|\b(?:and|or)\b|[或和]"
)
HASH_LINE = re.compile(r"####[ \t]*([^\s#][^\n]*)")
HEADING = re.compile(r"\d+[.):]\s+\S|[^\W\d_]{2,}")  # `#### 2. Add` and `#### Step 4` are headings of Markdown
PHRASE = re.compile(
    r"(?:\b(?:answer|option|choice)\b(?:\s+(?:to|for|of)\b[^.:\n]{0,100}?)?[*_`]*\s*"
    r"(?:(?:is|are|was|would be|will be|must be|should be|equals)\b\s*(?:(?:therefore|thus|simply|just|then)\b)?"
    r"|[:：=])"
    r"|答案(?:应该|应当)?(?:是|为|等于)?|答え(?:は)?|정답(?:은)?"
    r"|\b(?:Antwort|Lösung|respuesta|réponse|risposta|resposta)\b\s*(?:(?:ist|es|est|è|é)\b|[:：])"
    r"|\bответ\s*[:：—-]"
    r"|\banswer[*_`]*\s*\n)[:：]?",
    re.IGNORECASE,
)
# No end of a sentence is the full stop of `Mrs. Hilt` and `36 sq. inches`.
ABBREVIATED = "".join(rf"(?<!\b{word})" for word in ("Mr", "mr", "Mrs", "mrs", "Ms", "Dr", "dr", "St", "sq", "cu"))
SENTENCE_END = re.compile(ABBREVIATED + r"\.(?=\s|$|[*_`\"'])|[。！]|[!?](?=\s|$)|\n")
REASON = re.compile(
    r",?\s+(?:because|since|as|so|for|which|where|when|hence|thus|therefore|but|not|if)\b|[,，]\s*(?:因为|所以)",
    re.IGNORECASE,
)
SPAN = re.compile(
    r"\$\$(.{1,2000}?)\$\$|\\\[(.{1,2000}?)\\\]|\\\((.{1,2000}?)\\\)|(?<!\\)\$([^$\n]{1,2000}?)(?<!\\)\$(?!\d)",
    re.DOTALL,
)
TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|mbox|textbf|mathbf)\s*\{[^{}]*\}")
WORD_AND_SPACE = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{2,}\s|\s$")


@dataclass(frozen=True)
class MarkedAnswer:
    """The content of a marker."""

    content: str
    marker: str  # box, tag, line or sentence
    position: int  # of its end in the text


def find_marked_answer(text: str, is_plausible: Callable[[str], bool]) -> MarkedAnswer | None:
    """Return the marked answer of `text`, or None.

    `is_plausible`: whether the words after `the answer is` can be an answer; else an earlier sentence is taken. The
    content of a box, a tag or a line is never passed over: an answer that is marked so and is nonsense is wrong.
    """
    found: MarkedAnswer | None = None
    for _ in range(MAX_NESTED):
        inner = find_enclosed_answer(text) or find_announced_answer(text, is_plausible)
        if inner is None:
            break
        found = inner if found is None else MarkedAnswer(inner.content, found.marker, found.position)
        if inner.marker == "sentence" and find_enclosed_answer(inner.content) is None:
            break
        text = inner.content
    return found


def find_enclosed_answer(text: str) -> MarkedAnswer | None:
    """Return the last box (with those joined to it), `<answer>` tag or `####` line."""
    found = [each for each in (_find_box(text), _find_tag(text), _find_line(text)) if each is not None]
    return max(found, key=lambda each: each.position) if found else None


def find_announced_answer(text: str, is_plausible: Callable[[str], bool]) -> MarkedAnswer | None:
    """Return the end of the last sentence such as `The answer is X` that can be an answer."""
    for match in reversed(list(PHRASE.finditer(text))):
        content = cut_sentence(text[match.end() :])
        if content and is_plausible(content):
            return MarkedAnswer(content, "sentence", match.end())
    return None


def find_spans(text: str) -> list[tuple[int, int, str]]:
    """Return start, end and content of every formula between dollars or LaTeX brackets; prices are none."""
    spans = []
    for match in SPAN.finditer(text):
        content = next(group for group in match.groups() if group is not None)
        is_prices = match[4] is not None and WORD_AND_SPACE.search(TEXT_COMMAND.sub("", content)) is not None
        if not is_prices or "\\" in content:
            spans.append((match.start(), match.end(), content.strip()))
    return spans


def cut_sentence(text: str) -> str:
    """Return `text` up to the end of its first sentence, or up to its reason; a formula is kept whole."""
    text = text[:MAX_SENTENCE].lstrip(" \t\n:：*_`")
    spans = find_spans(text)
    end = len(text)
    for pattern in (SENTENCE_END, REASON):
        for match in pattern.finditer(text, 0, end):
            if not any(start <= match.start() < stop for start, stop, _ in spans):
                end = match.start()
                break
    return text[:end].strip().rstrip(",;*_`")


def _find_box(text: str) -> MarkedAnswer | None:
    closing = _match_braces(text) if "box" in text else {}
    contents: list[str] = []
    last_end = 0
    position = 0
    while (match := BOX.search(text, position)) is not None:
        start, content, position = match.start(), "", match.end()
        if position in closing:
            content, position = text[position + 1 : closing[position]].strip(), closing[position] + 1
        elif (bare := BARE_BOX.match(text, position)) is not None:
            content, position = bare[0].rstrip(".。"), bare.end()
        if content:
            contents = [*contents, content] if _joins(text[last_end:start]) and contents else [content]
            last_end = position
    # Boxes joined by a comma, `and` or `or` are one list: an answer that offers two values has no box of its own.
    return MarkedAnswer(", ".join(dict.fromkeys(contents)), "box", last_end) if contents else None


def _joins(between: str) -> bool:
    return (
        len(between) < 40
        and not SPACE_BETWEEN_BOXES.sub("", between)
        and re.search(r"[,;、，]|and|or|[或和]", between) is not None
    )


def _match_braces(text: str) -> dict[int, int]:
    """Return the position of the closing brace of every opening one that is closed."""
    opened: list[int] = []
    closing = {}
    is_escaped = False
    for position, letter in enumerate(text):
        if letter == "{" and not is_escaped:
            opened.append(position)
        elif letter == "}" and not is_escaped and opened:
            closing[opened.pop()] = position
        is_escaped = letter == "\\" and not is_escaped  # `\{` is no brace
    return closing


def _find_tag(text: str) -> MarkedAnswer | None:
    lower = text.lower()
    start = lower.rfind("<answer>")
    if start < 0:
        return None
    end = lower.find("</answer>", start)
    end = len(text) if end < 0 else end  # sampling stopped at the closing tag
    content = text[start + len("<answer>") : end].strip()
    return MarkedAnswer(content, "tag", end)


def _find_line(text: str) -> MarkedAnswer | None:
    for match in reversed(list(HASH_LINE.finditer(text))):
        content = match[1].strip()
        if not HEADING.match(content) or not text[match.end() :].strip():
            return MarkedAnswer(content, "line", match.end())
    return None
