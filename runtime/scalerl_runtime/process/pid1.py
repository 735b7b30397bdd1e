"""A container's first process: passes signals on, and buries the dead. I/O.

Engines and Ray's workers that are killed leave children behind; those become children of process 1, which has to wait
for them, or they stay as zombies until the pod ends. asyncio waits only for what it has started itself.
"""

import os
import signal
from collections.abc import Callable
from types import FrameType

SIGNALLED = 128  # a shell's exit code for "ended by signal N" is this plus N


def under_init(main: Callable[[], int]) -> int:
    """Return `main()`'s exit code; as process 1 run it in a child, and be its init."""
    return be_init(main) if os.getpid() == 1 else main()


def be_init(main: Callable[[], int]) -> int:
    """Run `main` in a child and return its exit code there, and here; meanwhile reap every other child.

    To be called before there are threads.
    """
    signals = (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # one that comes now waits until somebody takes it
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        return main()

    def pass_on(number: int, _frame: FrameType | None) -> None:
        os.kill(child, number)

    for number in signals:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else SIGNALLED - code
