"""Judges behind an URL, against a server in the test's own loop. Waits are not slept: the clock is the test's."""

import asyncio
import json
import logging

import pytest
from stub_judge import Reply, StubJudge, chat

from scalerl_api import InvalidRun
from scalerl_api.reward import HttpJudge
from scalerl_runtime.rewards.http_judge import HttpBackend, JudgeUnavailable, find_settings
from scalerl_runtime.rewards.requests import GradeRequest
from scalerl_runtime.types import Reward

REQUEST = GradeRequest("Q", "C", "R")
TOKEN = "s3cret-token"


class Clock:
    """Time passes only while a caller sleeps."""

    def __init__(self):
        self.seconds = 0.0
        self.slept = []

    def now(self):
        return self.seconds

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.seconds += seconds
        await asyncio.sleep(0)


def ask_stub(reply, ask, *, token="", outage_seconds=600.0, **fields):
    """Return what `ask(backend)` returns with a judge that gives `reply`, the judge and the clock."""

    async def run():
        clock = Clock()
        async with StubJudge(reply) as stub:
            judge = HttpJudge(name="rm", url=stub.url, **{"token_variable": "TOKEN" if token else None, **fields})
            settings = find_settings(judge, "spec.reward.http[0]", {"TOKEN": token}, outage_seconds)
            backend = HttpBackend(settings, clock.now, clock.sleep)
            try:
                return await ask(backend), stub, clock
            finally:
                await backend.close()

    return asyncio.run(run())


def once(backend):
    return backend.grade(REQUEST)


def test_a_score_is_the_reward_and_the_token_goes_in_the_header():
    reward, stub, _ = ask_stub(lambda *_: chat("Score: 0.75"), once, token=TOKEN, model="m")
    assert reward == Reward(0.5)
    assert stub.headers[0]["Authorization"] == f"Bearer {TOKEN}"
    assert stub.bodies[0]["model"] == "m"


def test_scores_are_asked_with_prompt_completion_and_reference():
    reward, stub, _ = ask_stub(lambda *_: Reply('{"score": 1}'), once, api="scores")
    assert (reward, stub.bodies) == (Reward(1.0), [{"prompt": "Q", "completion": "C", "reference": "R"}])
    assert "Authorization" not in stub.headers[0]


SERVERS = {
    "pooling": ({"data": [{"index": 0, "object": "pooling", "data": [[1.0]]}]}, {"messages"}),
    "classify": ({"data": [{"index": 0, "label": None, "probs": [1.0], "num_classes": 1}]}, {"messages"}),
    "score": ({"data": [{"index": 0, "object": "score", "score": 1.0}]}, {"text_1", "text_2"}),
    "rerank": ({"results": [{"index": 0, "relevance_score": 1.0}]}, {"query", "documents"}),
    "rewards": ({"rewards": [1.0]}, {"query", "prompts", "labels"}),
}


@pytest.mark.parametrize("api", SERVERS)
def test_reward_models_behind_public_servers(api):
    """A server that is not asked in its own form refuses, as vLLM does."""
    reply, fields = SERVERS[api]

    def serve(body, _):
        return Reply(json.dumps(reply)) if fields <= body.keys() else Reply("missing fields", 422)

    assert ask_stub(serve, once, api=api)[0] == Reward(1.0)


@pytest.mark.parametrize("api", SERVERS)
def test_a_reply_that_cannot_be_read_is_a_fault_at_the_start(api):
    with pytest.raises(InvalidRun, match="no score in"):
        ask_stub(lambda *_: Reply('{"detail": "ok"}'), lambda backend: backend.check(REQUEST), api=api, retries=0)


@pytest.mark.parametrize(
    ("first", "slept", "rule"),
    [
        (Reply("busy", 429), 0.5, "a limit of the rate"),
        (Reply("busy", 429, {"Retry-After": "7"}), 7.0, "the server's own wait"),
        (Reply("busy", 503, {"Retry-After": "900"}), 30.0, "a long wait is cut"),
        (Reply("busy", 503, {"Retry-After": "soon"}), 0.5, "words are no wait"),
        (Reply("oops", 500), 0.5, "a fault of the server"),
        (chat("Hm."), 0.5, "a reply without a score"),
        (chat("Score: 7"), 0.5, "a score beyond the range"),
        (Reply("<html>"), 0.5, "a reply that is no JSON"),
    ],
)
def test_a_failure_that_may_pass_is_repeated(first, slept, rule):
    reward, stub, clock = ask_stub(lambda _, number: first if number == 0 else chat("1"), once)
    assert (reward, len(stub.bodies), clock.slept) == (Reward(1.0), 2, [slept]), rule


