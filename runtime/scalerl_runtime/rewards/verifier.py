"""Computes the reward of a completion: the verifiers of its source, each in its backend. I/O."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from scalerl_api.recipe import ThinkTags
from scalerl_api.reward import ENVIRONMENT, WeightedVerifier
from scalerl_api.rlrun import RLRun
from scalerl_runtime.child_process import count_processes
from scalerl_runtime.data.run_data import Data
from scalerl_runtime.rewards.http_judge import HttpBackend, find_settings
from scalerl_runtime.rewards.pool import VerifierPool
from scalerl_runtime.rewards.reading.answers import find_answer
from scalerl_runtime.rewards.references import describe_reading
from scalerl_runtime.rewards.requests import GradeRequest, combine
from scalerl_runtime.rewards.sandbox import Sandbox
from scalerl_runtime.types import Prompt, Reward

log = logging.getLogger(__name__)

MAX_OUTAGE_SECONDS = 600.0  # of a judge behind an URL; a restart of its pod with a large model takes minutes
NUM_LOGGED = 20  # failures that are logged; the caller counts the rest


class VerifierBackend(Protocol):
    """Grades answers; many requests at once."""

    async def check(self, request: GradeRequest) -> None:
        """Try it with one request before the run starts. Raises InvalidRun, or an outage."""
        ...

    async def grade(self, request: GradeRequest) -> Reward:
        """Grade one answer. An error that it raises ends the attempt."""
        ...

    async def close(self) -> None:
        """End every process and connection."""
        ...


class BlockingBackend(Protocol):
    """Grades answers in the calling thread; called from several threads at once."""

    def grade(self, request: GradeRequest) -> Reward:
        """Grade one answer."""
        ...

    def close(self) -> None:
        """End every process; a call that still waits returns no reward."""
        ...


class ThreadedBackend:
    """A blocking backend in threads of its own: those of asyncio are few, and the checkpoint needs one."""

    def __init__(self, backend: BlockingBackend, num_threads: int):
        self._backend = backend
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="verifier")

    async def check(self, request: GradeRequest) -> None:
        """See `VerifierBackend`: its processes have been tried when they started."""

    async def grade(self, request: GradeRequest) -> Reward:
        """See `VerifierBackend`."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._backend.grade, request)

    async def close(self) -> None:
        """See `VerifierBackend`."""
        await asyncio.to_thread(self._backend.close)
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class Judge:
    """One verifier of a source."""

    label: str
    verifier: str
    weight: float
    backend: VerifierBackend

    @property
    def takes_thinking(self) -> bool:
        """Whether it grades the completion with its thinking, as a user's function does, not the answer alone."""
        return self.verifier.startswith("python:")


class Verifier:
    """Rewards completions."""

    def __init__(self, judges: Mapping[str, Sequence[Judge]], tags: ThinkTags):
        """`judges`: of every source, by the name that its prompts carry."""
        self._judges = judges
        self._tags = tags
        self._num_failed = 0

    def judges_of(self, source: str) -> Sequence[Judge]:
        """Return the judges of a source; none if it has an environment."""
        return self._judges.get(source, ())

    async def verify(self, prompt: Prompt, text: str) -> Reward:
        """Return the reward in [-1, 1], and none if a verifier of the prompt's source failed.

        The first NUM_LOGGED failures are logged here. An error that a backend raises ends the attempt.
        """
        judges = self._judges[prompt.source]
        rewards = await asyncio.gather(*(self.grade(judge, prompt, text) for judge in judges))
        labels = [judge.label for judge in judges]
        reward = combine(dict(zip(labels, rewards, strict=True)), {judge.label: judge.weight for judge in judges})
        if reward.reward is None:
            self._num_failed += 1
            if self._num_failed <= NUM_LOGGED:
                log.warning("no reward for a completion of prompt %d: %s", prompt.id, reward.error)
        return reward

    def describe_reading(self, prompt: Prompt, text: str) -> str:
        """Return what each verifier of the prompt's source reads in a completion's text, in words."""
        words = []
        for judge in self.judges_of(prompt.source):
            answer = self.find_answer(judge, prompt, text)
            reading = "cut in its thinking" if answer is None else describe_reading(judge.verifier, answer)
            words.append(f"{reading} ({judge.label})")
        return ", ".join(words) or "played in an environment"

    async def grade(self, judge: Judge, prompt: Prompt, completion_text: str) -> Reward:
        """Return one judge's reward.

        A completion that is cut in its thinking has no answer and is wrong without a request, except where a `python:`
        function grades whole completions.
        """
        answer = self.find_answer(judge, prompt, completion_text)
        if answer is None:
            return Reward(-1.0)
        return await judge.backend.grade(build_request(prompt, answer))

    def find_answer(self, judge: Judge, prompt: Prompt, text: str) -> str | None:
        """Return the part of a completion's text that the judge grades; None if it is cut before."""
        if judge.takes_thinking:
            return text
        return find_answer(text, self._tags, opened=prompt.think_tokens is not None)

    async def close(self) -> None:
        """End every verifier process; a call that still waits returns no reward."""
        backends = {id(each.backend): each.backend for judges in self._judges.values() for each in judges}
        for backend in backends.values():
            await backend.close()


