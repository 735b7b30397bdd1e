"""An event loop on virtual time: a wait for a timer is over at once, and a wait without one is an error. I/O."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

THREAD_SECONDS = 30.0  # for a thread to be scheduled on a busy machine; waited out only by a run that fails


class LeapingSelector(selectors.DefaultSelector):
    """A selector that never waits: it advances the clock to the next timer."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now; raise AssertionError if only a thread could wake the loop and none does."""
        if timeout is None:  # the one thread that may wake it is that of its executor, at the end
            woken = super().select(THREAD_SECONDS)
            assert woken, "every task waits, and no timer can wake one"
            return woken
        self.now += timeout
        return super().select(0)


class Inline(ThreadPoolExecutor):
    """An executor that runs the call inline: the virtual clock must not advance meanwhile."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Return the finished call."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 # the caller gets it from the future
            future.set_exception(error)
        return future


def make_loop() -> asyncio.AbstractEventLoop:
    """Return a loop whose clock starts at 0 s."""
    selector = LeapingSelector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign] # the loop offers no other way to set its clock
    loop.set_default_executor(Inline(1))
    return loop


def play(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end on virtual time; remaining tasks are cancelled, as at a process's end."""
    with asyncio.Runner(loop_factory=make_loop) as runner:
        return runner.run(coroutine)
