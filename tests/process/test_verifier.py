import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from scalerl_api import InvalidRun, parse_run
from scalerl_api.recipe import ThinkTags
from scalerl_runtime.data.prompts import GeneratedRecord, build_entry_answer
from scalerl_runtime.rewards.sandbox import ProgramResult
from scalerl_runtime.rewards.verifier import Reward, SandboxBackend, Verifier, VerifierPool, make_verifier
from scalerl_runtime.rewards.verifier_process import grade_request, parse_reward
from scalerl_runtime.types import Prompt

USER_MODULE = '''
import os, signal, sys, time

def says(prompt, completion, reference):
    """What the reference asks for."""
    return eval(completion)

def not_a_function_of_three(completion):
    return True

number = 7
'''


def prompt(answer: str, text: str = "?") -> Prompt:
    return Prompt(31, text, np.zeros(1, np.int32), answer)


def run_with(verifier: str, **reward: object):
    document = {
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
    return parse_run(document)


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards.py").write_text(USER_MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)


@pytest.fixture
def make():
    """`make(verifier, timeoutSeconds=...)`; closed at the end."""
    made = []

    def start(verifier: str, **reward: object) -> Verifier:
        made.append(make_verifier(run_with(verifier, **reward)))
        return made[-1]

    yield start
    for verifier in made:
        verifier.close()


class FakeBackend:
    """Returns a fixed reward and records the requests."""

    def __init__(self, reward: Reward):
        self.reward = reward
        self.requests: list[tuple[str, str, str]] = []

    def grade(self, prompt: str, answer: str, reference: str) -> Reward:
        self.requests.append((prompt, answer, reference))
        return self.reward

    def close(self) -> None:
        pass


def test_the_backend_grades_the_answer_without_the_thinking():
    backend = FakeBackend(Reward(1.0))
    assert Verifier(backend, ThinkTags(), whole=False).verify(prompt("19", "12+7="), "<think>hm</think> 19") == Reward(
        1.0
    )
    assert backend.requests == [("12+7=", "19", "19")]


def test_unfinished_thinking_is_wrong_without_a_request():
    backend = FakeBackend(Reward(1.0))
    assert Verifier(backend, ThinkTags(), whole=False).verify(prompt("19"), "<think>12+7 is 19") == Reward(-1.0)
    assert backend.requests == []


def test_a_users_function_gets_the_whole_completion():
    backend = FakeBackend(Reward(0.5))
    assert Verifier(backend, ThinkTags(), whole=True).verify(prompt("19", "12+7="), "<think>12+7") == Reward(0.5)
    assert backend.requests == [("12+7=", "<think>12+7", "19")]


def test_infra_failure_not_negative_reward(caplog: pytest.LogCaptureFixture):
    """A failing verifier is no evidence about the answer; -1 would teach the model something false."""
    result = Verifier(FakeBackend(Reward(None, "out of order")), ThinkTags(), whole=False).verify(prompt("19"), "19")
    assert result == Reward(None, "out of order")
    assert "prompt 31: out of order" in caplog.text


def test_only_the_first_failures_are_logged(caplog: pytest.LogCaptureFixture):
    verifier = Verifier(FakeBackend(Reward(None, "out of order")), ThinkTags(), whole=False)
    for _ in range(50):
        verifier.verify(prompt("19"), "19")
    assert len(caplog.records) == 20


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
    assert backend.grade("Square x.", "```python\nx = 1\n```", "assert x == 1") == reward, rule
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


def test_many_threads_grade_generated_tasks_at_once(make):
    """A reward must reach the thread that requested it: thread i grades i and i + 1."""
    verifier = make("reasoning_gym", timeoutSeconds=60.0)

    def both(number: int) -> tuple[float | None, float | None]:
        record = {"question": "?", "answer": str(number), "metadata": {}}
        task = prompt(build_entry_answer(GeneratedRecord("chain_sum", {}, record)))
        return verifier.verify(task, str(number)).reward, verifier.verify(task, str(number + 1)).reward

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(both, range(60))) == {(1.0, -1.0)}


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
        ("None", None, "returned None", "nothing"),
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
        threading.Thread(target=lambda: rewards.append(pool.grade("?", "time.sleep(900)", "")), daemon=True)
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    pool.close()
    for thread in threads:
        thread.join(timeout=60)
    assert [each.reward for each in rewards] == [None, None]
    with pytest.raises(ProcessLookupError):
        os.kill(process._process.pid, 0)
    pool.close()


@pytest.mark.parametrize(
    ("returned", "reward", "rule"),
    [
        (True, 1.0, "True"),
        (False, -1.0, "False is -1 and not 0"),
        (0, 0.0, "an integer"),
        (-1, -1.0, "the lower bound"),
        (np.float32(0.5), 0.5, "a number of another library"),
    ],
)
def test_return_values_that_are_rewards(returned, reward, rule):
    assert parse_reward(returned) == reward, rule


@pytest.mark.parametrize("returned", ["1", None, 1.0001, float("inf"), [1.0], 1j])
def test_return_values_that_are_refused(returned):
    with pytest.raises(ValueError, match="a bool or a number from -1 to 1 is allowed"):
        parse_reward(returned)


def test_an_error_names_its_exception():
    def fail(_prompt: str, _answer: str, _reference: str) -> object:
        raise MemoryError("4 GiB")

    assert grade_request(fail, ["", "", ""]) == {"error": "MemoryError: 4 GiB"}
