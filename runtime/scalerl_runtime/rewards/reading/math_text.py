"""From what people write as an answer in mathematics to one LaTeX expression, or to a few words. PURE."""

import re

from scalerl_runtime.rewards.reading.marked_answers import find_spans

MAX_TEXT_WORDS = 4  # `infinitely many solutions`; longer references are prose that no answer repeats
MAX_UNIT_WORDS = 5  # `miles per hour`
TAIL = 3000  # characters at a completion's end that are searched for an unmarked answer
TEXT = re.compile(r"\\(?:text|mathrm|mbox|textbf|mathbf|textit|textrm|mathit|operatorname)\s*\{([^{}]*)\}")
BOLD_OR_CODE = re.compile(  # `9**9**9` is a power
    r"(?<![\w)}*])\*\*(?=\S)(.+?)(?<=\S)\*\*(?![\w(*])|(?<!\w)__(?=\S)(.+?)(?<=\S)__(?!\w)|`{1,3}([^`\n]+)`{1,3}"
)
SPACING = re.compile(r"\\(?:left|right|[bB]ig[glr]*|displaystyle|limits)(?![A-Za-z])|\\q?quad|(?<!\\)\\[!;: ]|~")
THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3})((?:(?:,|\{,\}|\\,|[ \u00a0\u202f])\d{3})+)(?![\d])")
FUNCTION_WORDS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|max|min|gcd|lcm"
LATEX_NAMES = re.compile(rf"(?<![\\A-Za-z])({FUNCTION_WORDS}|pi|theta|alpha|beta|infty)(?![A-Za-z])")
SQRT_CALL = re.compile(r"(?<![\\A-Za-z])sqrt\s*(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+))")
UNICODE = str.maketrans(
    dict(zip("−–÷，；（）％＝\u00a0", "--/,;()%= ", strict=True))
    | {"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "±": r"\pm ", "°": r"^\circ "}
    | {"≤": r"\le ", "≥": r"\ge ", "≠": r"\neq ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset "}
    | {"½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}"}
    | {"²": "^2", "³": "^3"}
)
UNICODE_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|([A-Za-z0-9.]+))")
MIXED = re.compile(r"(?<![\d./^_{])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d/])")
PERCENT = re.compile(r"\s*\\?(?:%|\b(?:percent|per cent|percentage|pct)\b)", re.IGNORECASE)
AND_OR = re.compile(
    r"\s*,?\s*(?:\\text\s*\{\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|[或和]者?)\s*", re.IGNORECASE
)
UNIT = (
    r"(?:[kcmdµμnMG]?m|[kmµμ]?g|[mcd]?[lL]|[mµμn]?s|ft|in|lbs?|oz|yds?|mi|mph|km/?h|kph|hrs?|h|mins?|secs?|[kMG]?Hz|[kM]?W|[kM]?J|[kM]?Pa|"
    r"[kM]?N|[kM]?V|mA|A|mol|K|cc|GB|MB|KB|C|F)"
)
UNITS = re.compile(
    rf"(?<=[\d}}%)])(?:\s+|(?=(?:[kcmdn]m|[mk]g|m[lL]|ft|lbs?|oz|mph|kph|hrs?|mins?|secs?|[kMG]Hz|GB|MB)\b)){UNIT}(?:\^?\{{?-?\d\}}?)?(?:\s*/\s*{UNIT}(?:\^?\{{?\d\}}?)?)?(?![A-Za-z0-9_^(])"
)
CELSIUS = re.compile(r"\^\s*\{?\s*\\circ\s*\}?\s*(?:\\text\s*\{\s*)?[CF](?![A-Za-z])\s*\}?")
# `12 (inches, snow)`, `51 (trucks)`: what was counted, behind the number. `2(ab)` is a product.
COUNTED = re.compile(
    rf"(?<=\d)\s+\((?!(?:{FUNCTION_WORDS}|pi|theta|alpha|beta)\b)[^\W\d_]{{2,}}(?:[\s,.'’/-]+[^\W\d_]{{2,}})*\)\s*$"
)
WORD = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{2,}(?:['’.-][^\W\d_]+)*(?:\^\{?\d\}?)?", re.UNICODE)
ARTICLE = re.compile(r"(?<![\\A-Za-z])(?:a|an|A|I)\s+(?=[A-Za-z]{2,})")
OPERATOR_BEFORE = re.compile(r"[-+*/^_({|]\s*$")
OPERATOR_AFTER = re.compile(r"\s*[-+*/^_)}(|]")
NAMED_SIDE = re.compile(r"^[^=<>]*[^\W\d_]{3,}[^=<>]*=(?![=<>])")
CURRENCY = re.compile(r"\\?[$]|[€£¥₹₽₩]|\bUSD\b|\bRs\.?(?=\s*\d)")
APPROXIMATELY = re.compile(r"\\(?:approx|simeq|doteq)(?![A-Za-z])|≈")
SYMBOL = re.compile(r"\s*[A-Za-z]\s*|\s*\\[A-Za-z]+\s*")
HAS_LATEX = re.compile(r"\\[A-Za-z]+")
SINGLE_LETTER = re.compile(r"(?<![\w\\'’])[^\W\d_](?![\w'’])")
CJK = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3]+")
LIST_GAP = re.compile(r"\s*(?:,?\s*\b(?:and|or)\b|[或和]者?)\s*", re.IGNORECASE)
NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
SIGNED = rf"[-+−]?[$€£¥₹]?(?:{NUMBER})"
BARE_EXPRESSION = re.compile(
    rf"(?<![\w.\\^_])(?:-?\d*\s*\\[dtc]?frac\s*\{{[^{{}}]*\}}\s*\{{[^{{}}]*\}}|-?\d*\\sqrt\s*\{{[^{{}}]*\}}"
    rf"|\(?{SIGNED}\)?!?(?:\s+\d+/\d+(?!\d))?(?:\s*(?:[-+*/^×÷·−]|\*\*|\\times|\\cdot|\\div)\s*\(?{SIGNED}\)?!?)*)"
    r"(?:\s*\\?%|\s+percent\b)?"
)


def strip_markdown(text: str) -> str:
    """Return `text` without the signs of bold text and code around its words."""
    text = re.sub(r"^[\s>]*(?:```\w*|[-•]\s(?=\S))", "", text)
    return BOLD_OR_CODE.sub(lambda m: m[1] or m[2] or m[3], text)


def is_words(text: str) -> bool:
    """Return whether `text` is compared as text: it has no digit, LaTeX command or symbol of one letter."""
    if CJK.search(text) and not re.search(r"\d|\\[A-Za-z]", text):
        return True
    bare = TEXT.sub(r"\1", text)
    if re.search(r"[\d=<>^+*/√π∞∅{}\[\]|]", bare) or HAS_LATEX.search(bare) or is_named_constant(bare):
        return False
    words = WORD.findall(bare)
    return bool(words) and (not SINGLE_LETTER.search(ARTICLE.sub("", bare)) or len(words) >= 3)


def is_named_constant(text: str) -> bool:
    """Return whether `text` is a word for a number."""
    return (
        re.fullmatch(r"[-+]?\s*(?:pi|infinity|infty|inf|oo|theta|alpha|beta)", text.strip(), re.IGNORECASE) is not None
    )


def normalize_words(text: str) -> str:
    """Return `text` as it is compared: no case, no article, no punctuation around it, single spaces."""
    bare = TEXT.sub(r" \1 ", strip_markdown(text)).replace("\\ ", " ")
    bare = re.sub(r"\s+", " ", re.sub(r"[$~\"“”`*]", " ", bare)).strip(" .,;:!?。，！")
    return re.sub(r"^(?:the|an?)\s(?=\S)", "", bare.casefold())


def build_expression(content: str) -> str:
    """Return the LaTeX expression in an answer: without words, units, currency and delimiters; empty if none is left.

    Several values, however they are joined, make a list, which equals no single value.
    """
    text = strip_markdown(content.strip()).translate(UNICODE)
    spans = find_spans(text)
    if spans:
        text = _join_spans(text, spans)
    text = UNICODE_ROOT.sub(lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text)
    text = SPACING.sub(" ", text)
    text = THOUSANDS.sub(lambda m: m[1] + re.sub(r"\D", "", m[2]), text)
    text = COUNTED.sub("", CELSIUS.sub(" ", text))
    text = CURRENCY.sub("", text)
    text = PERCENT.sub(r"\\%", AND_OR.sub(", ", text))
    text = _strip_units(text)
    text = _use_latex_names(text)
    text = _strip_words(text)
    text = MIXED.sub(r"\1\\frac{\2}{\3}", text)
    text = text.replace("**", "^").replace(r"\,", " ")
    text = re.sub(r"\s+", " ", text).rstrip(" .,;:!?。'\"*_`").lstrip(" ,;:'\"*_`")
    return text if re.search(r"[\dA-Za-z\\]", text) else ""


def take_exact(expression: str) -> str:
    """Return the value before its approximation; of `x \\approx 1.31` and `\\approx 1.31` the number."""
    parts = [part.strip() for part in APPROXIMATELY.split(expression) if part.strip()]
    return next((part for part in parts if not SYMBOL.fullmatch(part)), expression)


def find_last_expression(text: str) -> str:
    """Return the last formula or number of an unmarked answer, with those joined to it by `and` or `or`."""
    line = next((each.strip() for each in reversed(strip_markdown(text[-TAIL:]).splitlines()) if each.strip()), "")
    line = line.strip("`*_ ")
    symbols = LATEX_NAMES.sub("1", AND_OR.sub(" , ", TEXT.sub(" ", HAS_LATEX.sub(" ", line))))
    if not find_spans(line) and all(_is_product(symbols, match) for match in WORD.finditer(symbols)):
        return line
    tail = strip_markdown(text[-TAIL:])
    found = find_spans(tail)
    bare = [(m.start(), m.end(), m[0]) for m in BARE_EXPRESSION.finditer(tail)]
    found += [each for each in bare if not any(start < each[1] and each[0] < end for start, end, _ in found)]
    found.sort()
    if not found:
        return ""
    values = [found[-1]]
    for each in reversed(found[:-1]):
        if not LIST_GAP.fullmatch(tail, each[1], values[0][0]):
            break
        values.insert(0, each)
    percent = re.match(r"\s*\\?%", tail[values[-1][1] :])
    return ", ".join(value[2] for value in values) + (r"\%" if percent else "")


def _join_spans(text: str, spans: list[tuple[int, int, str]]) -> str:
    """The formulas alone, as a list; the words around them are prose."""
    percent = r"\%" if re.match(r"\s*\\?(?:%|percent)", text[spans[-1][1] :]) else ""
    outside = "".join(
        text[start:end]
        for start, end in zip([0, *(s[1] for s in spans)], [*(s[0] for s in spans), len(text)], strict=True)
    )
    numbers = [match[0] for match in BARE_EXPRESSION.finditer(outside)]
    return ", ".join([*(content for *_, content in spans), *numbers]) + percent


def _strip_units(text: str) -> str:
    text = re.sub(
        r"(?<=[\d}%)])\s*" + TEXT.pattern + r"(?:\^\{?-?\d\}?)?(?:\s*/\s*" + TEXT.pattern + r"(?:\^\{?\d\}?)?)?",
        _keep_label,
        text,
    )
    text = TEXT.sub(lambda m: f" {m[1]} ", text)
    return UNITS.sub(" ", text)


def _keep_label(match: re.Match[str]) -> str:
    """A separator in `\\text` separates; anything else after a number is its unit."""
    return ", " if match[1].strip(" ,") in ("and", "or", "") and match[1].strip() else " "


def _use_latex_names(text: str) -> str:
    text = SQRT_CALL.sub(lambda m: rf"\sqrt{{{m[1] or m[2] or m[3]}}}", text)
    text = re.sub(r"(?<![\\A-Za-z])(?:infinity|inf|oo)(?![A-Za-z])", r"\\infty", text, flags=re.IGNORECASE)
    return LATEX_NAMES.sub(r"\\\1 ", text)


def _is_product(text: str, word: re.Match[str]) -> bool:
    before = text[max(0, word.start() - 20) : word.start()]
    is_beside_operator = OPERATOR_BEFORE.search(before) or OPERATOR_AFTER.match(text, word.end())
    return is_beside_operator is not None or before[-1:].isdigit()


def _strip_words(text: str) -> str:
    """Remove prose and units; a word beside an operator is a product of symbols, and stays."""
    text = NAMED_SIDE.sub("", text) if not HAS_LATEX.search(text.partition("=")[0]) else text
    text = ARTICLE.sub("", text)
    kept = []
    position = 0
    gap_is_words = False
    for match in WORD.finditer(text):
        if _is_product(text, match) or len(match[0]) == 2 and not text[: match.start()].strip():
            continue
        kept.append(text[position : match.start()])
        position = match.end()
        gap_is_words = True
    kept.append(text[position:])
    pieces = [piece.strip(" .:;!?") for piece in kept]
    return (
        ", ".join(piece.strip(", ") for piece in pieces if re.search(r"[\dA-Za-z\\]", piece)) if gap_is_words else text
    )
