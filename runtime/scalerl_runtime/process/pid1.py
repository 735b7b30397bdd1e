"""The init process of a container: forwards signals and reaps children. I/O.

A killed engine or Ray worker leaves children behind. They become children of process 1, which has to wait for them, or
they stay zombies until the pod ends. asyncio waits only for processes that it started itself.
"""

import os
import signal
from collections.abc import Callable
from types import FrameType

SIGNALLED = 128  # a shell's exit code for "ended by signal N" is this plus N


def under_init(main: Callable[[], int]) -> int:
    """Run `main` and return its exit code; as process 1, run it in a child and act as its init."""
    return be_init(main) if os.getpid() == 1 else main()


def be_init(main: Callable[[], int]) -> int:
    """Run `main` in a child, reap every other child meanwhile, and return the child's exit code in both processes.

    Call it before any thread starts.
    """
    signals = (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # a signal that arrives now stays pending
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        return main()

    def forward(number: int, _frame: FrameType | None) -> None:
        os.kill(child, number)

    for number in signals:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else SIGNALLED - code
