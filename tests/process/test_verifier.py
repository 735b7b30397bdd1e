import asyncio
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stub_judge import StubJudge, chat

from scalerl_api import InvalidRun, parse_run
from scalerl_api.recipe import ThinkTags
from scalerl_runtime.data.prompts import GeneratedRecord, build_entry_answer
from scalerl_runtime.rewards.pool import VerifierPool
from scalerl_runtime.rewards.requests import GradeRequest
from scalerl_runtime.rewards.sandbox import ProgramResult
from scalerl_runtime.rewards.verifier import Judge, SandboxBackend, Verifier, make_verifier
from scalerl_runtime.rewards.verifier_process import grade_request, is_right_within_limits
from scalerl_runtime.types import Prompt, Reward

USER_MODULE = '''
import os, signal, sys, time

def says(prompt, completion, reference):
    """What the reference asks for."""
    return eval(completion)

def not_a_function_of_three(x):
    return True

number = 7
'''


def prompt(answer: str, text: str = "?") -> Prompt:
    return Prompt(31, text, np.zeros(1, np.int32), answer)


def document_with(verifier: str, **reward: object) -> dict[str, Any]:
    document: dict[str, Any] = {
        "apiVersion": "scalerl.io/v1alpha1",
        "kind": "RLRun",
        "metadata": {"name": "graded"},
        "spec": {
            "model": {"source": "Qwen/Qwen3-8B"},
            "data": {"train": {"source": "rows.jsonl", "size": 5000}},
            "reward": {"verifier": verifier, **reward},
            "budget": {"steps": 400},
        },
    }
    if verifier == "reasoning_gym":
        document["spec"]["data"]["train"]["source"] = "reasoning_gym:chain_sum"
    return document


def run_with(verifier: str, **reward: object):
    return parse_run(document_with(verifier, **reward))


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards.py").write_text(USER_MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)


@pytest.fixture
def make():
    """`make(verifier, timeoutSeconds=...)`; closed at the end."""
    made = []
    loop = asyncio.new_event_loop()

    class Blocking:
        def __init__(self, verifier: Verifier):
            self.verifier = verifier

        def verify(self, asked: Prompt, completion: str) -> Reward:
            result = loop.run_until_complete(self.verifier.verify(asked, completion))
            return Reward(result.reward, result.error)

    def start(verifier: str, **reward: object) -> Blocking:
        made.append(make_verifier(run_with(verifier, **reward)))
        return Blocking(made[-1])

    yield start
    for verifier in made:
        loop.run_until_complete(verifier.close())
    loop.close()


class FakeBackend:
    """Returns a fixed reward and records the requests."""

    def __init__(self, reward: Reward):
        self.reward = reward
        self.requests: list[tuple[str, str, str]] = []

    async def grade(self, request: GradeRequest) -> Reward:
        self.requests.append((request.prompt, request.answer, request.reference))
        return self.reward

    async def close(self) -> None:
        self.requests.append(("closed", "", ""))


def verify(backend: FakeBackend, asked: Prompt, completion: str, *, verifier: str = "math") -> Reward:
    judge = Judge("it", verifier, 1.0, backend)
    return asyncio.run(Verifier({"": [judge]}, ThinkTags()).verify(asked, completion))


def test_the_backend_grades_the_answer_without_the_thinking():
    backend = FakeBackend(Reward(1.0))
    assert verify(backend, prompt("19", "12+7="), "<think>hm</think> 19") == Reward(1.0, by_judge={"it": 1.0})
    assert backend.requests == [("12+7=", "19", "19")]


def test_unfinished_thinking_is_wrong_without_a_request():
    backend = FakeBackend(Reward(1.0))
    assert verify(backend, prompt("19"), "<think>12+7 is 19").reward == -1.0
    assert backend.requests == []


def test_a_users_function_gets_the_whole_completion():
    backend = FakeBackend(Reward(0.5))
    assert verify(backend, prompt("19", "12+7="), "<think>12+7", verifier="python:mine:it").reward == 0.5
    assert backend.requests == [("12+7=", "<think>12+7", "19")]


