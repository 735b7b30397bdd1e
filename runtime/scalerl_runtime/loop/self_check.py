"""Compares every engine with the trainer after its first weight updates, while the trainer holds still. I/O."""

import asyncio
import logging

from scalerl_api.validation import Fault, InvalidRun
from scalerl_runtime.algorithm.self_check import (
    build_requests,
    build_rows,
    choose_prompts,
    compare,
    describe_check,
    find_mismatch,
)
from scalerl_runtime.deadlines import DeadlineExceeded, all_or_none, first_of, within
from scalerl_runtime.loop.interfaces import Observer, PipelineDeps
from scalerl_runtime.loop.slots import Slot
from scalerl_runtime.loop.syncer import MAX_FAILURES
from scalerl_runtime.types import EngineOutput, GeneratorLost, Prompt, PromptRefused

log = logging.getLogger(__name__)

CHECKS = 2  # of each engine: the first update has the weights of the model's files, the second one those of a step
MAX_ENGINES = 8  # checked at once; the others at the next update
MAX_LOSSES = 3  # consecutive, of engines that are being checked, before the attempt ends


class SelfChecker:
    """The checks of one attempt. It samples only: prompts, seeds, groups and lags of the run are not involved."""

    def __init__(self, deps: PipelineDeps, observer: Observer, stopping: asyncio.Event):
        self._deps = deps
        self._observer = observer
        self._stopping = stopping

    async def check_first(self, version: int) -> None:
        """Wait for an engine that has `version`, the trainer's present one, and check it. Raises as `check_due`."""
        for losses in range(1, MAX_LOSSES + 1):
            slots = await self._wait_updated(version, is_first=True)
            if not slots or await self._check(slots, version):
                return
            if losses == MAX_LOSSES:
                raise GeneratorLost(slots[0].index, f"{losses} engines in a row failed in their self-check")

    async def check_due(self, version: int) -> None:
        """Check the engines that have had fewer than CHECKS checks, at the trainer's present `version`.

        A version that was just published. An engine that is leased to the evaluation of another version, or that is
        lost meanwhile, is checked at a later one. Raises InvalidRun on a mismatch, DeadlineExceeded.
        """
        if self._due(version):
            await self._check(await self._wait_updated(version, is_first=False), version)

    def _due(self, version: int) -> list[Slot]:
        pool = self._deps.pool
        expected = pool.outdated(version)
        return [s for s in pool.ready() if s.num_checks < CHECKS and (s.version == version or s.index in expected)]

    async def _wait_updated(self, version: int, *, is_first: bool) -> list[Slot]:
        seconds = self._deps.run.spec.deadlines
        patience = seconds.start_seconds + (1 + MAX_FAILURES) * seconds.sync_seconds  # the syncer's own come first
        phase = f"waiting for an engine with version {version}, for the self-check"
        return await within(patience, phase, self._select_updated(version, is_first=is_first))

    async def _select_updated(self, version: int, *, is_first: bool) -> list[Slot]:
        """Return the due slots as soon as they have `version`, if `is_first` when one has; none when stopping."""
        pool = self._deps.pool
        while not self._stopping.is_set():
            pool.check()
            count, due = pool.changed.count, self._due(version)
            updated = [slot for slot in due if slot.version == version]
            if updated if is_first else len(updated) == len(due):
                return updated[:MAX_ENGINES]
            await first_of(pool.changed.wait_past(count), self._stopping.wait())
        return []

    async def _check(self, slots: list[Slot], version: int) -> bool:
        """Check `slots`; return whether any could be. Raises InvalidRun on a mismatch."""
        self._report_phase(f"self-check of version {version}")
        sampled = await asyncio.gather(*(self._sample(slot, version) for slot in slots))
        for slot, outputs in zip(slots, sampled, strict=True):
            if outputs:
                await self._compare(slot, outputs, version)
        self._report_phase("")
        return any(sampled)

    def _report_phase(self, detail: str) -> None:
        if not self._stopping.is_set():
            self._observer.on_phase("training", detail)

    async def _sample(self, slot: Slot, version: int) -> list[tuple[Prompt, EngineOutput]]:
        """Return completions of a few prompts; none if the engine is lost or its weights changed meanwhile.

        A prompt that the engine refuses is replaced by another one. Raises InvalidRun if none is left.
        """
        pool = self._deps.pool
        while True:
            train = self._deps.data.train
            prompts = choose_prompts([prompt for prompt in train if prompt.id not in pool.refused])
            if not prompts:
                allowed = f"one prompt that the engine takes; the last one: {[*pool.refused.values()][-1]}"
                raise InvalidRun([Fault("spec.data.train.source", f"all {len(train)} prompts refused", allowed)])
            try:
                found = await all_or_none([self._sample_prompt(slot, prompt, version) for prompt in prompts])
            except PromptRefused:
                continue
            except (GeneratorLost, DeadlineExceeded) as error:
                pool.mark_lost(slot.index, error)
                return []
            pairs = [(prompt, each) for prompt, outputs in zip(prompts, found, strict=True) for each in outputs]
            return pairs if all((output.versions == version).all() for _, output in pairs) else []

    async def _sample_prompt(self, slot: Slot, prompt: Prompt, version: int) -> list[EngineOutput]:
        requests = build_requests(self._deps.run, version, prompt)
        try:
            phase = f"sampling for the self-check of version {version}"
            outputs: list[EngineOutput] = await self._deps.pool.request(slot, prompt, requests, phase)
        except PromptRefused as error:
            self._deps.pool.refuse(prompt, error)
            raise
        return outputs

    async def _compare(self, slot: Slot, sampled: list[tuple[Prompt, EngineOutput]], version: int) -> None:
        deps, restarts = self._deps, slot.restarts
        prompts, outputs = [prompt for prompt, _ in sampled], [output for _, output in sampled]
        rows, owners = build_rows(prompts, outputs, budget=deps.run.spec.trainer.micro_batch_tokens)
        by_rank = await within(
            deps.run.spec.deadlines.train_seconds,
            f"computing the trainer's log-probabilities for the self-check of version {version}",
            deps.fleet.logprobs(rows, version),
        )
        found = compare(rows, owners, by_rank, version=version, generator=slot.index)
        report = found.to_report()
        if report is not None:
            self._observer.on_self_check(report)
        mismatch = find_mismatch(deps.run, found)
        if mismatch is not None:
            raise mismatch
        log.info("%s", describe_check(found))
        deps.pool.record_check(slot, restarts)
