"""The verifier process: receives requests and replies with rewards until its parent is gone. I/O.

`python -m scalerl_runtime.rewards.verifier_process VERIFIER DESCRIPTOR`; DESCRIPTOR is one end of a connection.
"""

import importlib
import logging
import resource
import sys
from collections.abc import Callable
from typing import TypeVar

from scalerl_runtime.child_process import load_callable, open_connection, send, serve
from scalerl_runtime.rewards.reading.choice_answers import is_right_choice
from scalerl_runtime.rewards.reading.generated_answers import is_right_entry
from scalerl_runtime.rewards.reading.math_answers import is_right_mathematics
from scalerl_runtime.rewards.requests import GradeRequest
from scalerl_runtime.rewards.user_function import UserVerifier, parse_reward

T = TypeVar("T")
# The reward, or what a user's function returned instead.
VerifyFunction = Callable[[GradeRequest], object]

MEMORY_BYTES = 4 * 2**30  # 9**9**9 must not take the machine's memory; a user's function may need more and is trusted


def main(arguments: list[str]) -> None:
    """Send `ready`, or why the verifier cannot be used; then reply to requests."""
    verifier, descriptor = arguments
    connection = open_connection(descriptor)
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that it has no time limit; the parent has one
    verify, error = call_user_code(lambda: load_function(verifier))
    if verify is None:
        send(connection, {"invalid": error})
        return
    serve(connection, lambda request: grade_request(verify, GradeRequest.parse(request)))


def load_function(verifier: str) -> VerifyFunction:
    """Return the function behind `math`, `choice`, `reasoning_gym` or `python:package.module:function`.

    Raises ImportError, AttributeError, TypeError, or whatever a user's module raises.
    """
    if verifier.startswith("python:"):
        return UserVerifier(load_callable(verifier.removeprefix("python:"), "a function"))
    if verifier == "math":
        is_right_mathematics("$x$", "$x$")  # its imports must not use up the time of the first request
    elif verifier == "reasoning_gym":
        importlib.import_module("reasoning_gym")  # the same
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    judges = {"math": is_right_mathematics, "choice": is_right_choice, "reasoning_gym": is_right_entry}
    is_right = judges[verifier]
    return lambda request: is_right_within_limits(is_right, request)


def is_right_within_limits(is_right: Callable[[str, str], bool], request: GradeRequest) -> bool:
    """An answer whose comparison needs more memory or depth than there is, is wrong: the fault is the answer's."""
    try:
        return is_right(request.answer, request.reference)
    except (MemoryError, RecursionError, OverflowError):
        return False


def grade_request(verify: VerifyFunction, request: GradeRequest) -> dict[str, float | str | None]:
    """Return `reward`, None for no opinion, or `error` if the verifier fails."""
    reward, error = call_user_code(lambda: parse_reward(verify(request)))
    return {"error": error} if error else {"reward": reward}


def call_user_code(call: Callable[[], T]) -> tuple[T | None, str]:
    """Return what `call` returns, or None and its exception as text: a user's module may raise anything."""
    try:
        return call(), ""
    except Exception as error:  # noqa: BLE001  # this process's top: the parent receives the error and records it
        return None, f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main(sys.argv[1:])