def test_infra_failure_not_negative_reward(caplog: pytest.LogCaptureFixture):
    """A failing verifier is no evidence about the answer; -1 would teach the model something false."""
    assert verify(FakeBackend(Reward(None, "out of order")), prompt("19"), "19") == Reward(None, "out of order")
    assert "prompt 31: out of order" in caplog.text


def test_only_the_first_failures_are_logged(caplog: pytest.LogCaptureFixture):
    verifier = Verifier({"": [Judge("it", "math", 1.0, FakeBackend(Reward(None, "out of order")))]}, ThinkTags())
    for _ in range(50):
        asyncio.run(verifier.verify(prompt("19"), "19"))
    assert len(caplog.records) == 20


def test_every_source_has_its_own_verifiers_and_a_shared_backend_ends_once():
    right, style = FakeBackend(Reward(1.0)), FakeBackend(Reward(-0.5))
    judges = {
        "sums": [Judge("math", "math", 3.0, right), Judge("style", "python:s:s", 1.0, style)],
        "prose": [Judge("taste", "python:s:s", 1.0, style)],
    }
    verifier = Verifier(judges, ThinkTags())

    async def grade_all():
        sums = await verifier.verify(replace(prompt("19"), source="sums"), "19")
        prose = await verifier.verify(replace(prompt("19"), source="prose"), "19")
        await verifier.close()
        return sums, prose

    sums, prose = asyncio.run(grade_all())
    assert sums == Reward(0.625, by_judge={"math": 1.0, "style": -0.5}), "(3 * 1 - 0.5) / 4"
    assert prose == Reward(-0.5, by_judge={"taste": -0.5})
    assert style.requests == [("?", "19", "19"), ("?", "19", "19"), ("closed", "", "")]


class FakeSandbox:
    def __init__(self, result: ProgramResult):
        self.result = result
        self.checked: list[tuple[str, str]] = []

    def check(self, program: str, tests: str) -> ProgramResult:
        self.checked.append((program, tests))
        return self.result

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("result", "reward", "rule"),
    [
        (ProgramResult("passed"), Reward(1.0), "a program that passes its tests is right"),
        (ProgramResult("failed"), Reward(-1.0), "a program that fails or crashes is wrong"),
        (ProgramResult("timeout"), Reward(-1.0), "a program that exceeds its time is wrong"),
        (ProgramResult("unavailable", "no room"), Reward(None, "no room"), "without a sandbox nothing is known"),
    ],
)
def test_programs(result, reward, rule):
    sandbox = FakeSandbox(result)
    backend = SandboxBackend(sandbox, max_concurrent=1)
    assert backend.grade(GradeRequest("Square x.", "```python\nx = 1\n```", "assert x == 1")) == reward, rule
    assert sandbox.checked == [("```python\nx = 1\n```", "assert x == 1")]


def test_code_is_graded_in_the_sandbox(make):
    verifier = make("code", timeoutSeconds=30.0)
    tests = prompt("assert square(3) == 9")
    assert verifier.verify(tests, "```python\ndef square(x):\n    return x * x\n```") == Reward(1.0)
    assert verifier.verify(tests, "<think>x*x</think>def square(x):\n    return x + x\n") == Reward(-1.0)


def test_mathematics_is_graded(make):
    verifier = make("math", timeoutSeconds=30.0)
    assert verifier.verify(prompt("0.5"), r"<think>half</think>$\frac{1}{2}$") == Reward(1.0)
    assert verifier.verify(prompt("0.5"), "2") == Reward(-1.0)
    assert verifier.verify(prompt(""), "2").reward is None, "a reference that is no mathematics"


