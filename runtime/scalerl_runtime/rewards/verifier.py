"""Rewards completions: starts the processes that judge, asks them, and replaces those that hang or die. I/O."""

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

from scalerl_api.rlrun import RLRun
from scalerl_api.validation import Fault, InvalidRun
from scalerl_runtime.rewards.answers import find_answer, find_program
from scalerl_runtime.rewards.sandbox import Sandbox
from scalerl_runtime.types import Prompt

log = logging.getLogger(__name__)

START_SECONDS = 120.0  # importing a verifier from a cold disk takes tens of seconds
MAX_JUDGES = 8  # more would take the generators' cores; a verdict takes about a millisecond
NUM_LOGGED = 20  # failures that are named; the rest are counted by the caller


@dataclass(frozen=True)
class Reward:
    """What a completion is worth."""

    reward: float | None  # in [-1, 1]; None: the verifier itself failed
    error: str = ""  # why there is no reward


class VerifierLost(RuntimeError):
    """A judging process ended, hung, or could not start."""


class VerifierBackend(Protocol):
    """Where answers are judged; asked from many threads at once."""

    def ask(self, prompt: str, answer: str, reference: str) -> Reward:
        """Judge one answer."""
        ...

    def close(self) -> None:
        """End every process."""
        ...


class Verifier:
    """Rewards completions; may be called from many threads at once."""

    def __init__(self, court: VerifierBackend, *, whole: bool):
        """`whole`: judge the completion with its thinking, as a user's function does, not the answer alone."""
        self._court = court
        self._whole = whole
        self._num_failed = 0

    def verify(self, prompt: Prompt, completion_text: str) -> Reward:
        """Return +1 for a right answer, -1 for a wrong one or none, and no reward if the verifier itself failed.

        The last kind is logged here, the first times. A completion that is cut in its thinking has no answer and is
        wrong without being asked about, except where a `python:` function judges whole completions.
        """
        answer = completion_text if self._whole else find_answer(prompt.text, completion_text)
        if answer is None:
            return Reward(-1.0)
        verdict = self._court.ask(prompt.text, answer, prompt.answer)
        if verdict.reward is None:
            self._num_failed += 1  # threads may lose a count; it bounds the log and nothing else
            if self._num_failed <= NUM_LOGGED:
                log.warning("no reward for a completion of prompt %d: %s", prompt.id, verdict.error)
        return verdict

    def close(self) -> None:
        """End every process that judges; whoever still waits for a verdict gets none."""
        self._court.close()


def make_verifier(run: RLRun) -> Verifier:
    """Return the verifier of `run`, ready to be asked.

    Raises InvalidRun if it cannot be imported, VerifierLost if it dies doing so, SandboxUnavailable without a sandbox.
    """
    spec = run.spec.reward
    num_judges = min(len(os.sched_getaffinity(0)), MAX_JUDGES)
    if spec.verifier == "code":
        sandbox = Sandbox(timeout_seconds=spec.timeout_seconds, memory_megabytes=spec.memory_megabytes)
        return Verifier(SandboxBackend(sandbox, num_judges), whole=False)
    pool = VerifierPool(spec.verifier, timeout_seconds=spec.timeout_seconds, num_judges=num_judges)
    with ExitStack() as on_failure:
        on_failure.callback(pool.close)
        pool.start()
        on_failure.pop_all()
    return Verifier(pool, whole=spec.verifier.startswith("python:"))


class SandboxBackend:
    """Judges programs by running them against the reference's tests, at most `num_places` at a time."""

    def __init__(self, sandbox: Sandbox, num_places: int):
        self._sandbox = sandbox
        self._places = threading.BoundedSemaphore(num_places)

    def ask(self, prompt: str, answer: str, reference: str) -> Reward:  # noqa: ARG002  # tests say what is right
        """Run the program in `answer` with the tests in `reference`; one that is cut or crashes is wrong."""
        with self._places:
            outcome = self._sandbox.check(find_program(answer), reference)
        if outcome.right is None:
            return Reward(None, outcome.reason)
        return Reward(1.0 if outcome.right else -1.0)

    def close(self) -> None:
        """End the programs that run."""
        self._sandbox.close()


