"""Reads a run's data and tries its verifiers as the run's start does, for `scalerl validate`. I/O.

Nothing is fetched: the command line sets the hub's offline mode. All of it happens in a thread with a deadline, because
a reader or a verifier that hangs must not keep the command from its answer.
"""

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from scalerl_api import InvalidRun, RLRun
from scalerl_api.reward import ENVIRONMENT
from scalerl_api.status import SourceStatus
from scalerl_runtime.data.datasets import DataUnavailable
from scalerl_runtime.data.demonstrations import load_demonstrations
from scalerl_runtime.data.prompts import Tokenizer
from scalerl_runtime.data.run_data import Data
from scalerl_runtime.deadlines import DeadlineExceeded
from scalerl_runtime.environments.pool import EnvironmentFailed
from scalerl_runtime.hub import is_offline
from scalerl_runtime.process.verifier_start import describe_sources, load_run_data, start_judges
from scalerl_runtime.process.word_tokenizer import WordTokenizer
from scalerl_runtime.rewards.http_judge import JudgeUnavailable
from scalerl_runtime.rewards.pool import VerifierLost
from scalerl_runtime.rewards.sandbox import SandboxUnavailable
from scalerl_runtime.rewards.self_test import SelfTest

MAX_ROWS = 20_000  # of a source; GSM8K's 7,473 take 10 to 23 s on two slow cores (docs/notes/069-sources.md)
SECONDS = 240.0  # for one run
OFFLINE = "OfflineModeIsEnabled"  # in the words of `datasets` about a set that is not in the hub's cache
NOT_HERE = "it is of the hub and not in the hub's cache here, and nothing is fetched"
UNTESTABLE = (
    DataUnavailable,
    DeadlineExceeded,
    EnvironmentFailed,
    JudgeUnavailable,
    SandboxUnavailable,
    VerifierLost,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Consent:
    """Acts that a check may do beyond reading files and running the verifiers of ours."""

    user_code: bool = False
    """Run `python:` functions and `env:` classes."""
    http_judges: bool = False
    """Ask judges behind an URL, which may cost money."""


@dataclass(frozen=True)
class DataReport:
    """The parts that were tested, and those that were not."""

    sources: tuple[SourceStatus, ...] = ()
    untested: tuple[str, ...] = ()


@dataclass(frozen=True)
class LocalModel:
    """The part of a model that reading data needs."""

    tokenizer: Tokenizer
    folder: Path


def check_run_data(run: RLRun, model: LocalModel | None, consent: Consent, *, seconds: float = SECONDS) -> DataReport:
    """Return what the start's self-test finds; `model`: the run's, None: it is not on this machine.

    Raises InvalidRun, as the start does, for data or verifiers that it would refuse.
    """
    skipped = find_skipped(run, consent)
    untested = [f"{name} was not asked or run: {flag} does it" for name, flag in skipped.items()]
    if model is None:
        untested.append("without the model's tokenizer: chat template and lengths of prompts were not tested")
    limited = limit_rows(run, MAX_ROWS, seconds)
    test = _DataTest(limited, model, list(skipped))
    try:
        run_within(seconds, "testing the data", test.run)
    except UNTESTABLE as error:
        words = NOT_HERE if OFFLINE in str(error) else str(error)
        untested.append(f"not tested to its end: {words}" if test.sources else f"its data was not tested: {words}")
    except InvalidRun as error:
        if not is_offline(error):
            raise
        untested.append(f"its data was not tested: {NOT_HERE}")
    cut = [
        f"{each.path}: {each.cut}; the run's start tests a sample of all"
        for each, (_, before) in zip(test.sources, run.spec.data.sources, strict=False)
        if each.cut and (before.num_wanted is None or each.rows < before.num_wanted)
    ]
    return DataReport(tuple(test.sources), (*untested, *cut))


def find_skipped(run: RLRun, consent: Consent) -> dict[str, str]:
    """Return the verifiers of `run` that may not be tried, each with the option that allows it."""
    names = dict.fromkeys(each.verifier for judges in run.spec.judges_by_source().values() for each in judges)
    skipped = {}
    for name in names:
        if name.startswith(("python:", ENVIRONMENT)) and not consent.user_code:
            skipped[name] = "--run-user-code"
        elif name.startswith("http:") and not consent.http_judges:
            skipped[name] = "--ask-judges"
    return skipped


def limit_rows(run: RLRun, max_rows: int, seconds: float) -> RLRun:
    """Return `run` with at most `max_rows` rows of each source, or twice its held-out prompts, and a shorter start."""
    data = run.spec.data
    most = max(max_rows, 2 * data.held_out.prompts, *(2 * (each.held_out or 0) for each in data.train))

    def limited(size: int | None) -> int:
        return most if size is None else min(size, most)

    train = [
        each.model_copy(
            update={
                "size": limited(each.num_wanted),
                "validation": each.validation
                and each.validation.model_copy(update={"size": limited(each.validation.num_wanted)}),
            }
        )
        for each in data.train
    ]
    downstream = [each.model_copy(update={"size": limited(each.num_wanted)}) for each in data.downstream]
    deadlines = run.spec.deadlines.model_copy(update={"start_seconds": min(run.spec.deadlines.start_seconds, seconds)})
    spec = run.spec.model_copy(
        update={"data": data.model_copy(update={"train": train, "downstream": downstream}), "deadlines": deadlines}
    )
    return run.model_copy(update={"spec": spec})


def run_within(seconds: float, what: str, call: Callable[[], T]) -> T:
    """Return the result of `call`, made in a thread that is left behind after `seconds`: then DeadlineExceeded."""
    threads = ThreadPoolExecutor(1, thread_name_prefix="data-check")
    calling = threads.submit(call)
    threads.shutdown(wait=False)
    done, _ = wait([calling], timeout=seconds)
    if not done:
        raise DeadlineExceeded(what, seconds)
    return calling.result()


class _DataTest:
    """Reads the data and tries the verifiers; what it has found so far is in `sources`."""

    def __init__(self, run: RLRun, model: LocalModel | None, skip: Collection[str]):
        self._run = run
        self._model = model
        self._skip = skip
        self._tests: list[SelfTest] = []
        self._data: Data | None = None

    @property
    def sources(self) -> list[SourceStatus]:
        """The data, and the self-tests that have ended; empty while nothing is read."""
        return [] if self._data is None else describe_sources(self._data, tuple(self._tests))

    def run(self) -> None:
        """Do it. Raises as `load_run_data`, `load_demonstrations` and `start_judges`."""
        run = self._run
        if self._model is None:
            spec = run.spec.data.model_copy(update={"template_arguments": {}})  # of a template that is not here
            run = run.model_copy(update={"spec": run.spec.model_copy(update={"data": spec})})
            tokenizer: Tokenizer = WordTokenizer()
            data = load_run_data(run, tokenizer, None)
        else:
            tokenizer = self._model.tokenizer
            data = load_run_data(run, tokenizer, self._model.folder)
        self._data = data
        if run.spec.warm_start is not None:
            load_demonstrations(run, tokenizer, data, np.random.default_rng(0), stop_id=0)
        asyncio.run(self._try_judges(run, data))

    async def _try_judges(self, run: RLRun, data: Data) -> None:
        judges = await start_judges(run, data, self._skip, self._tests.append)
        await judges.close()
