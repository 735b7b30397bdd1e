# ruff: noqa: ARG001, ARG002, ARG005  # the functions show signatures
"""How users' functions are called: every style in which RL frameworks write rewards."""

import functools
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scalerl_runtime.rewards.requests import GradeRequest
from scalerl_runtime.rewards.user_function import UserVerifier, find_style, parse_reward

REQUEST = GradeRequest("Q", "C", "R", "S")


def three(a, b, c):
    return f"{a}{b}{c}"


def three_named_otherwise(question, answer, gold):
    return f"{question}{answer}{gold}"


def three_in_another_order(reference, completion, prompt):
    return f"{prompt}{completion}{reference}"


def three_and_an_option(x, y, z, tolerance=1e-6):
    assert tolerance == 1e-6
    return f"{x}{y}{z}"


def two(a, b):
    return f"Q{a}{b}"


def two_named(completion, reference):
    return f"Q{completion}{reference}"


def two_swapped(ground_truth, response):
    return f"Q{response}{ground_truth}"


def answer_and_solution(answer, solution):
    return f"Q{answer}{solution}"


def keyword_only(*, prompt, completion, reference):
    return f"{prompt}{completion}{reference}"


def keyword_only_part(*, completion, answer):
    return f"Q{completion}{answer}"


def with_defaults(completion, prompt="none", reference=None):
    return f"{prompt}{completion}{reference}"


def three_optional(a=None, b=None, c=None):
    return f"{a}{b}{c}"


def positional_only(completion, reference, /):
    return f"Q{completion}{reference}"


def any_positions(*args):
    return "".join(args)


def any_names(**kwargs):
    return f"{kwargs['prompt']}{kwargs['completion']}{kwargs['reference']}"


def completion_and_names(completion, **kwargs):
    return f"{kwargs['prompt']}{completion}{kwargs['reference']}"


def style_alone(completion):
    return f"Q{completion}R"


def verl(data_source, solution_str, ground_truth, extra_info=None):
    assert (data_source, extra_info) == ("S", None)
    return f"Q{solution_str}{ground_truth}"


def trl(prompts, completions, answer, **kwargs):
    return [f"{p}{c}{a}" for p, c, a in zip(prompts, completions, answer, strict=True)]


def trl_from_kwargs(completions, **kwargs):
    return [f"{p}{c}{a}" for p, c, a in zip(kwargs["prompts"], completions, kwargs["ground_truth"], strict=True)]


def trl_keyword_only(*, completions, solution):
    return [f"Q{c}{a}" for c, a in zip(completions, solution, strict=True)]


def trl_plural(prompts, completions, references):
    return [f"{p}{c}{a}" for p, c, a in zip(prompts, completions, references, strict=True)]


def trl_messages(prompts, completions, answer, **kwargs):
    return [f"{p[-1]['content']}{c[0]['content']}{a}" for p, c, a in zip(prompts, completions, answer, strict=True)]


async def asynchronous(prompt, completion, reference):
    return f"{prompt}{completion}{reference}"


async def asynchronous_trl(prompts, completions, answer, **kwargs):
    return [f"{p}{c}{a}" for p, c, a in zip(prompts, completions, answer, strict=True)]


class Callable3:
    def __call__(self, prompt, completion, reference):
        return f"{prompt}{completion}{reference}"

    def method(self, completion, reference):
        return f"Q{completion}{reference}"


CALLABLE = [
    three,
    three_named_otherwise,
    three_in_another_order,
    three_and_an_option,
    two,
    two_named,
    two_swapped,
    answer_and_solution,
    keyword_only,
    keyword_only_part,
    with_defaults,
    three_optional,
    positional_only,
    any_positions,
    any_names,
    completion_and_names,
    style_alone,
    verl,
    trl,
    trl_from_kwargs,
    trl_keyword_only,
    trl_plural,
    trl_messages,
    asynchronous,
    asynchronous_trl,
    Callable3(),
    Callable3().method,
    functools.partial(three_and_an_option, tolerance=1e-6),
    lambda p, c, r: f"{p}{c}{r}",
]


@pytest.mark.parametrize("function", CALLABLE, ids=lambda each: getattr(each, "__name__", type(each).__name__))
def test_each_argument_reaches_its_parameter(function):
    verify = UserVerifier(function)
    returned = verify(REQUEST)
    verify.close()
    assert returned in ("QCR", ["QCR"])


