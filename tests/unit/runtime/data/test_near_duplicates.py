import pytest

from scalerl_runtime.data.near_duplicates import build_key


@pytest.mark.parametrize(
    ("one", "other", "rule"),
    [
        ("What is 2+3?", "what is 2 + 3", "case, blanks and the question mark"),
        ("What is 2 + 3 ?", "  What\nis\t2 +3.", "lines and tabs are blanks"),
        ("２＋３", "2+3", "full-width characters"),
        ("5 − 3", "5-3", "the minus sign and the hyphen"),
        ("It costs 1,000 coins; why?", "It costs 1000 coins, why", "commas in a number"),
        ("Don’t stop", "dont stop", "apostrophes in a word"),
        ("a state-of-the-art car", "A state of the art car", "hyphens between words"),
        ("**Solve** $x^2 = 4$", "Solve x^2=4", "Markdown and the dollars of LaTeX"),
        ("x²", "x^2", "a superscript is a power"),
        ('He said "go" (at once)!', "He said go at once", "quotes, and brackets around words"),
        ("Is this a 'test' - or a game?", "is this a test or a game", "quotes and a dash beside an article"),
        ("Add 5 and seven, please!", "Add 5 and seven please", "an exclamation"),
        ("[1, 2, 3]", "[1,2,3]", "blanks in a list"),
        ("Straße", "STRASSE", "letters that casefold to two"),
        ("小明 有 5 个苹果。", "小明有5个苹果", "blanks and the full stop of Chinese"),
        ("café", "cafe\u0301", "composed and combining accents"),
    ],
)
def test_one_key(one: str, other: str, rule: str) -> None:
    assert build_key(one) == build_key(other), rule


@pytest.mark.parametrize(
    ("one", "other", "rule"),
    [
        ("What is 2+3?", "What is 2-3?", "operators"),
        ("6*2", "6/2", "operators that are punctuation in prose"),
        ("6/2", "62", "an operator and none"),
        ("-5 + 2", "5 + 2", "the sign"),
        ("3.5", "35", "the decimal point"),
        ("0.5", "5", "a number below one"),
        (".5", "5", "a number that begins with the point"),
        ("1 2", "12", "two numbers and one"),
        ("1, 2", "12", "two numbers in a list, and one"),
        ("[1,2]", "[1.2]", "the comma of a list and the point of a number"),
        ("2*(3+4)", "2*3+4", "brackets in a formula"),
        ("(1,2]", "[1,2]", "the kind of bracket"),
        ("5!", "5", "the factorial"),
        ("(n+1)!", "(n+1)", "the factorial of a bracket"),
        ("5%", "5", "per cent"),
        ("x^2", "x2", "the power and a name"),
        ("x_1 = 3", "x = 3", "an index"),
        ("a<b", "a>b", "comparisons"),
        ("f'(x)", "f(x)", "the derivative"),
        ("5 apples", "6 apples", "numbers"),
        ("🍎🍎", "🍎", "symbols"),
        ("कि", "का", "vowel signs"),
        ("?!", "...", "texts of punctuation alone are their own keys"),
    ],
)
def test_two_keys(one: str, other: str, rule: str) -> None:
    assert build_key(one) != build_key(other), rule
