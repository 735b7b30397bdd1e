"""The process in which answers are judged: a question in, a verdict out, until its parent is gone. I/O.

`python -m scalerl_runtime.rewards.verifier_process VERIFIER DESCRIPTOR TIMEOUT_SECONDS`; DESCRIPTOR is one end of a
connection. A process of its own because a comparison, or a user's function, can hang or take all memory, and only a
process can be ended.
"""

import importlib
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from numbers import Real
from typing import TypeVar

from scalerl_runtime.rewards.answers import is_right_entry, is_right_mathematics

T = TypeVar("T")
# (prompt, answer or completion, reference) -> the reward, or what a user's function returned instead
VerifyFunction = Callable[[str, str, str], object]

MEMORY_BYTES = 4 * 2**30  # 9**9**9 must not take the machine's memory; a user's function may need more and is trusted
ALARM_SECONDS = 5.0  # the parent cuts first; the alarm is for a judge that hangs when its parent is gone


def main(arguments: list[str]) -> None:
    """Say that the judge is ready, or why the verifier cannot be used; then answer questions."""
    verifier, descriptor, timeout_seconds = arguments
    connection = Connection(int(descriptor))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a user's print goes to the log
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that time is not limited; the parent does it
    judge, error = call_user_code(lambda: load_judge(verifier))
    if judge is None:
        connection.send_bytes(json.dumps({"invalid": error}).encode())
        return
    connection.send_bytes(json.dumps({"ready": True}).encode())
    while True:
        try:
            question = json.loads(connection.recv_bytes())
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, float(timeout_seconds) + ALARM_SECONDS)  # SIGALRM's default ends us
        verdict = judge_question(judge, question)
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send_bytes(json.dumps(verdict).encode())


def load_judge(verifier: str) -> VerifyFunction:
    """Return the function behind `math`, `reasoning_gym` or `python:package.module:function`.

    Raises ImportError, AttributeError, TypeError, or whatever a user's module raises.
    """
    if verifier.startswith("python:"):
        module, _, name = verifier.removeprefix("python:").partition(":")
        function = getattr(importlib.import_module(module), name)
        if not callable(function):
            raise TypeError(f"{name} in {module} is a {type(function).__name__}, not a function")
        return lambda prompt, completion, reference: function(prompt, completion, reference)
    if verifier == "math":
        is_right_mathematics("$1$", "$1$")  # what it imports must not eat the first question's time
    else:
        importlib.import_module("reasoning_gym")  # the same
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    is_right = {"math": is_right_mathematics, "reasoning_gym": is_right_entry}[verifier]
    return lambda _prompt, answer, reference: is_right(answer, reference)


def judge_question(judge: VerifyFunction, question: list[str]) -> dict[str, float | str]:
    """Return `reward`, or `error` if there is none to be had."""
    reward, error = call_user_code(lambda: parse_reward(judge(*question)))
    return {"error": error} if reward is None else {"reward": reward}


def call_user_code(call: Callable[[], T]) -> tuple[T | None, str]:
    """Return what `call` returns, or None and its exception as text: a user's module may raise anything."""
    try:
        return call(), ""
    except Exception as error:  # noqa: BLE001  # this process's top: the parent receives the error and records it
        return None, f"{type(error).__name__}: {error}"


def parse_reward(returned: object) -> float:
    """Return the reward in [-1, 1] that a verifier's True, False or number stands for. Raises ValueError."""
    if isinstance(returned, bool):
        return 1.0 if returned else -1.0
    if isinstance(returned, Real) and -1.0 <= float(returned) <= 1.0:
        return float(returned)
    raise ValueError(f"the verifier returned {returned!r}; a bool or a number from -1 to 1 is allowed")


if __name__ == "__main__":
    main(sys.argv[1:])
