"""The process of environments: holds the state of many episodes and replies to one request at a time. I/O.

`python -m scalerl_runtime.environments.process ENVIRONMENT DESCRIPTOR TIMEOUT_SECONDS ARGUMENTS`; DESCRIPTOR is one end
of a connection, ARGUMENTS the class's keyword arguments as JSON. It is a process of its own because an environment is
a user's code: it can hang, take all memory or exit, and only a process can be killed.
"""

import asyncio
import importlib
import inspect
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection

from scalerl_runtime.environments.protocol import parse_step

ALARM_SECONDS = 5.0  # the parent kills first; the alarm ends a process that hangs after its parent is gone

Reply = dict[str, object]


def main(arguments: list[str]) -> None:
    """Send `ready`, or why the environment cannot be used; then reply to requests."""
    environment, descriptor, timeout_seconds, keywords = arguments
    connection = Connection(int(descriptor))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a user's print goes to the log
    with asyncio.Runner() as runner:
        try:
            episodes = Episodes(load_class(environment), json.loads(keywords), runner)
            episodes.make()
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a user's module may raise anything: the parent reports it
            connection.send_bytes(json.dumps({"invalid": _describe(error)}).encode())
            return
        connection.send_bytes(json.dumps({"ready": True}).encode())
        while True:
            try:
                request = json.loads(connection.recv_bytes())
            except EOFError:
                return
            signal.setitimer(signal.ITIMER_REAL, float(timeout_seconds) + ALARM_SECONDS)  # SIGALRM's default ends us
            reply = episodes.handle(request)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send_bytes(json.dumps(reply).encode())


def load_class(environment: str) -> Callable[..., object]:
    """Return the class behind `env:package.module:Class`.

    Raises TypeError if it is no environment, and whatever the user's module raises.
    """
    module, _, name = environment.removeprefix("env:").partition(":")
    found = getattr(importlib.import_module(module), name)
    if not callable(found):
        raise TypeError(f"{name} in {module} is a {type(found).__name__}, not a class")
    for method in ("reset", "step"):
        if inspect.isclass(found) and not callable(getattr(found, method, None)):
            raise TypeError(f"{name} in {module} has no method {method}")
    make: Callable[..., object] = found
    return make


class Episodes:
    """The episodes of this process, by number."""

    def __init__(self, make: Callable[..., object], arguments: Mapping[str, object], runner: asyncio.Runner):
        self._make = make
        self._arguments = arguments
        self._runner = runner
        self._open: dict[int, object] = {}

    def make(self) -> object:
        """Return a new environment."""
        return self._make(**self._arguments)

    def handle(self, request: list[object]) -> Reply:
        """Return the reply to (`reset`, number, prompt, reference), (`step`, number, message) or (`end`, number)."""
        operation, number, *texts = request
        assert isinstance(number, int), "the parent numbers episodes"
        try:
            if operation == "reset":
                environment = self.make()
                self._call(environment, "reset", *texts)
                self._open[number] = environment
                return {"done": True}
            if operation == "step":
                return {"step": vars(parse_step(self._call(self._open[number], "step", *texts)))}
            self._open.pop(number, None)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # this process's top: the parent records the error
            self._open.pop(number, None)
            return {"error": _describe(error)}
        return {"done": True}

    def _call(self, environment: object, method: str, *texts: object) -> object:
        returned = getattr(environment, method)(*texts)
        return self._runner.run(_awaited(returned)) if inspect.isawaitable(returned) else returned


async def _awaited(value: object) -> object:
    return await value  # type: ignore[misc]  # `inspect.isawaitable` is no type guard for object


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main(sys.argv[1:])
