"""Starts the run's verifier and tries it on rows of every source, before Ray and engines. I/O."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack

from scalerl_api import RLRun
from scalerl_runtime.data.run_data import Data
from scalerl_runtime.deadlines import within
from scalerl_runtime.rewards.self_test import TestedSource, test_verifiers
from scalerl_runtime.rewards.verifier import Verifier, first_requests, make_verifier


async def start_verifier(run: RLRun, data: Data) -> Verifier:
    """Return the run's verifier, which has judged rows of every source as expected.

    Raises InvalidRun, VerifierLost, JudgeUnavailable, SandboxUnavailable, DeadlineExceeded; no process is left then.
    """
    seconds = run.spec.deadlines.start_seconds
    starting = asyncio.to_thread(make_verifier, run, first_requests(data))
    verifier = await within(seconds, "starting the verifier", starting)
    share, seed = run.spec.data.max_bad_share, run.spec.seed
    async with AsyncExitStack() as on_failure:
        on_failure.push_async_callback(verifier.close)
        testing = test_verifiers(verifier, list(list_sources(run, data)), max_bad_share=share, seed=seed)
        await within(seconds, "testing the verifier", testing)
        on_failure.pop_all()
    return verifier


def list_sources(run: RLRun, data: Data) -> Iterator[TestedSource]:
    """Yield the prompts of every training source, its validation set, and every downstream set."""
    spec = run.spec.data
    for index, source in enumerate(spec.train):
        name, path = source.label, spec.train_path(index)
        yield TestedSource(path, name, [prompt for prompt in data.train if prompt.source == name])
        if source.validation is not None:
            held_out = [prompt for prompt in data.held_out if prompt.source == name]
            yield TestedSource(f"{path}.validation", name, held_out)
    for index, each in enumerate(spec.downstream):
        yield TestedSource(f"spec.data.downstream[{index}]", each.name, data.downstream[each.name])
