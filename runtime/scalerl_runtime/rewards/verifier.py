"""Computes the reward of a completion, in a pool of verifier processes; replaces one that hangs or dies. I/O."""

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from typing import Protocol

from scalerl_api.recipe import ThinkTags
from scalerl_api.rlrun import RLRun
from scalerl_api.validation import Fault, InvalidRun
from scalerl_runtime.rewards.answers import find_answer
from scalerl_runtime.rewards.sandbox import Sandbox
from scalerl_runtime.types import Prompt

log = logging.getLogger(__name__)

START_SECONDS = 120.0  # importing a verifier from a cold disk takes tens of seconds
MAX_PROCESSES = 8  # more would take the generators' cores; a request takes about a millisecond
NUM_LOGGED = 20  # failures that are logged; the caller counts the rest


@dataclass(frozen=True)
class Reward:
    """The reward of one completion."""

    reward: float | None  # in [-1, 1]; None: the verifier itself failed
    error: str = ""  # why there is no reward


class VerifierLost(RuntimeError):
    """A verifier process ended, hung, or could not start."""


class VerifierBackend(Protocol):
    """Grades answers; called from many threads at once."""

    def grade(self, prompt: str, answer: str, reference: str) -> Reward:
        """Grade one answer."""
        ...

    def close(self) -> None:
        """End every process."""
        ...


class Verifier:
    """Rewards completions; may be called from many threads at once."""

    def __init__(self, backend: VerifierBackend, tags: ThinkTags, *, whole: bool):
        """`whole`: grade the completion with its thinking, as a user's function does, not the answer alone."""
        self._tags = tags
        self._backend = backend
        self._whole = whole
        self._num_failed = 0

    def verify(self, prompt: Prompt, completion_text: str) -> Reward:
        """Return +1 for a right answer, -1 for a wrong one or none, and no reward if the verifier itself failed.

        The first NUM_LOGGED failures are logged here. A completion that is cut in its thinking has no answer and is
        wrong without a request, except where a `python:` function grades whole completions.
        """
        opened = prompt.think_tokens is not None
        answer = completion_text if self._whole else find_answer(completion_text, self._tags, opened=opened)
        if answer is None:
            return Reward(-1.0)
        reward = self._backend.grade(prompt.text, answer, prompt.answer)
        if reward.reward is None:
            self._num_failed += 1  # threads may lose a count; it bounds the log and nothing else
            if self._num_failed <= NUM_LOGGED:
                log.warning("no reward for a completion of prompt %d: %s", prompt.id, reward.error)
        return reward

    def close(self) -> None:
        """End every verifier process; a call that still waits returns no reward."""
        self._backend.close()


def make_verifier(run: RLRun) -> Verifier:
    """Return the verifier of `run`, with its processes started.

    Raises InvalidRun if it cannot be imported, VerifierLost if its process dies, SandboxUnavailable without a sandbox.
    """
    spec, tags = run.spec.reward, run.spec.resolved_recipe().length.think_tags
    num_processes = min(len(os.sched_getaffinity(0)), MAX_PROCESSES)
    (name,) = run.spec.judge_labels
    if name == "code":
        sandbox = Sandbox(
            timeout_seconds=spec.timeout_seconds, memory_megabytes=spec.memory_megabytes, packages=spec.packages
        )
        return Verifier(SandboxBackend(sandbox, num_processes), tags, whole=False)
    pool = VerifierPool(name, timeout_seconds=spec.timeout_seconds, num_processes=num_processes)
    with ExitStack() as on_failure:
        on_failure.callback(pool.close)
        pool.start()
        on_failure.pop_all()
    return Verifier(pool, tags, whole=name.startswith("python:"))


class SandboxBackend:
    """Grades programs by running them against the reference's tests, at most `max_concurrent` at a time."""

    def __init__(self, sandbox: Sandbox, max_concurrent: int):
        self._sandbox = sandbox
        self._free = threading.BoundedSemaphore(max_concurrent)

    def grade(self, prompt: str, answer: str, reference: str) -> Reward:  # noqa: ARG002  # the tests decide
        """Run the program in `answer` with the tests in `reference`; one that is cut or crashes is wrong."""
        with self._free:
            result = self._sandbox.check(answer, reference)
        if result.right is None:
            return Reward(None, result.reason)
        return Reward(1.0 if result.right else -1.0)

    def close(self) -> None:
        """End the programs that run."""
        self._sandbox.close()