class VerifierPool:
    """A fixed number of judges, each asked by one thread at a time; one that fails is replaced when next needed."""

    def __init__(self, verifier: str, *, timeout_seconds: float, num_judges: int):
        self._verifier = verifier
        self._timeout_seconds = timeout_seconds
        self._num_judges = num_judges
        self._free: queue.LifoQueue[VerifierProcess | None] = (
            queue.LifoQueue()
        )  # None: a place whose judge is to be started
        self._started: set[VerifierProcess] = set()
        self._lock = threading.Lock()  # of _started and _closed
        self._closed = False

    def start(self) -> None:
        """Start every judge. Raises InvalidRun, VerifierLost."""
        judges = [self._start_judge() for _ in range(self._num_judges)]
        for judge in judges:
            judge.wait_ready(START_SECONDS)
            self._free.put(judge)

    def ask(self, prompt: str, answer: str, reference: str) -> Reward:
        """Return a judge's verdict; none if it fails or takes longer than the limit."""
        judge = self._free.get()
        try:
            if judge is None:
                judge = self._start_judge()
                judge.wait_ready(START_SECONDS)
            verdict = judge.ask((prompt, answer, reference), self._timeout_seconds)
        except (VerifierLost, InvalidRun) as error:
            verdict = Reward(None, str(error))
            if judge is not None:
                self._end_judge(judge)
                judge = None
        finally:
            self._free.put(judge)
        return verdict

    def close(self) -> None:
        """End every judge; a thread that waits for one gets no verdict."""
        with self._lock:
            self._closed = True
            judges, self._started = self._started, set()
        for judge in judges:
            judge.end()

    def _start_judge(self) -> "VerifierProcess":
        with self._lock:
            if self._closed:
                raise VerifierLost("the verifier is closed")
            judge = VerifierProcess(self._verifier, self._timeout_seconds)
            self._started.add(judge)
        return judge

    def _end_judge(self, judge: "VerifierProcess") -> None:
        with self._lock:
            self._started.discard(judge)
        judge.end()


class VerifierProcess:
    """The parent's side of `scalerl_runtime.rewards.verifier_process`; one question at a time."""

    def __init__(self, verifier: str, timeout_seconds: float):
        self._verifier = verifier
        self._connection, theirs = Pipe()
        with theirs:
            command = [
                sys.executable,
                "-m",
                "scalerl_runtime.rewards.verifier_process",
                verifier,
                str(theirs.fileno()),
                str(timeout_seconds),
            ]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=os.environ | {"OMP_NUM_THREADS": "1"},  # a thread per core in every judge would be many
                # Ctrl-C is the coordinator's; and what a user's function starts ends with its judge.
                start_new_session=True,
            )

    def wait_ready(self, timeout_seconds: float) -> None:
        """Wait until it can be asked. Raises InvalidRun if the verifier cannot be used, VerifierLost."""
        said = self._receive(timeout_seconds, f"the verifier {self._verifier} did not start")
        if "invalid" in said:
            allowed = "a verifier that can be imported and called"
            raise InvalidRun([Fault("spec.reward.verifier", self._verifier, f"{allowed} ({said['invalid']})")])

    def ask(self, question: tuple[str, str, str], timeout_seconds: float) -> Reward:
        """Return its verdict on (prompt, answer, reference). Raises VerifierLost."""
        try:
            self._connection.send_bytes(json.dumps(question).encode())
        except OSError as error:
            raise VerifierLost(f"the verifier {self._verifier} is gone ({error})") from error
        said = self._receive(timeout_seconds, f"the verifier {self._verifier} gave no verdict")
        if "error" in said:
            return Reward(None, str(said["error"]))
        return Reward(float(said["reward"]))

    def end(self) -> None:
        """Kill it with all that it started. Harmless when repeated."""
        if self._process.returncode is None:  # else the number may be another process's by now
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _receive(self, timeout_seconds: float, failure: str) -> dict[str, str | float]:
        try:
            if not self._connection.poll(timeout_seconds):
                raise VerifierLost(f"{failure} within {timeout_seconds:g} s")
            said: dict[str, str | float] = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise VerifierLost(f"{failure}: its process ended") from error
        return said
