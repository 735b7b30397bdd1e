"""Rewards completions: +1 right, -1 wrong, nothing where the verifier itself failed. I/O.

Comparisons run in judge processes (`judge.py`): mathematics, a generated task's scorer or a user's function can hang or
take all memory, and only a process can be ended. Programs run in the sandbox.
"""

import json
import logging
import multiprocessing
import queue
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Protocol

from scalerl_api import RLRun
from scalerl_api.validation import Fault, InvalidRun
from scalerl_runtime.answers import find_answer, find_program
from scalerl_runtime.rollout import Prompt
from scalerl_runtime.sandbox import Limits, SandboxFault, run_program

log = logging.getLogger(__name__)

NUM_JUDGES = 2
START_SECONDS = 120.0  # a judge imports its verifier: reasoning_gym takes seconds, on a loaded machine many
RIGHT, WRONG = 1.0, -1.0
MAX_LOGGED = 20  # failures that are logged one by one; all of them are counted


@dataclass(frozen=True)
class Verdict:
    """What a verifier said."""

    reward: float | None  # in [-1, 1]; None: it could not say
    error: str = ""  # why not


class Verifier(Protocol):
    """Judges completions; safe to call from many threads."""

    def verify(self, prompt: Prompt, completion_text: str) -> Verdict:
        """Return the verdict on one completion of `prompt`."""
        ...

    def close(self) -> None:
        """End what it started."""
        ...


class JudgeFault(RuntimeError):
    """A judge did not answer."""


def make_verifier(run: RLRun) -> Verifier:
    """Return the verifier that the run names. Raises InvalidRun if it cannot be used."""
    spec = run.spec.reward
    if spec.verifier == "code":
        return CodeVerifier(Limits(spec.timeout_seconds, spec.memory_megabytes))
    return JudgedVerifier(spec.verifier, spec.timeout_seconds)


class CodeVerifier:
    """A completion's program, followed by the prompt's tests, ends well or it is wrong."""

    def __init__(self, limits: Limits):
        self._limits = limits

    def verify(self, prompt: Prompt, completion_text: str) -> Verdict:
        """See `Verifier`."""
        answer = find_answer(prompt.text, completion_text)
        if answer is None:
            return Verdict(WRONG)
        try:
            return Verdict(
                RIGHT if run_program(f"{find_program(answer)}\n\n{prompt.answer}\n", self._limits) else WRONG
            )
        except SandboxFault as error:
            return Verdict(None, str(error))

    def close(self) -> None:
        """See `Verifier`; programs end with their verdict."""


class JudgedVerifier:
    """`math`, `reasoning_gym` or `python:...`, each verdict from a judge process with a deadline."""

    def __init__(self, verifier: str, timeout_seconds: float):
        self._whole = verifier.startswith("python:")  # a user's function sees the completion, not only the answer
        self._timeout_seconds = timeout_seconds
        self._start: Callable[[], _Judge] = lambda: _Judge(verifier, timeout_seconds)
        self._logged = 0
        self._idle: queue.Queue[_Judge | None] = queue.Queue()
        self._idle.put(self._start())  # raises InvalidRun here, before any device is taken
        for _ in range(NUM_JUDGES - 1):
            self._idle.put(None)  # started when it is needed

    def verify(self, prompt: Prompt, completion_text: str) -> Verdict:
        """See `Verifier`."""
        answer = completion_text if self._whole else find_answer(prompt.text, completion_text)
        if answer is None:
            return Verdict(WRONG)
        judge = self._idle.get()
        try:
            judge = judge or self._start()
            verdict = judge.ask(prompt.text, answer, prompt.answer, self._timeout_seconds)
        except (JudgeFault, InvalidRun, OSError) as error:
            verdict = Verdict(None, str(error))
            if judge is not None:
                judge.end()
            judge = None
        finally:
            self._idle.put(judge)
        if verdict.reward is None:
            self._report(prompt, verdict.error)
        return verdict

    def _report(self, prompt: Prompt, error: str) -> None:
        self._logged += 1
        if self._logged <= MAX_LOGGED:
            log.warning("no verdict on a completion of prompt %d: %s", prompt.id, error)

    def close(self) -> None:
        """See `Verifier`."""
        for _ in range(NUM_JUDGES):
            judge = self._idle.get()
            if judge is not None:
                judge.end()
            self._idle.put(None)


class _Judge:
    """One judge process. Raises InvalidRun if its verifier cannot be loaded."""

    def __init__(self, verifier: str, timeout_seconds: float):
        ours, theirs = multiprocessing.Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "scalerl_runtime.judge", verifier, str(theirs.fileno()), str(timeout_seconds)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._connection: Connection = ours
        try:
            hello = self._receive(START_SECONDS, "starting the verifier")
        except JudgeFault:
            self.end()
            raise
        if "invalid" in hello:
            self.end()
            raise InvalidRun([Fault("spec.reward.verifier", verifier, f"a verifier that loads ({hello['invalid']})")])

    def ask(self, prompt: str, answer: str, reference: str, timeout_seconds: float) -> Verdict:
        """Return the verdict. Raises JudgeFault when there is none in time; the judge is useless then."""
        self._connection.send_bytes(json.dumps([prompt, answer, reference]).encode())
        said = self._receive(timeout_seconds, "judging a completion")
        reward = said.get("reward")
        return Verdict(float(reward)) if isinstance(reward, float | int) else Verdict(None, str(said.get("error")))

    def _receive(self, seconds: float, what: str) -> dict[str, object]:
        try:
            if not self._connection.poll(seconds):
                raise JudgeFault(f"{what} took longer than {seconds:g} s")
            said: dict[str, object] = json.loads(self._connection.recv_bytes())
        except (EOFError, ConnectionError) as error:
            raise JudgeFault(f"{what}: the judge's process ended") from error
        return said

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()
        self._connection.close()