def test_after_its_retries_a_completion_has_no_reward_and_is_not_wrong():
    reward, stub, clock = ask_stub(lambda *_: chat("Hm."), once, retries=3)
    assert reward.reward is None
    assert "http:rm: no score in the text 'Hm.'" in reward.error
    assert (len(stub.bodies), clock.slept) == (4, [0.5, 1.0, 2.0])


@pytest.mark.parametrize("status", [400, 405, 413, 422])
def test_a_refused_request_is_not_repeated(status):
    reward, stub, _ = ask_stub(lambda *_: Reply("too long", status), once)
    assert (reward.reward, len(stub.bodies)) == (None, 1)
    assert f"HTTP status {status}: too long" in reward.error


def test_a_model_that_has_one_temperature_is_asked_without():
    def reply(body, _number):
        return Reply("temperature is not supported", 400) if "temperature" in body else chat("1")

    reward, stub, _ = ask_stub(reply, once)
    assert (reward, len(stub.bodies)) == (Reward(1.0), 2)


def test_a_redirect_is_not_followed_and_gets_no_token():
    redirect = Reply("", 307, {"Location": "http://127.0.0.1:9/elsewhere"})
    reward, stub, _ = ask_stub(lambda *_: redirect, once, token=TOKEN)
    assert (reward.reward, len(stub.bodies)) == (None, 1)
    assert "redirects are not followed" in reward.error


def test_equal_questions_are_asked_once_also_at_the_same_time():
    async def ask(backend):
        at_once = await asyncio.gather(*(backend.grade(REQUEST) for _ in range(5)))
        return [*at_once, await backend.grade(REQUEST), await backend.grade(GradeRequest("Q", "D", "R"))]

    rewards, stub, _ = ask_stub(lambda *_: chat("1"), ask)
    assert (rewards, len(stub.bodies)) == ([Reward(1.0)] * 7, 2)
    _, stub, _ = ask_stub(lambda *_: chat("1"), ask, cache=False)
    assert len(stub.bodies) == 7


def test_a_failure_is_not_cached():
    async def ask(backend):
        return [await backend.grade(REQUEST), await backend.grade(REQUEST)]

    (first, second), _, _ = ask_stub(lambda _, number: chat("1" if number else "Hm."), ask, retries=0)
    assert (first.reward, second.reward) == (None, 1.0)


def test_a_callers_cancellation_leaves_the_reward_to_the_others():
    async def ask(backend):
        one, other = (asyncio.create_task(backend.grade(REQUEST)) for _ in range(2))
        await asyncio.sleep(0)
        one.cancel()
        return await other

    assert ask_stub(lambda *_: chat("1"), ask)[0] == Reward(1.0)


def test_no_more_requests_than_allowed_run_at_once():
    running, most = 0, 0

    async def ask(backend):
        post = backend._post

        async def counted(body):
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                return await post(body)
            finally:
                running -= 1

        backend._post = counted
        return await asyncio.gather(*(backend.grade(GradeRequest("Q", str(i), "R")) for i in range(12)))

    ask_stub(lambda *_: chat("1"), ask, max_concurrent=3)
    assert most == 3


def test_the_budget_ends_the_run_and_repetitions_count():
    with pytest.raises(InvalidRun, match="more: this attempt has sent that many requests to the judge rm") as caught:
        ask_stub(lambda *_: chat("Hm."), once, max_requests=2)
    (fault,) = caught.value.faults
    assert (fault.path, fault.value) == ("spec.reward.http[0].maxRequests", "2")


def test_while_the_judge_answers_nobody_completions_wait_and_are_not_lost():
    """With one retry the completion would be lost after 0.5 s; the outage ends after 31.5 s."""
    reward, stub, _ = ask_stub(lambda _, number: chat("1") if number == 6 else Reply("down", 502), once, retries=1)
    assert (reward, len(stub.bodies)) == (Reward(1.0), 7)