def test_many_generated_tasks_are_graded_at_once():
    """A reward must reach its own request."""
    verifier = make_verifier(run_with("reasoning_gym", timeoutSeconds=60.0))

    async def both(number: int) -> tuple[float | None, float | None]:
        record = {"question": "?", "answer": str(number), "metadata": {}}
        task = prompt(build_entry_answer(GeneratedRecord("chain_sum", {}, record)))
        right = await verifier.verify(task, str(number))
        return right.reward, (await verifier.verify(task, str(number + 1))).reward

    async def grade_all():
        try:
            return await asyncio.gather(*(both(number) for number in range(60)))
        finally:
            await verifier.close()

    assert set(asyncio.run(grade_all())) == {(1.0, -1.0)}


@pytest.mark.usefixtures("user_module")
def test_failures_of_a_users_function_give_no_reward_and_do_not_stop_it(make, caplog: pytest.LogCaptureFixture):
    verifier = make("python:my_rewards:says", timeoutSeconds=60.0)
    rows = [
        ("True", 1.0, "", "True is right"),
        ("False", -1.0, "", "False is wrong"),
        ("0.25", 0.25, "", "a number is the reward"),
        ("len('<think>ab') / 10", 0.9, "", "the function gets the thinking, finished or not"),
        ("1.5", None, "number from -1 to 1", "out of range"),
        ("float('nan')", None, "number from -1 to 1", "not a number"),
        ("None", None, "no opinion", "nothing"),
        ("1 / 0", None, "ZeroDivisionError: division by zero", "it raises"),
        ("os._exit(0)", None, "its process ended", "it ends its process"),
        ("sys.exit()", None, "its process ended", "it leaves"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", None, "its process ended", "it crashes"),
        ("print('hm') or True", 1.0, "", "it prints, and after all failures it still replies"),
    ]
    for completion, reward, error, rule in rows:
        result = verifier.verify(prompt("ok"), completion)
        assert result.reward == reward, rule
        assert error in result.error, rule
    assert "prompt 31" in caplog.text


@pytest.mark.usefixtures("user_module")
def test_a_process_that_hangs_is_killed_and_replaced(make):
    """The error is that of a timeout each time: a missing process gives another error."""
    verifier = make("python:my_rewards:says", timeoutSeconds=0.3)
    for _ in range(3):
        result = verifier.verify(prompt("ok"), "time.sleep(900)")
        assert (result.reward, "returned no reward within 0.3 s" in result.error) == (None, True)


@pytest.mark.usefixtures("user_module")
@pytest.mark.parametrize(
    ("path", "message", "rule"),
    [
        ("my_rewards:number", "number in my_rewards is a int, not a function", "not a function"),
        ("my_rewards:nothing", "has no attribute 'nothing'", "no such function"),
        ("not_there:says", "No module named 'not_there'", "no such module"),
    ],
)
def test_a_path_without_a_function_stops_the_run(path, message, rule):
    with pytest.raises(InvalidRun, match=message) as caught:
        make_verifier(run_with(f"python:{path}"))
    assert caught.value.faults[0].path == "spec.reward.verifier", rule


@pytest.mark.usefixtures("user_module")
def test_close_ends_every_process_and_releases_waiting_threads():
    pool = VerifierPool("python:my_rewards:says", timeout_seconds=600.0, num_processes=1)
    pool.start()
    process = next(iter(pool._started))
    rewards = []
    threads = [
        threading.Thread(
            target=lambda: rewards.append(pool.grade(GradeRequest("?", "time.sleep(900)", ""))), daemon=True
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    pool.close()
    for thread in threads:
        thread.join(timeout=60)
    assert [each.reward for each in rewards] == [None, None]
    with pytest.raises(ProcessLookupError):
        os.kill(process._process._process.pid, 0)
    pool.close()


@pytest.mark.usefixtures("user_module")
def test_an_answer_that_makes_a_comparison_hang_twice_is_wrong(tmp_path, caplog):
    """Excluded, it would cost a policy nothing. The first time the machine may have been slow."""
    pool = VerifierPool("python:my_rewards:says", timeout_seconds=0.3, num_processes=1, hanging_is_wrong=True)
    pool.start()
    tries = tmp_path / "tries"
    count = f"open({str(tries)!r}, 'a').write('x')"
    hangs = pool.grade(GradeRequest("?", f"[{count}, time.sleep(900)]", ""))
    assert (hangs, tries.read_text()) == (Reward(-1.0, timed_out=True), "xx")
    assert "wrong, because" in caplog.text
    slow = f"[{count}, len(open({str(tries)!r}).read()) < 4 and time.sleep(900), 1.0][-1]"
    assert pool.grade(GradeRequest("?", slow, "")) == Reward(1.0), "the second process was fast enough"
    assert pool.grade(GradeRequest("?", "1.0", "")) == Reward(1.0), "no answer hinders the next"
    pool.close()


def test_a_comparison_without_memory_is_wrong():
    def fail(_answer: str, _reference: str) -> bool:
        raise MemoryError

    assert is_right_within_limits(fail, GradeRequest("", "9^9", "5")) is False


def test_an_error_names_its_exception():
    def fail(_request: GradeRequest) -> object:
        raise MemoryError("4 GiB")

    assert grade_request(fail, GradeRequest("", "", "")) == {"error": "MemoryError: 4 GiB"}


@pytest.mark.usefixtures("user_module")
@pytest.mark.parametrize(
    ("function", "message", "rule"),
    [
        ("says", "NameError: name 'nonsense' is not defined", "it raises on the first row"),
        (
            "not_a_function_of_three",
            "parameters are \\(x\\); offered are prompt, completion, reference",
            "one argument",
        ),
    ],
)
def test_a_function_that_cannot_grade_the_first_row_stops_the_run(function, message, rule):
    first = {"": GradeRequest("Say it.", "nonsense", "nonsense")}
    with pytest.raises(InvalidRun, match=message) as caught:
        make_verifier(run_with(f"python:my_rewards:{function}", timeoutSeconds=60.0), first)
    assert caught.value.faults[0].path == "spec.reward.verifier", rule


def test_one_process_pool_is_shared_by_sources():
    document = document_with("math")
    document["spec"]["data"]["downstream"] = [{"name": "other", "source": "x.jsonl"}]
    verifier = make_verifier(parse_run(document))
    (one,), (other,) = verifier.judges_of(""), verifier.judges_of("other")
    asyncio.run(verifier.close())
    assert one.backend is other.backend


def test_a_judge_behind_an_url_is_one_of_the_verifiers(monkeypatch):
    """From the spec to the reward by judge: the token's variable, the rendered question, the mean."""

    async def grade():
        async with StubJudge(lambda *_: chat("Score: 0.75")) as stub:
            document = document_with("math", http=[{"name": "rm", "url": stub.url, "tokenVariable": "RM_TOKEN"}])
            rm = {"verifier": "http:rm", "name": "rm"}
            document["spec"]["data"]["train"]["verifiers"] = [rm, {"verifier": "math", "weight": 3}]
            verifier = await asyncio.to_thread(make_verifier, parse_run(document))
            try:
                return await verifier.verify(prompt("19", "12+7="), "<think>hm</think>20"), stub
            finally:
                await verifier.close()

    monkeypatch.setenv("RM_TOKEN", "sesame")
    reward, stub = asyncio.run(grade())
    assert reward == Reward(-0.625, by_judge={"rm": 0.5, "math": -1.0}), "(0.5 - 3) / 4"
    assert stub.headers[0]["Authorization"] == "Bearer sesame"
    assert all(each in stub.bodies[0]["messages"][0]["content"] for each in ("12+7=", "20", "19"))
    assert "hm" not in stub.bodies[0]["messages"][0]["content"]


def test_a_judge_without_its_token_stops_the_run():
    document = document_with("math")
    judge = {"name": "rm", "url": "http://judge/", "tokenVariable": "NO_SUCH_TOKEN"}
    document["spec"]["reward"] = {"verifier": "http:rm", "http": [judge]}
    with pytest.raises(InvalidRun, match=r"spec.reward.http\[0\].tokenVariable: NO_SUCH_TOKEN, .*not set, or empty"):
        make_verifier(parse_run(document))
