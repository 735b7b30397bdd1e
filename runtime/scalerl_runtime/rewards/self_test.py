"""Tries every verifier on rows of every source before Ray and engines start. I/O."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass

import numpy as np

from scalerl_api.validation import Fault, InvalidRun, shorten
from scalerl_runtime.rewards.references import describe_reading
from scalerl_runtime.rewards.trials import build_trials
from scalerl_runtime.rewards.verifier import Judge, Verifier, build_request
from scalerl_runtime.types import Prompt, Reward

log = logging.getLogger(__name__)

FIRST_ROWS = (
    64  # of a source; twice as many each time that more of them fail than may: a small sample refuses by chance
)
MOST_ROWS = 1024
HOPELESS_SHARE = 0.5  # no larger sample would have an acceptable share
NUM_CALLS = 8  # rows that a user's function grades
NUM_NAMED = 3
NUM_SHOWN = 100  # characters of a text in a message
CHECKED = ("math", "choice", "reasoning_gym", "code")  # ours: a row has answers that must be right and wrong
AT_ONCE = 32  # rows that are tried at once


@dataclass(frozen=True)
class TestedSource:
    """The prompts of one source."""

    path: str  # in the spec
    name: str  # as its prompts carry it
    prompts: Sequence[Prompt]


@dataclass(frozen=True)
class SelfTest:
    """How one verifier judged the rows of one source."""

    path: str  # of the source in the spec
    judge: str  # label of the verifier
    num_rows: int  # that were tried
    num_failed: int
    note: str = ""  # remark for a person; empty: none


async def test_verifiers(
    verifier: Verifier,
    sources: Sequence[TestedSource],
    *,
    max_bad_share: float,
    seed: int,
    on_result: Callable[[SelfTest], None],
) -> None:
    """Call `on_result` with how each verifier judged a sample of each source.

    Raises InvalidRun if it misjudges more than `max_bad_share` of the sample.

    A sample has FIRST_ROWS rows or all, and MOST_ROWS at most. Raises JudgeUnavailable for a judge that is down.
    """
    for source in sources:
        if source.prompts:
            order = np.random.default_rng([seed, 5]).permutation(len(source.prompts))
            rows = [source.prompts[index] for index in order[:MOST_ROWS]]
            for judge in verifier.judges_of(source.name):
                on_result(await _test_judge(judge, source, rows, max_bad_share))


async def _test_judge(judge: Judge, source: TestedSource, rows: Sequence[Prompt], max_bad_share: float) -> SelfTest:
    first = source.prompts[0]
    await judge.backend.check(build_request(first, first.answer))
    kind = judge.verifier.partition(":")[0]
    if kind == "python":
        return await _call_function(judge, source, rows[:NUM_CALLS])
    if kind in CHECKED:
        return await _try_rows(judge, source, rows, max_bad_share)
    return SelfTest(source.path, judge.label, 1, 0, "one question is answered with a score")


async def _try_rows(judge: Judge, source: TestedSource, rows: Sequence[Prompt], max_bad_share: float) -> SelfTest:
    """Try rows until few enough of them fail, or all are tried."""
    words: list[str] = []
    faults: list[Fault] = []
    while len(words) < len(rows):
        sample = rows[len(words) : max(FIRST_ROWS, 2 * len(words))]
        found = await _each(sample, lambda prompt: _try_row(judge, prompt))
        words += found
        faults += [_name_row(source, prompt, why) for prompt, why in zip(sample, found, strict=True) if why]
        share = len(faults) / len(words)
        if share <= max_bad_share or share > HOPELESS_SHARE:
            break
    name = f"{source.name or source.path} by {judge.label}"
    if len(faults) > max_bad_share * len(words):
        summary = f"{len(faults)} of {len(words)} rows of {name} fail the self-test"
        allowed = f"a share of at most {max_bad_share:g}; the first rows follow"
        raise InvalidRun([Fault("spec.data.maxBadShare", summary, allowed), *faults[:NUM_NAMED]])
    for fault in faults:
        log.warning("self-test of %s: %s", name, fault)
    log.info("self-test of %s: %d of %d rows as expected", name, len(words) - len(faults), len(words))
    return SelfTest(source.path, judge.label, len(words), len(faults))


async def _each(prompts: Sequence[Prompt], call: Callable[[Prompt], Coroutine[None, None, str]]) -> list[str]:
    """Return the results in order; AT_ONCE calls run at once."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(prompt: Prompt) -> str:
        async with turns:
            return await call(prompt)

    return list(await asyncio.gather(*(one(prompt) for prompt in prompts)))