def test_an_outage_beyond_its_limit_ends_the_attempt():
    with pytest.raises(JudgeUnavailable, match=r"asking the judge rm: no reply for 60 s \(HTTP status 502: down\)"):
        ask_stub(lambda *_: Reply("down", 502), once, outage_seconds=60.0)


def test_a_judge_that_answers_others_is_not_down():
    """One question that times out at a gateway again and again costs its own completion only."""

    async def both(backend):
        sleep = backend._sleep

        async def meanwhile(seconds):
            await sleep(seconds)
            await backend.grade(GradeRequest("Q", f"at {seconds}", "R"))

        backend._sleep = meanwhile
        return await backend.grade(GradeRequest("Q", "bad", "R"))

    def reply(body, _number):
        return Reply("gateway timeout", 504) if "bad" in json.dumps(body) else chat("1")

    reward, _, _ = ask_stub(reply, both, retries=2)
    assert (reward.reward, "504" in reward.error) == (None, True)


def test_a_connection_that_is_refused_is_an_outage():
    judge = HttpJudge(name="rm", url="http://127.0.0.1:9/judge")
    clock = Clock()
    backend = HttpBackend(find_settings(judge, "spec.reward.http[0]", {}, 10.0), clock.now, clock.sleep)

    async def ask():
        try:
            await backend.check(REQUEST)
        finally:
            await backend.close()

    with pytest.raises(JudgeUnavailable, match="no reply for 10 s"):
        asyncio.run(ask())


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply("who are you", 401), "HTTP status 401: who are you"),
        (Reply("forbidden", 403), "HTTP status 403"),
        (Reply("no such model", 404), "HTTP status 404: no such model"),
        (Reply("bad", 400), "HTTP status 400"),
        (Reply("", 307, {"Location": "https://judge/"}), "to https://judge/; redirects"),
        (chat("Hm."), "no score in the text 'Hm.'"),
        (Reply("<html>"), "the reply is no JSON"),
    ],
)
def test_the_first_question_shows_faults_of_the_spec(reply, words):
    with pytest.raises(InvalidRun) as caught:
        ask_stub(lambda *_: reply, lambda backend: backend.check(REQUEST))
    (fault,) = caught.value.faults
    assert fault.path == "spec.reward.http[0].url"
    assert words in fault.allowed


def test_later_a_refused_token_is_an_outage():
    """The token was good: it is being renewed, or the gateway restarts."""

    async def ask(backend):
        await backend.check(REQUEST)
        return await backend.grade(REQUEST)

    replies = {0: chat("1"), 1: Reply("who are you", 401)}
    reward, stub, _ = ask_stub(lambda _, number: replies.get(number, chat("0")), ask)
    assert (reward, len(stub.bodies)) == (Reward(-1.0), 3)


@pytest.mark.parametrize("value", ["", "  "])
def test_a_missing_token_is_a_fault_of_the_run_and_is_named(value):
    judge = HttpJudge(name="rm", url="http://judge/", token_variable="JUDGE_TOKEN")
    with pytest.raises(InvalidRun, match=r"http\[1\].tokenVariable: JUDGE_TOKEN, .*it is not set, or empty"):
        find_settings(judge, "spec.reward.http[1]", {"JUDGE_TOKEN": value}, 60.0)


@pytest.mark.parametrize("value", ["two words", "line\nline", "clé"])
def test_a_token_that_no_header_can_hold_is_refused_without_its_value(value):
    judge = HttpJudge(name="rm", url="http://judge/", token_variable="JUDGE_TOKEN")
    with pytest.raises(InvalidRun) as caught:
        find_settings(judge, "spec.reward.http[1]", {"JUDGE_TOKEN": value}, 60.0)
    assert value not in str(caught.value)


def test_the_token_is_in_no_message(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    echo = Reply(f"bad token Bearer {TOKEN}", 401)
    with pytest.raises(InvalidRun) as caught:
        ask_stub(lambda *_: echo, lambda backend: backend.check(REQUEST), token=TOKEN)
    reward, _, _ = ask_stub(lambda *_: Reply(TOKEN, 400), once, token=TOKEN)
    unreadable, _, _ = ask_stub(lambda *_: chat(TOKEN), once, token=TOKEN, retries=0)
    assert TOKEN not in f"{caught.value}{caplog.text}{reward.error}{unreadable.error}"
