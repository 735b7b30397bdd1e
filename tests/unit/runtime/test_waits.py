import asyncio

import pytest

from scalerl_runtime.waits import DeadlineExceeded, within


async def answer():
    await asyncio.sleep(0)
    return 7


async def fail():
    raise OSError("disk")


def test_result_passes_through():
    assert asyncio.run(within(5.0, "asking", answer())) == 7


def test_error_passes_through():
    with pytest.raises(OSError, match="disk"):
        asyncio.run(within(5.0, "asking", fail()))


def test_deadline_names_the_phase_and_cancels_the_work():
    cancelled = []

    async def hang():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(DeadlineExceeded, match=r"^asking took longer than its deadline of 0\.01 s$") as caught:
        asyncio.run(within(0.01, "asking", hang()))
    assert (caught.value.phase, caught.value.seconds, cancelled) == ("asking", 0.01, [True])


def test_cancellation_is_not_swallowed_when_the_work_is_done_at_that_moment():
    """A background loop that misses its cancellation is waited for without end when the attempt closes."""

    async def main():
        work = asyncio.get_running_loop().create_future()
        waiting = asyncio.create_task(within(5.0, "asking", work))
        await asyncio.sleep(0)
        work.set_result(7)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return waiting.cancelled()

    assert asyncio.run(main())
