"""The self-test: verifiers that misjudge are found before a GPU is taken."""

import asyncio
import logging
import re

import numpy as np
import pytest

from scalerl_api import InvalidRun
from scalerl_api.recipe import ThinkTags
from scalerl_runtime.rewards.self_test import SelfTest, TestedSource, test_verifiers
from scalerl_runtime.rewards.verifier import Judge, Verifier
from scalerl_runtime.types import Prompt, Reward

test_verifiers.__test__ = False
TestedSource.__test__ = False


class Scripted:
    """A backend whose rewards a function decides."""

    def __init__(self, grade):
        self._grade = grade
        self.requests = []
        self.checked = []

    async def check(self, request):
        self.checked.append(request)

    async def grade(self, request):
        self.requests.append(request)
        found = self._grade(request)
        return found if isinstance(found, Reward) else Reward(found)

    async def close(self):
        pass


def sound(request):
    return 1.0 if request.reference in request.answer else -1.0


def rows(count):
    return [Prompt(i, f"question {i}", np.zeros(1, np.int32), f"{i}") for i in range(count)]


def run(grade, *, verifier="math", count=100, share=0.01):
    backend = Scripted(grade)
    judges = Verifier({"": [Judge("it", verifier, 1.0, backend)]}, ThinkTags())
    source = TestedSource("spec.data.train", "", rows(count))
    results = []
    asyncio.run(test_verifiers(judges, [source], max_bad_share=share, seed=3, on_result=results.append))
    backend.results = results
    return backend


def fail_for(bad):
    return lambda request: -1.0 if request.reference in bad else sound(request)


def test_a_sound_verifier_passes_with_a_sample(caplog):
    caplog.set_level(logging.INFO)
    backend = run(sound)
    assert len({request.reference for request in backend.requests}) == 64
    assert "64 of 64 rows as expected" in caplog.text
    assert len(backend.checked) == 1
    assert backend.results == [SelfTest("spec.data.train", "it", num_rows=64, num_failed=0)]


def test_few_rows_are_all_tried():
    assert len({request.reference for request in run(sound, count=5).requests}) == 5


@pytest.mark.parametrize(
    ("grade", "why"),
    [
        (lambda _: -1.0, "its own reference is not right: .* gets -1"),
        (lambda _: 1.0, "a wrong answer is right: '' gets .1"),
        (lambda request: 1.0 if request.answer else -1.0, "a wrong answer is right: 'I do not know' gets .1"),
        (lambda _: Reward(None, "its process ended"), "the verifier fails for .*: its process ended"),
        (lambda request: sound(request) if request.answer else Reward(None, "no answer"), "fails for '': no answer"),
        (lambda request: sound(request) / 2, "its own reference is not right: .* gets .0.5"),
    ],
)
def test_a_verifier_that_misjudges_ends_the_run_with_three_rows(grade, why):
    with pytest.raises(InvalidRun, match=r"rows of spec.data.train by it fail the self-test") as caught:
        run(grade)
    first, *named = caught.value.faults
    assert first.path == "spec.data.maxBadShare"
    assert first.value.startswith("64 of 64 rows"), "more rows would change nothing"
    assert len(named) == 3
    for fault in named:
        assert "prompt 'question" in fault.value

        assert re.search(why, fault.allowed), fault


def test_a_small_share_of_bad_rows_is_logged_and_passes(caplog):
    """Whichever rows the sample has: 5 of 1000 are fewer than 1 in 100, though one in the first 64 is more."""
    bad = {f"{i}" for i in range(0, 1000, 200)}
    run(fail_for(bad), count=1000)
    assert caplog.text.count("its own reference is not right") <= 5


def test_a_result_counts_the_rows_that_failed():
    (result,) = run(fail_for({"3", "7"}), count=40, share=0.1).results
    assert (result.num_rows, result.num_failed) == (40, 2)
    (liked,) = run(lambda _: 0.25, verifier="python:m:style").results
    assert "the same reward on each of 8 rows (+0.25)" in liked.note
    (asked,) = run(sound, verifier="http:rm").results
    assert (asked.num_rows, asked.note) == (1, "one question is answered with a score")


def test_a_share_of_bad_rows_above_the_limit_ends_the_run():
    bad = {f"{i}" for i in range(0, 1000, 20)}
    with pytest.raises(InvalidRun, match="rows of spec.data.train by it fail the self-test"):
        run(fail_for(bad), count=1000)
    run(fail_for(bad), count=1000, share=0.2)


def test_a_users_function_is_called_with_the_reference_and_with_nothing():
    backend = run(sound, verifier="python:m:f")
    assert len(backend.requests) == 16
    assert {request.answer for request in backend.requests} >= {""}


def test_a_users_function_may_prefer_what_it_likes_but_equal_rewards_are_a_warning(caplog):
    run(lambda _: 0.25, verifier="python:m:style")
    assert "get the same reward on each of 8 rows (+0.25)" in caplog.text


def test_a_users_function_that_fails_for_each_empty_completion_ends_the_run():
    grade = lambda request: 1.0 if request.answer else Reward(None, "IndexError: list index")  # noqa: E731 # one line
    with pytest.raises(
        InvalidRun, match="8 of 8 rows of spec.data.train get no reward for an empty completion"
    ) as caught:
        run(grade, verifier="python:m:f")
    assert "IndexError: list index" in str(caught.value)


def test_a_users_function_that_fails_sometimes_is_a_warning(caplog):
    grade = lambda request: Reward(None, "boom") if "7" in request.reference else sound(request)  # noqa: E731
    run(grade, verifier="python:m:f", count=8)
    assert "it failed for 1 of 8 rows: boom" in caplog.text


def test_a_judge_behind_an_url_is_asked_once():
    backend = run(sound, verifier="http:rm")
    assert (len(backend.checked), backend.requests) == (1, [])
    assert backend.checked[0].answer == backend.checked[0].reference


@pytest.mark.parametrize(
    ("verifier", "think_tokens", "words"),
    [
        ("math", None, "read as '5' (it)"),
        ("math", 0, "cut in its thinking (it)"),
        ("python:a:b", 0, "judged as it is: 'So \\\\boxed{5}.' (it)"),
    ],
)
def test_a_verifier_says_how_it_reads_a_completion(verifier, think_tokens, words):
    judges = Verifier({"": [Judge("it", verifier, 1.0, Scripted(sound))]}, ThinkTags())
    prompt = Prompt(0, "?", np.zeros(1, np.int32), "5", think_tokens=think_tokens)
    assert judges.describe_reading(prompt, r"So \boxed{5}.") == words
    assert Verifier({}, ThinkTags()).describe_reading(prompt, "text") == "played in an environment"
