"""A pool of verifier processes, each for one request at a time; one that hangs or dies is replaced. I/O."""

import logging
import queue
import threading

from scalerl_api.validation import Fault, InvalidRun, shorten
from scalerl_runtime.child_process import START_SECONDS, ChildProcess
from scalerl_runtime.rewards.requests import GradeRequest
from scalerl_runtime.types import Reward

log = logging.getLogger(__name__)

NUM_SHOWN = 100  # characters of a prompt in a message


class VerifierLost(RuntimeError):
    """A verifier process ended, hung, or could not start."""


class VerifierSlow(VerifierLost):
    """A verifier process did not reply in time."""


class VerifierPool:
    """A fixed number of verifier processes, each used by one thread at a time. A failed one is replaced at next use."""

    def __init__(
        self,
        verifier: str,
        *,
        timeout_seconds: float,
        num_processes: int,
        trial: GradeRequest | None = None,
        hanging_is_wrong: bool = False,
    ):
        """Nothing is started yet.

        Args:
            verifier: as in the spec.
            timeout_seconds: longest check of one completion.
            num_processes: each for one request at a time.
            trial: every process grades it before it takes requests; how a user's function is called depends on it.
            hanging_is_wrong: an answer whose check takes too long in two processes is wrong; else it has no reward.
        """
        self._verifier = verifier
        self._timeout_seconds = timeout_seconds
        self._num_processes = num_processes
        self._trial = trial
        self._hanging_is_wrong = hanging_is_wrong
        # None: a place whose process has to be started.
        self._free: queue.LifoQueue[VerifierProcess | None] = queue.LifoQueue()
        self._started: set[VerifierProcess] = set()
        self._lock = threading.Lock()  # of _started and _closed
        self._closed = False

    def start(self) -> None:
        """Start every process. Raises InvalidRun, VerifierLost."""
        processes = [self._start_process() for _ in range(self._num_processes)]
        for process in processes:
            process.wait_ready(START_SECONDS, self._trial)
            self._free.put(process)

    def grade(self, request: GradeRequest) -> Reward:
        """Return the reward; none if the process fails.

        A check that takes too long is repeated once, in another process: the machine may have been slow.
        """
        try:
            return self._grade_once(request)
        except VerifierSlow as error:
            if not self._hanging_is_wrong:
                return Reward(None, str(error))
        except (VerifierLost, InvalidRun) as error:
            return Reward(None, str(error))
        try:
            return self._grade_once(request)
        except VerifierSlow as error:
            log.warning("wrong, because %s twice: %s", error, shorten(request.answer, NUM_SHOWN))
            return Reward(-1.0, timed_out=True)
        except (VerifierLost, InvalidRun) as error:
            return Reward(None, str(error))

    def _grade_once(self, request: GradeRequest) -> Reward:
        process = self._free.get()
        try:
            if process is None:
                process = self._start_process()
                process.wait_ready(START_SECONDS, self._trial)
            return process.grade(request, self._timeout_seconds)
        except (VerifierLost, InvalidRun):
            if process is not None:
                self._end_process(process)
                process = None
            raise
        finally:
            self._free.put(process)

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
            process = VerifierProcess(self._verifier)
            self._started.add(process)
        return process

    def _end_process(self, process: "VerifierProcess") -> None:
        with self._lock:
            self._started.discard(process)
        process.end()


class VerifierProcess:
    """The parent's side of `scalerl_runtime.rewards.verifier_process`; one request at a time."""

    def __init__(self, verifier: str):
        self._verifier = verifier
        self._process = ChildProcess(
            "scalerl_runtime.rewards.verifier_process", verifier, lost=VerifierLost, slow=VerifierSlow
        )

    def wait_ready(self, timeout_seconds: float, trial: GradeRequest | None) -> None:
        """Wait until it takes requests. Raises InvalidRun if the verifier cannot be used, VerifierLost."""
        reply = self._process.receive(timeout_seconds, f"the verifier {self._verifier} did not start")
        if "invalid" in reply:
            allowed = "a verifier that can be imported and called"
            raise InvalidRun([Fault("spec.reward.verifier", self._verifier, f"{allowed} ({reply['invalid']})")])
        if trial is None:
            return
        try:
            error = self.grade(trial, timeout_seconds).error
        except VerifierLost as lost:
            error = str(lost)
        if error:
            shown = shorten(trial.prompt, NUM_SHOWN)
            allowed = f"a verifier that grades the first row, prompt {shown!r} with its reference as completion"
            raise InvalidRun([Fault("spec.reward.verifier", self._verifier, f"{allowed} ({error})")])

    def grade(self, request: GradeRequest, timeout_seconds: float) -> Reward:
        """Return the reward of a request. Raises VerifierLost."""
        name = f"the verifier {self._verifier}"
        reply = self._process.request(
            request.to_list(), timeout_seconds, gone=f"{name} is gone", failure=f"{name} returned no reward"
        )
        if "error" in reply:
            return Reward(None, str(reply["error"]))
        return Reward(None) if reply["reward"] is None else Reward(float(reply["reward"]))

    def end(self) -> None:
        """Kill the process and everything that it started. Harmless when repeated."""
        self._process.end()
