"""Loads a run's data, starts its judges and tries them on rows of every source, before Ray and engines. I/O."""

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from scalerl_api import RLRun
from scalerl_api.status import SelfTestStatus, SourceStatus
from scalerl_runtime.data.prompts import Tokenizer
from scalerl_runtime.data.run_data import Data, load_data
from scalerl_runtime.deadlines import within
from scalerl_runtime.environments.start import Environments, start_environments
from scalerl_runtime.models.source import vocab_size
from scalerl_runtime.rewards.references import build_reference
from scalerl_runtime.rewards.self_test import SelfTest, TestedSource, test_verifiers
from scalerl_runtime.rewards.verifier import Verifier, first_requests, make_verifier


@dataclass(frozen=True)
class Judges:
    """The run's verifiers and environments with their processes started, and what they were tried on."""

    verifier: Verifier
    environments: Environments
    self_tests: tuple[SelfTest, ...]

    async def close(self) -> None:
        """End every process."""
        await self.verifier.close()
        await asyncio.to_thread(self.environments.close)


def load_run_data(run: RLRun, tokenizer: Tokenizer, model: Path | None) -> Data:
    """Return the prompts of `run`, whose model is in the folder `model`; None: elsewhere. Raises as `load_data`."""
    recipe, rows = run.spec.resolved_recipe(), vocab_size(model) if model is not None else None
    return load_data(run, recipe, tokenizer, run.spec.seed, vocab_size=rows, build_reference=build_reference)


async def start_judges(
    run: RLRun, data: Data, skip: Collection[str] = (), on_result: Callable[[SelfTest], None] = lambda _: None
) -> Judges:
    """Return the run's judges, which have judged rows of every source as expected.

    Args:
        run, data: with its sources.
        skip: verifiers and environments that are left out.
        on_result: called with each result as it comes; a later error does not take it back.

    Raises InvalidRun, VerifierLost, JudgeUnavailable, SandboxUnavailable, EnvironmentFailed, DeadlineExceeded; no
    process is left then.
    """
    seconds = run.spec.deadlines.start_seconds
    share, seed = run.spec.data.max_bad_share, run.spec.seed
    async with AsyncExitStack() as on_failure:
        playing = asyncio.to_thread(start_environments, run, data.prompts, skip)
        environments = await within(seconds, "starting the environments", playing)
        on_failure.callback(environments.close)
        starting = asyncio.to_thread(make_verifier, run, first_requests(data), skip)
        verifier = await within(seconds, "starting the verifier", starting)
        on_failure.push_async_callback(verifier.close)
        sources = list(list_sources(run, data))
        tests: list[SelfTest] = []

        def keep(result: SelfTest) -> None:
            tests.append(result)
            on_result(result)

        for each in sources:
            if each.prompts and each.name in environments.by_source:
                label = environments.by_source[each.name].label
                keep(SelfTest(each.path, label, 1, 0, "one empty turn was played"))
        testing = test_verifiers(verifier, sources, max_bad_share=share, seed=seed, on_result=keep)
        await within(seconds, "testing the verifier", testing)
        on_failure.pop_all()
    return Judges(verifier, environments, tuple(tests))


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


def describe_sources(data: Data, tests: Collection[SelfTest]) -> list[SourceStatus]:
    """Return what was read of every source, with its self-tests."""
    return [
        SourceStatus(
            path=each.path,
            name=each.label,
            rows=each.num_read,
            bad=each.num_bad,
            cut=each.cut,
            train=each.num_train,
            held_out=each.num_held_out,
            duplicates=each.num_duplicates,
            self_tests=[
                SelfTestStatus(verifier=test.judge, rows=test.num_rows, failed=test.num_failed, note=test.note)
                for test in tests
                if test.path == each.path
            ],
        )
        for each in data.sources
    ]