async def _try_row(judge: Judge, prompt: Prompt) -> str:
    """Return why a row fails; empty: it does not."""
    try:
        trials = build_trials(judge.verifier, prompt.answer)
    except ValueError as error:
        return f"its reference cannot be read ({error})"
    return await _try_right(judge, prompt, trials.right) or await _try_wrong(judge, prompt, trials.wrong)


async def _try_right(judge: Judge, prompt: Prompt, answers: Sequence[str]) -> str:
    for answer in answers:
        reward = await judge.backend.grade(build_request(prompt, answer))
        if reward.error:
            return f"the verifier fails for {_show(answer)}: {reward.error}"
        if reward.reward != 1.0:
            reading = describe_reading(judge.verifier, answer)
            return f"its own reference is not right: {_show(answer)}, {reading}, gets {_number(reward)}"
    return ""


async def _try_wrong(judge: Judge, prompt: Prompt, answers: Sequence[str]) -> str:
    for answer in answers:
        reward = await judge.backend.grade(build_request(prompt, answer))
        if reward.error:
            return f"the verifier fails for {_show(answer)}: {reward.error}"
        if reward.reward is not None and reward.reward > 0.0:
            return f"a wrong answer is right: {_show(answer)} gets {_number(reward)}"
    return ""


async def _call_function(judge: Judge, source: TestedSource, rows: Sequence[Prompt]) -> SelfTest:
    """Call a user's function with the reference and with nothing; raise InvalidRun if it fails for each row."""
    pairs = []
    for prompt in rows:
        pairs.append([await judge.backend.grade(build_request(prompt, answer)) for answer in (prompt.answer, "")])
    for index, answer in enumerate(("its reference", "an empty completion")):
        if all(pair[index].error for pair in pairs):
            found = [
                _name_row(source, prompt, f"{answer} gets no reward: {pair[index].error}")
                for prompt, pair in zip(rows, pairs, strict=True)
            ]
            summary = f"{len(rows)} of {len(rows)} rows of {source.name or source.path} get no reward for {answer}"
            raise InvalidRun([Fault(source.path, summary, "a function that returns numbers"), *found[:NUM_NAMED]])
    note = ""
    failed = [error for pair in pairs for error in [pair[0].error or pair[1].error] if error]
    if failed:
        log.warning("self-test of %s: it failed for %d of %d rows: %s", judge.label, len(failed), len(rows), failed[0])
    elif all(pair[0].reward == pair[1].reward for pair in pairs):
        note = "the reference and an empty completion get the same reward on each of"
        note = f"{note} {len(rows)} rows ({_number(pairs[0][0])})"
        log.warning("self-test of %s: %s", judge.label, note)
    return SelfTest(source.path, judge.label, len(rows), len(failed), note)


def _name_row(source: TestedSource, prompt: Prompt, why: str) -> Fault:
    found = f"row {prompt.id + 1}, prompt {_show(prompt.text)}, reference {_show(prompt.answer)}"
    return Fault(source.path, found, why)


def _number(reward: Reward) -> str:
    return "no reward" if reward.reward is None else f"{reward.reward:+g}"


def _show(text: str) -> str:
    return repr(shorten(text, NUM_SHOWN))