def test_an_awaitable_client_keeps_its_loop():
    loops = []

    async def grade(completion, reference):
        import asyncio

        loops.append(asyncio.get_running_loop())
        return True

    verify = UserVerifier(grade)
    assert [verify(REQUEST), verify(REQUEST)] == [True, True]
    assert loops[0] is loops[1]
    verify.close()


def test_the_first_success_settles_the_form_of_completions():
    """Later a completion that raises must not turn text into messages."""
    received = []

    def grade(completions, **kwargs):
        received.append(completions[0])
        return [{"C": 1.0}[completions[0]]]

    verify = UserVerifier(grade)
    assert verify(REQUEST) == [1.0]
    with pytest.raises(KeyError):
        verify(GradeRequest("Q", "other", "R"))
    assert received == ["C", "other"]


def test_a_function_that_takes_neither_form_gives_both_errors():
    def grade(completions):
        return [completions[0].missing]

    with pytest.raises(AttributeError, match=r"'str' object.*lists of messages: 'list' object"):
        UserVerifier(grade)(REQUEST)


def none():
    return 1.0


def one_unknown(x):
    return 1.0


def four(a, b, c, d):
    return 1.0


def unknown_keyword(*, prompt, completion, judge_model):
    return 1.0


def question_and_answer(question, answer):
    """It would never see the completion."""
    return 1.0


def batch_of_unknown(completions, completion_ids):
    return [1.0]


def first_is_the_reference(reference, completion, x):
    return 1.0


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (none, "none"),
        (one_unknown, "x"),
        (four, "a, b, c, d"),
        (unknown_keyword, "prompt, completion, judge_model"),
        (question_and_answer, "question, answer"),
        (batch_of_unknown, "completions, completion_ids"),
        (first_is_the_reference, "reference, completion, x"),
    ],
)
def test_a_signature_that_cannot_be_served_names_its_parameters_and_what_is_offered(function, named):
    with pytest.raises(TypeError, match=rf"parameters are \({named}\); offered are prompt, completion"):
        find_style(function)


@pytest.mark.parametrize(
    ("returned", "reward", "rule"),
    [
        (True, 1.0, "True"),
        (False, -1.0, "False is -1 and not 0"),
        (0, 0.0, "an integer"),
        (-1, -1.0, "the lower bound"),
        (np.bool_(True), 1.0, "np.isclose returns it"),
        (np.bool_(False), -1.0, "and False"),
        (np.float32(0.5), 0.5, "a number of another library"),
        (np.int64(1), 1.0, "an integer of numpy"),
        (np.array(0.25), 0.25, "an array without axes"),
        (np.array([0.25]), 0.25, "an array of one"),
        (torch.tensor(0.5), 0.5, "a tensor"),
        (torch.tensor([True]), 1.0, "a tensor of one bool"),
        (Fraction(1, 4), 0.25, "a fraction"),
        (Decimal("0.5"), 0.5, "a decimal"),
        ({"score": 0.5, "acc": 1}, 0.5, "verl's dict"),
        ({"reward": True}, 1.0, "a dict with a reward"),
        ((0.5, "because"), 0.5, "a score and its reason"),
        ((np.bool_(False), {}), -1.0, "and of numpy"),
        ([0.5], 0.5, "TRL's list"),
        ([np.float64(0.5)], 0.5, "and of numpy"),
        ([{"score": 0.5}], 0.5, "a list of one dict"),
        (None, None, "no opinion"),
        ([None], None, "TRL's None"),
        ({"score": None}, None, "no score"),
    ],
)
def test_return_values_that_are_rewards(returned, reward, rule):
    found = parse_reward(returned)
    assert (found, type(found)) == (reward, type(reward)), rule


@pytest.mark.parametrize(
    "returned",
    ["1", 1.0001, -7, float("inf"), float("nan"), np.nan, [], (), [1.0, 0.0], {}, {"points": 1}, 1j, {1}]
    + [np.array([0.1, 0.2]), torch.zeros(2), Decimal("NaN"), SimpleNamespace(score=1), {"score": "1"}],
    ids=repr,
)
def test_return_values_that_are_refused(returned):
    with pytest.raises(ValueError, match="a bool or a number from -1 to 1 is allowed"):
        parse_reward(returned)
