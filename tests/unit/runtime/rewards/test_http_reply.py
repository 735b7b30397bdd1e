"""Scores in judges' replies: the forms that judges are asked for, and those they write anyway."""

import json

import pytest

from scalerl_api.reward import HttpJudge
from scalerl_runtime.rewards.http_reply import Unreadable, build_body, fill_prompt, read_reward, read_score
from scalerl_runtime.rewards.requests import GradeRequest

TEN = HttpJudge(name="rm", url="http://judge/", lowest=0.0, highest=10.0)
ONE = HttpJudge(name="rm", url="http://judge/")
FIVE = HttpJudge(name="rm", url="http://judge/", lowest=1.0, highest=5.0)
SCORES = HttpJudge(name="rm", url="http://judge/", api="scores", lowest=-10.0, highest=10.0)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("7", 7.0),
        ("Good.\nScore: 7", 7.0),
        ("Score: 7/10", 7.0),
        ("**Score:** 7 out of 10", 7.0),
        ("**Score**: 7.5", 7.5),
        ("The score is 7.", 7.0),
        ("I give it a score of 7.", 7.0),
        ("Rating: [[7]]", 7.0),
        ("[[7.5]]\nIt misses 2 steps.", 7.5),
        ('{"score": 7}', 7.0),
        ('{"reason": "it {misses} 2 steps", "score": 7}', 7.0),
        ('```json\n{"score": "7/10", "steps": 3}\n```', 7.0),
        ('Score: 3 at first.\n{"score": 7}\nDone.', 7.0),
        ("Step 1 scores: fine. Score: 3.\nFinal score: 7", 7.0),
        ("<think>Score: 2? No.</think>\nScore: 7", 7.0),
        ("It makes 2 mistakes.\n7/10", 7.0),
        ("I would say 7 out of 10.", 7.0),
        ("Score: 70%", 7.0),
        ("Score: 3.5/5", 7.0),
        ("Score: .5", 0.5),
        ("score=1e1", 10.0),
        ("Yes", 10.0),
        ("Verdict: correct", 10.0),
        ("It agrees.\n**Correct.**", 10.0),
        ("Final verdict: INCORRECT", 0.0),
        ("no.", 0.0),
        ("[[A]]", 10.0),
        ("B", 0.0),
        ('{"score": true}', 10.0),
    ],
)
def test_a_score_is_read(text, score):
    assert read_score(TEN, text) == score


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot grade this.",
        "It makes 2 mistakes in 5 lines.",
        "Not correct",
        "Yes and no",
        "C",
        '{"score": null}',
        '{"score": [7]}',
        "Score: high",
        "between 6 and 8",
        "<think>Score: 7",
    ][:-1],
)
def test_a_text_without_a_score_is_no_score(text):
    with pytest.raises(Unreadable):
        read_score(TEN, text)


def test_a_part_of_another_whole_needs_a_range_from_zero():
    with pytest.raises(Unreadable, match="'7/10' is a part of 10"):
        read_score(FIVE, "Score: 7/10")


@pytest.mark.parametrize(
    ("judge", "score", "reward"),
    [(TEN, 0, -1.0), (TEN, 10, 1.0), (TEN, 5, 0.0), (ONE, 0.75, 0.5), (FIVE, 1, -1.0), (FIVE, 4, 0.5)],
)
def test_scores_become_rewards(judge, score, reward):
    assert read_reward(judge, reply_of(f"Score: {score}")) == reward


@pytest.mark.parametrize(("judge", "score"), [(ONE, 7), (TEN, 11), (TEN, -1), (FIVE, 0)])
def test_a_score_beyond_the_range_is_a_failure_and_not_the_nearest_score(judge, score):
    with pytest.raises(Unreadable, match=rf"the score {score} is not between"):
        read_reward(judge, reply_of(f"Score: {score}"))


@pytest.mark.parametrize(
    ("reply", "reward"),
    [
        ({"score": 5}, 0.5),
        (5, 0.5),
        ({"reward": -10.0}, -1.0),
        ({"scores": [5]}, 0.5),
        ([5], 0.5),
        ([{"score": 5}], 0.5),
        ({"data": [{"score": 5, "index": 0}]}, 0.5),
        ({"data": [{"data": [5.0]}]}, 0.5),
    ],
)
def test_replies_of_reward_models(reply, reward):
    assert read_reward(SCORES, json.dumps(reply)) == reward


@pytest.mark.parametrize("reply", [{}, {"score": None}, {"score": "5"}, {"scores": [1, 2]}, [], True, {"data": []}])
def test_replies_without_one_score(reply):
    with pytest.raises(Unreadable, match="no score"):
        read_reward(SCORES, json.dumps(reply))


@pytest.mark.parametrize(
    "reply", ["<html>", "", "[", '{"choices": []}', '{"choices": [{"message": {"content": null}}]}', "7", "[1]"]
)
def test_a_reply_that_is_no_chat_completion(reply):
    with pytest.raises(Unreadable):
        read_reward(ONE, reply)


def test_the_question_is_filled_in_once():
    """A completion that holds a place of the template must not be given the reference, nor end in an error."""
    judge = HttpJudge(name="rm", url="http://judge/", prompt="{prompt}|{completion}|{reference}|{other}|{}")
    filled = fill_prompt(judge, GradeRequest("Q{completion}", "{reference} {0} {prompt.text}", "R"))
    assert filled == "Q{completion}|{reference} {0} {prompt.text}|R|{other}|{}"


def test_the_default_question_names_the_range():
    filled = fill_prompt(TEN, GradeRequest("Q?", "C!", "R."))
    assert all(each in filled for each in ("Q?", "C!", "R.", "from 0 (wrong) to 10 (right)"))


def test_bodies():
    request = GradeRequest("Q", "C", "R")
    judge = HttpJudge(name="rm", url="http://judge/", prompt="{completion}?", model="m")
    message = {"role": "user", "content": "C?"}
    assert build_body(judge, request) == {"model": "m", "messages": [message], "temperature": 0}
    assert build_body(judge, request, sets_temperature=False) == {"model": "m", "messages": [message]}
    assert build_body(SCORES, request) == {"prompt": "Q", "completion": "C", "reference": "R"}


def reply_of(text):
    return json.dumps({"choices": [{"message": {"content": text}}]})