class VerifierPool:
    """A fixed number of verifier processes, each used by one thread at a time. A failed one is replaced at next use."""

    def __init__(self, verifier: str, *, timeout_seconds: float, num_processes: int):
        self._verifier = verifier
        self._timeout_seconds = timeout_seconds
        self._num_processes = num_processes
        # None: a place whose process has to be started.
        self._free: queue.LifoQueue[VerifierProcess | None] = queue.LifoQueue()
        self._started: set[VerifierProcess] = set()
        self._lock = threading.Lock()  # of _started and _closed
        self._closed = False

    def start(self) -> None:
        """Start every process. Raises InvalidRun, VerifierLost."""
        processes = [self._start_process() for _ in range(self._num_processes)]
        for process in processes:
            process.wait_ready(START_SECONDS)
            self._free.put(process)

    def grade(self, prompt: str, answer: str, reference: str) -> Reward:
        """Return the reward; none if the process fails or takes longer than the limit."""
        process = self._free.get()
        try:
            if process is None:
                process = self._start_process()
                process.wait_ready(START_SECONDS)
            reward = process.grade((prompt, answer, reference), self._timeout_seconds)
        except (VerifierLost, InvalidRun) as error:
            reward = Reward(None, str(error))
            if process is not None:
                self._end_process(process)
                process = None
        finally:
            self._free.put(process)
        return reward

    def close(self) -> None:
        """End every process; a thread that waits for one gets no reward."""
        with self._lock:
            self._closed = True
            processes, self._started = self._started, set()
        for process in processes:
            process.end()

    def _start_process(self) -> "VerifierProcess":
        with self._lock:
            if self._closed:
                raise VerifierLost("the verifier is closed")
            process = VerifierProcess(self._verifier, self._timeout_seconds)
            self._started.add(process)
        return process

    def _end_process(self, process: "VerifierProcess") -> None:
        with self._lock:
            self._started.discard(process)
        process.end()


class VerifierProcess:
    """The parent's side of `scalerl_runtime.rewards.verifier_process`; one request at a time."""

    def __init__(self, verifier: str, timeout_seconds: float):
        self._verifier = verifier
        self._connection, child_end = Pipe()
        with child_end:
            command = [
                sys.executable,
                "-m",
                "scalerl_runtime.rewards.verifier_process",
                verifier,
                str(child_end.fileno()),
                str(timeout_seconds),
            ]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=(child_end.fileno(),),
                env=os.environ | {"OMP_NUM_THREADS": "1"},  # a thread per core in every process would be too many
                # A session of its own: Ctrl-C goes to the coordinator, and `end` reaches what a user's function starts.
                start_new_session=True,
            )

    def wait_ready(self, timeout_seconds: float) -> None:
        """Wait until it takes requests. Raises InvalidRun if the verifier cannot be used, VerifierLost."""
        reply = self._receive(timeout_seconds, f"the verifier {self._verifier} did not start")
        if "invalid" in reply:
            allowed = "a verifier that can be imported and called"
            raise InvalidRun([Fault("spec.reward.verifier", self._verifier, f"{allowed} ({reply['invalid']})")])

    def grade(self, request: tuple[str, str, str], timeout_seconds: float) -> Reward:
        """Return the reward for (prompt, answer, reference). Raises VerifierLost."""
        try:
            self._connection.send_bytes(json.dumps(request).encode())
        except OSError as error:
            raise VerifierLost(f"the verifier {self._verifier} is gone ({error})") from error
        reply = self._receive(timeout_seconds, f"the verifier {self._verifier} returned no reward")
        if "error" in reply:
            return Reward(None, str(reply["error"]))
        return Reward(float(reply["reward"]))

    def end(self) -> None:
        """Kill the process and everything that it started. Harmless when repeated."""
        if self._process.returncode is None:  # else the number may be another process's by now
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _receive(self, timeout_seconds: float, failure: str) -> dict[str, str | float]:
        try:
            if not self._connection.poll(timeout_seconds):
                raise VerifierLost(f"{failure} within {timeout_seconds:g} s")
            reply: dict[str, str | float] = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise VerifierLost(f"{failure}: its process ended") from error
        return reply
