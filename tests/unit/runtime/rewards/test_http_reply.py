"""Scores in judges' replies: the forms that judges are asked for, and those they write anyway."""

import json
from typing import get_args

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


@pytest.mark.parametrize(
    "reply", [{}, {"score": None}, {"score": "5"}, {"scores": [1, 2]}, [], True, {"data": []}, {"data": [{"data": ""}]}]
)
def test_replies_without_one_score(reply):
    with pytest.raises(Unreadable, match="no score|one score is needed"):
        read_reward(SCORES, json.dumps(reply))


def judge_of(api):
    return HttpJudge(name="rm", url="http://judge/", api=api, model="m", lowest=-10.0, highest=10.0)


USAGE = {"prompt_tokens": 9, "total_tokens": 9, "completion_tokens": 0}
HEAD = {"id": "x-1", "object": "list", "created": 1760000000, "model": "m", "usage": USAGE}
RERANKED = {"index": 0, "document": {"text": "C", "multi_modal": None}, "relevance_score": 5.0}
PUBLISHED = {
    "vLLM /pooling, one number": ("pooling", {**HEAD, "data": [{"index": 0, "object": "pooling", "data": [5.0]}]}),
    "vLLM /pooling, of a token": ("pooling", {**HEAD, "data": [{"index": 0, "object": "pooling", "data": [[5.0]]}]}),
    "vLLM /pooling, of each token": ("pooling", {**HEAD, "data": [{"index": 0, "data": [[1.0], [-3.0], [5.0]]}]}),
    "vLLM /classify": ("classify", {**HEAD, "data": [{"index": 0, "label": None, "probs": [5.0], "num_classes": 1}]}),
    "vLLM /score": ("score", {**HEAD, "data": [{"index": 0, "object": "score", "score": 5.0}]}),
    "vLLM /rerank": ("rerank", {"id": "r-1", "model": "m", "usage": {"total_tokens": 9}, "results": [RERANKED]}),
    "Cohere rerank": ("rerank", {"id": "r-1", "results": [{"index": 0, "relevance_score": 5.0}], "meta": {}}),
    "TEI /rerank": ("rerank", [{"index": 0, "score": 5.0}]),
    "OpenRLHF": ("rewards", {"rewards": [5.0]}),
    "OpenRLHF with scores": ("rewards", {"rewards": [5.0], "scores": [0.5], "extra_logs": {"format": [1.0]}}),
    "OpenRLHF, a column": ("rewards", {"rewards": [[5.0]]}),
    "a reward model behind /v1/embeddings": ("scores", {**HEAD, "data": [{"index": 0, "embedding": [5.0]}]}),
    "SGLang /classify": ("classify", [{"embedding": [5.0], "meta_info": {"prompt_tokens": 9}}]),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_replies_are_read(name):
    api, reply = PUBLISHED[name]
    assert read_reward(judge_of(api), json.dumps(reply)) == 0.5


@pytest.mark.parametrize(
    ("api", "reply", "words"),
    [
        ("classify", {"data": [{"probs": [0.2, 0.8], "label": "LABEL_1", "num_classes": 2}]}, "2 numbers where one"),
        ("pooling", {"data": [{"data": [0.1, 0.2, 0.3]}]}, "3 numbers where one score"),
        ("pooling", {"data": [{"data": [[0.1, 0.9], [0.2, 0.8]]}]}, "2 numbers where one score"),
        ("pooling", {"data": [{"data": "AACgQA=="}]}, "no score in"),
        ("score", {"data": [{"score": 1.0}, {"score": 2.0}]}, "2 numbers where one score"),
        ("rerank", {"results": []}, "no score in"),
        ("rewards", {"choices": [{"message": {"content": "Score: 5"}}]}, "no score in"),
        ("classify", {"data": [[1.0], [5.0]]}, "2 numbers where one score"),
    ],
)
def test_a_reply_of_another_shape_is_a_failure_that_shows_it(api, reply, words):
    with pytest.raises(Unreadable, match=words):
        read_reward(judge_of(api), json.dumps(reply))


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


TURNS = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "C"}]


@pytest.mark.parametrize(
    ("api", "fields"),
    [
        ("scores", {"prompt": "<user>Q?", "completion": "C", "reference": "R"}),
        ("pooling", {"messages": TURNS}),
        ("classify", {"messages": TURNS}),
        ("score", {"text_1": "Q?", "text_2": "C"}),
        ("rerank", {"query": "Q?", "documents": ["C"]}),
        ("rewards", {"query": ["<user>Q?C"], "prompts": ["<user>Q?"], "labels": ["R"]}),
    ],
)
def test_each_kind_of_server_gets_the_fields_that_it_reads(api, fields):
    """A server with a template of its own gets the question without the policy's markup."""
    request = GradeRequest("<user>Q?", "C", "R", "", "Q?")
    assert build_body(judge_of(api), request) == {"model": "m", **fields}


def test_every_api_has_its_request_and_its_published_replies():
    known = get_args(HttpJudge.model_fields["api"].annotation)
    assert {api for api, _ in PUBLISHED.values()} | {"chat"} == set(known)


def reply_of(text):
    return json.dumps({"choices": [{"message": {"content": text}}]})
