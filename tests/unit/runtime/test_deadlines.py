import asyncio

import pytest

from scalerl_runtime.deadlines import DeadlineExceeded, PeerDied, while_alive, within


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
    """If a background loop missed its cancellation, the close of the attempt would wait for ever."""

    async def main():
        work = asyncio.get_running_loop().create_future()
        waiting = asyncio.create_task(within(5.0, "asking", work))
        await asyncio.sleep(0)
        work.set_result(7)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return waiting.cancelled()

    assert asyncio.run(main())


def test_a_dead_peer_is_not_waited_for():
    """vLLM never completes a call to a dead engine core: the call is cancelled, and the error names the peer."""
    cancelled = []

    async def hang():
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    looks = iter([False, False, True])
    with pytest.raises(PeerDied, match="^the engine died before it answered$"):
        asyncio.run(while_alive(hang(), lambda: next(looks), "the engine", poll_seconds=0.001))
    assert (cancelled, list(looks)) == ([True], [])


def test_a_reply_counts_even_if_the_peer_died():
    assert asyncio.run(while_alive(answer(), lambda: True, "the engine")) == 7
    with pytest.raises(OSError, match="disk"):
        asyncio.run(while_alive(fail(), lambda: True, "the engine"))


def test_a_timeout_on_a_running_peer_cancels_the_call():
    async def scenario():
        asked = asyncio.get_running_loop().create_future()
        with pytest.raises(DeadlineExceeded, match="asking"):
            await within(0.01, "asking", while_alive(asked, lambda: False, "the engine", poll_seconds=0.001))
        return asked.cancelled()

    assert asyncio.run(scenario())
