import pytest

from scalerl_runtime.environments.calculator import Calculator, CalculatorError, compute, find_number, format_value
from scalerl_runtime.environments.protocol import Step


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1+2", "3"),
        (" 48/2 ", "24"),
        ("1,000*2", "2000"),
        ("0.1+0.2", "0.3"),
        ("1/3", "0.3333333333"),
        ("-1/3", "-0.3333333333"),
        ("-1/10**20", "0"),
        ("2**3**2", "512"),
        ("-2**2", "-4"),
        ("2**-2", "0.25"),
        ("-7//2", "-4"),
        ("-7%3", "2"),
        ("+(5)", "5"),
    ],
)
def test_value_of_an_expression(expression, value):
    assert format_value(compute(expression)) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "(1",
        "x",
        "1/0",
        "5%0",
        "5//0",
        "0**-1",
        "2**0.5",
        "9**9**9",
        "10**400*10**400",
        "1e400",
        "True+1",
        "1j",
        "'a'*9",
        "[1]*9",
        "abs(1)",
        "__import__('os').system('id')",
        "(lambda: 1)()",
        "1 if 2 else 3",
        "1<2",
        "(" * 300 + "1" + ")" * 300,
        "1+" * 300 + "1",
        "9" * 501,
        "\0",
    ],
)
def test_what_is_no_arithmetic_has_no_value(expression):
    with pytest.raises(CalculatorError):
        compute(expression)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is $1,234.50.", 1234.5),
        ("it fell to -3", -3),
        ("10-3", 3),
        ("**72**", 72),
        ("1,2,3", 3),
        ("no", None),
        ("", None),
    ],
)
def test_last_number(text, number):
    assert find_number(text) == number


def play(reference, *messages, **arguments):
    environment = Calculator(**arguments)
    environment.reset("?", reference)
    return [environment.step(each) for each in messages]


def test_a_call_is_observed_and_an_answer_ends_the_episode():
    found = play("She has 9 left.\n#### 1,200", "First calc(1)? No: calc(30*40)", "calc(1/0)\n", "It is 1200.")
    assert found == [
        Step("1200"),
        Step("error: division by zero", error=True),
        Step(done=True, reward=1.0),
    ]


@pytest.mark.parametrize("answer", ["", "1201", "12 00 0", "calc(30*40) = 1200 or 5"])
def test_a_wrong_answer(answer):
    assert play("1200", answer) == [Step(done=True, reward=-1.0)]


def test_texts_around_a_value():
    assert play("6", "calc(2*3)", before="\n= ", after="\n") == [Step("\n= 6\n")]


def test_a_reference_without_a_number_is_refused():
    with pytest.raises(ValueError, match="'Paris' has no number"):
        play("Paris")
