"""The process of environments: holds the state of many episodes and replies to one request at a time. I/O.

`python -m scalerl_runtime.environments.process ENVIRONMENT DESCRIPTOR ARGUMENTS`; DESCRIPTOR is one end of a
connection, ARGUMENTS the class's keyword arguments as JSON.
"""

import asyncio
import inspect
import json
import sys
from collections.abc import Callable, Mapping

from scalerl_runtime.child_process import Reply, load_callable, open_connection, send, serve
from scalerl_runtime.environments.protocol import check_reset, parse_step


def main(arguments: list[str]) -> None:
    """Send `ready`, or why the environment cannot be used; then reply to requests."""
    environment, descriptor, keywords = arguments
    connection = open_connection(descriptor)
    with asyncio.Runner() as runner:
        try:
            episodes = Episodes(load_class(environment), json.loads(keywords), runner)
            episodes.make()
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a user's module may raise anything: the parent reports it
            send(connection, {"invalid": _describe(error)})
            return
        serve(connection, episodes.handle)


def load_class(environment: str) -> Callable[..., object]:
    """Return the class behind `env:package.module:Class`.

    Raises TypeError if it is no environment, and whatever the user's module raises.
    """
    path = environment.removeprefix("env:")
    found = load_callable(path, "a class")
    for method in ("reset", "step"):
        if inspect.isclass(found) and not callable(getattr(found, method, None)):
            module, _, name = path.partition(":")
            raise TypeError(f"{name} in {module} has no method {method}")
    return found


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
                check_reset(self._call(environment, "reset", *texts))
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
