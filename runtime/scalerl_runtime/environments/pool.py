"""Runs the environments of episodes in a few processes; replaces one that hangs or dies. I/O.

A process holds the state of many episodes and replies to one request at a time. When it is lost, so are its episodes:
they end without a reward.
"""

import asyncio
import itertools
import json
import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress

from scalerl_api.validation import Fault, InvalidRun
from scalerl_runtime.child_process import START_SECONDS, ChildProcess, Reply, count_processes
from scalerl_runtime.environments.protocol import Step

log = logging.getLogger(__name__)

NUM_LOGGED = 20  # failures that are logged; the caller counts the rest
VERIFIER_PATH = "spec.reward.verifier"


class EnvironmentFailed(RuntimeError):
    """An environment raised, hung, ended or returned no Step: its episode has no reward."""


class EnvironmentPool:
    """The processes of one environment class. Every method but the two of an episode blocks."""

    def __init__(
        self,
        environment: str,
        arguments: Mapping[str, int | float | str | bool],
        *,
        timeout_seconds: float,
        label: str | None = None,
        num_processes: int | None = None,
    ):
        """`environment`: as `env:package.module:Class`; `label`: name of its rewards, None: the same."""
        self.environment = environment
        self.label = environment if label is None else label
        keywords = json.dumps(dict(arguments))
        count = num_processes or count_processes()
        self._places = [_ProcessPlace(environment, keywords, timeout_seconds) for _ in range(count)]
        self._numbers = itertools.count()
        self._num_failed = 0

    def start(self, prompt: str, reference: str) -> None:
        """Start the processes and try one turn.

        The turn is an empty message: an environment must reply to any text. `prompt`, `reference`: of a training row.
        Raises InvalidRun if the class cannot be used or fails the turn, EnvironmentFailed if a process does not start.
        """
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            for place in self._places:
                place.start()
            place = self._places[0]
            try:
                number = next(self._numbers)
                place.request("reset", number, prompt, reference)
                place.request("step", number, "")
                place.request("end", number)
            except EnvironmentFailed as error:
                allowed = f"an environment that takes a training row and an empty turn ({error})"
                raise InvalidRun([Fault(VERIFIER_PATH, self.environment, allowed)]) from error
            on_failure.pop_all()

    async def open(self, prompt: str, reference: str) -> "OpenEpisode":
        """Begin an episode, in the process that has the fewest. Raises EnvironmentFailed."""
        place = min(self._places, key=lambda each: each.num_episodes)
        episode = OpenEpisode(self, place, next(self._numbers))
        place.num_episodes += 1
        with ExitStack() as on_failure:
            on_failure.callback(episode.close)
            await episode.request("reset", prompt, reference)
            on_failure.pop_all()
        return episode

    def count_failure(self, error: EnvironmentFailed) -> None:
        """Log one of the first failures."""
        self._num_failed += 1
        if self._num_failed <= NUM_LOGGED:
            log.warning("an episode of %s ends without a reward: %s", self.environment, error)

    def close(self) -> None:
        """End every process; an episode that is open fails."""
        for place in self._places:
            place.close()


class OpenEpisode:
    """One episode's environment."""

    def __init__(self, pool: EnvironmentPool, place: "_ProcessPlace", number: int):
        self._pool = pool
        self._place = place
        self._number = number
        self._is_open = True

    async def step(self, message: str) -> Step:
        """Return the reply to a turn of the policy. Raises EnvironmentFailed."""
        reply = await self.request("step", message)
        found = reply["step"]
        assert isinstance(found, dict), "the process sends a Step"
        return Step(**found)

    def close(self) -> None:
        """Free the episode's state. Harmless when repeated."""
        if self._is_open:
            self._is_open = False
            self._place.num_episodes -= 1
            self._place.forget(self._number)

    async def request(self, operation: str, *texts: str) -> Reply:
        """Send one request in the process's own thread. Raises EnvironmentFailed."""
        try:
            return await asyncio.wrap_future(self._place.submit(operation, self._number, *texts))
        except EnvironmentFailed as error:
            self._pool.count_failure(error)
            raise


class _ProcessPlace:
    """One process's place. Its thread sends one request at a time, so a deadline counts from the sending."""

    def __init__(self, environment: str, arguments: str, timeout_seconds: float):
        self._environment = environment
        self._arguments = arguments
        self._timeout_seconds = timeout_seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="environment")
        self._process: ChildProcess | None = None
        self._episodes: set[int] = set()  # those that the process knows
        self._closed = False
        self.num_episodes = 0  # open ones; the event loop's count

    def submit(self, operation: str, number: int, *texts: str) -> Future[Reply]:
        """Send a request in the thread."""
        try:
            return self._thread.submit(self.request, operation, number, *texts)
        except RuntimeError as error:  # the executor is shut down
            raise EnvironmentFailed("the environments are closed") from error

    def forget(self, number: int) -> None:
        """Have the process drop an episode, without waiting; one that is lost dropped it already."""
        with suppress(EnvironmentFailed):
            self.submit("end", number)

    def start(self) -> None:
        """Start the process. Raises InvalidRun, EnvironmentFailed."""
        if self._closed:
            raise EnvironmentFailed("the environments are closed")
        name, module = self._environment, "scalerl_runtime.environments.process"
        self._process = ChildProcess(module, name, self._arguments, lost=EnvironmentFailed)
        reply = self._process.receive(START_SECONDS, f"{name} did not start")
        if "invalid" in reply:
            allowed = f"a class with reset and step that takes reward.environment.arguments ({reply['invalid']})"
            raise InvalidRun([Fault(VERIFIER_PATH, name, allowed)])

    def request(self, operation: str, number: int, *texts: str) -> Reply:
        """Return the process's reply; a lost process is replaced by the next `reset`. Raises EnvironmentFailed."""
        if operation == "reset" and self._process is None:
            try:
                self.start()
            except InvalidRun as error:  # it could be used when the run began
                self._lose()
                raise EnvironmentFailed(str(error)) from error
        if operation == "reset":
            self._episodes.add(number)
        elif number not in self._episodes:
            raise EnvironmentFailed("its process was lost in another episode's turn")
        if operation == "end":
            self._episodes.discard(number)
        assert self._process is not None, "a known episode has a process"
        try:
            reply = self._process.request(
                [operation, number, *texts], self._timeout_seconds, gone="its process is gone", failure="no reply"
            )
        except EnvironmentFailed:
            self._lose()
            raise
        if "error" in reply:
            self._episodes.discard(number)
            raise EnvironmentFailed(str(reply["error"]))
        return reply

    def close(self) -> None:
        """End process and thread."""
        self._closed = True
        process = self._process
        if process is not None:
            process.end()  # a request that waits fails at once
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._lose()  # one that the thread started meanwhile

    def _lose(self) -> None:
        self._episodes.clear()
        process, self._process = self._process, None
        if process is not None:
            process.end()