def first_requests(data: Data) -> dict[str, GradeRequest]:
    """Return the first row of every source, with its reference as the completion: what a function is tried with."""
    first = {prompt.source: prompt for prompt in reversed(data.prompts)}
    return {name: build_request(each, each.answer) for name, each in first.items()}


def build_request(prompt: Prompt, answer: str) -> GradeRequest:
    """Return the request to grade `answer` as the completion of `prompt`."""
    return GradeRequest(prompt.text, answer, prompt.answer, prompt.source, prompt.question)


def make_verifier(run: RLRun, first: Mapping[str, GradeRequest] | None = None, skip: Collection[str] = ()) -> Verifier:
    """Return the verifier of `run`, with its processes started: one backend for each verifier that a source names.

    Args:
        run: with its sources and their verifiers.
        first: a request of every source; a user's function is tried with that of the first source that names it.
        skip: verifiers that are left out; what they alone grade cannot be graded.

    Raises InvalidRun if one cannot be used, VerifierLost if its process dies, SandboxUnavailable without a sandbox.
    """
    sources = {
        name: [each for each in judges if each.verifier not in skip] for name, judges in sources_by_name(run).items()
    }
    names = dict.fromkeys(each.verifier for judges in sources.values() for each in judges)
    backends: dict[str, VerifierBackend] = {}
    with ExitStack() as on_failure:
        for name in names:
            if name.startswith("http:"):
                backends[name] = _make_http(run, name.removeprefix("http:"))
                continue
            (source, *_) = (source for source, judges in sources.items() if name in [each.verifier for each in judges])
            blocking, num_threads = _start_backend(run, name, (first or {}).get(source))
            on_failure.callback(blocking.close)
            backends[name] = ThreadedBackend(blocking, num_threads)
        on_failure.pop_all()
    judges = {
        source: [Judge(each.label, each.verifier, each.weight, backends[each.verifier]) for each in weighted]
        for source, weighted in sources.items()
    }
    return Verifier(judges, run.spec.resolved_recipe().length.think_tags)


def sources_by_name(run: RLRun) -> dict[str, tuple[WeightedVerifier, ...]]:
    """Return the verifiers of every source, by the name that its prompts carry; none of one with an environment."""
    judges = run.spec.judges_by_source()
    return {name: found for name, found in judges.items() if not found[0].verifier.startswith(ENVIRONMENT)}


def _make_http(run: RLRun, name: str) -> HttpBackend:
    """Return the backend of a judge behind an URL; it connects at its first request. Raises InvalidRun: no token."""
    (index,) = (index for index, each in enumerate(run.spec.reward.http) if each.name == name)
    seconds = min(MAX_OUTAGE_SECONDS, run.spec.deadlines.start_seconds / 2)
    path = f"spec.reward.http[{index}]"
    return HttpBackend(find_settings(run.spec.reward.http[index], path, os.environ, seconds), time.monotonic)


def _start_backend(run: RLRun, name: str, trial: GradeRequest | None) -> tuple[BlockingBackend, int]:
    """Return a started backend, and the number of threads that it can use."""
    spec = run.spec.reward
    num_processes = count_processes()
    if name == "code":
        sandbox = Sandbox(
            timeout_seconds=spec.timeout_seconds, memory_megabytes=spec.memory_megabytes, packages=spec.packages
        )
        return SandboxBackend(sandbox, num_processes), num_processes
    is_users = name.startswith("python:")
    pool = VerifierPool(
        name,
        timeout_seconds=spec.timeout_seconds,
        num_processes=num_processes,
        trial=trial if is_users else None,
        hanging_is_wrong=not is_users,
    )
    with ExitStack() as on_failure:
        on_failure.callback(pool.close)
        pool.start()
        on_failure.pop_all()
    return pool, num_processes


class SandboxBackend:
    """Grades programs by running them against the reference's tests, at most `max_concurrent` at a time."""

    def __init__(self, sandbox: Sandbox, max_concurrent: int):
        self._sandbox = sandbox
        self._free = threading.BoundedSemaphore(max_concurrent)

    def grade(self, request: GradeRequest) -> Reward:
        """Run the program in the answer with the tests in the reference; one that is cut or crashes is wrong."""
        with self._free:
            result = self._sandbox.check(request.answer, request.reference)
        if result.right is None:
            return Reward(None, result.reason)
        return Reward(1.0 if result.right else -1.0)

    def close(self) -> None:
        """End the programs that run."""
        self._sandbox.close()
