import pytest

from scalerl_api.data import Piece, list_columns, parse_template


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("question", ["question"]),
        ("reward_model.ground_truth", ["reward_model.ground_truth"]),
        ("{Body} {Question}", ["Body", "Question"]),
        ("{ a }{a}", ["a", "a"]),
        (r"{q} in \boxed{{}}", ["q"]),
        ("no column, {{}} braces alone", []),
    ],
)
def test_columns_of_a_name(name, columns):
    assert list(list_columns(name)) == columns


def test_doubled_braces_are_text():
    assert parse_template("a{{b}} {c} }}") == (Piece("a{b} ", "c"), Piece(" }", None))


@pytest.mark.parametrize(
    ("template", "words"),
    [("{Body", "a single {"), ("Body}", "a single } at character 5"), ("{}", "without the name"), ("{a{b}}", "single")],
)
def test_a_broken_template_is_refused(template, words):
    with pytest.raises(ValueError, match=words):
        parse_template(template)
