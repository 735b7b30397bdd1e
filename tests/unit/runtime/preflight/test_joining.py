"""The wait for the trainer ranks ends at its deadline and names the ranks that are late."""

import asyncio

import pytest

from scalerl_runtime.preflight.joining import all_started
from scalerl_runtime.preflight.readings import PreflightFailed


async def answer() -> str:
    return "10.0.0.1"


def test_ranks_that_never_start_are_named() -> None:
    async def wait() -> None:
        await all_started([answer(), asyncio.Event().wait(), answer(), asyncio.Event().wait()], 0.05)

    with pytest.raises(PreflightFailed, match=r"no node has started within 0.05 s: 1, 3$"):
        asyncio.run(wait())


def test_the_error_of_a_rank_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("lost")

    async def wait() -> None:
        await all_started([answer(), fail()], 60.0)

    with pytest.raises(ValueError, match="lost"):
        asyncio.run(wait())
