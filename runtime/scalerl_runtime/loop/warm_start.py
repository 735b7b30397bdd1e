"""The supervised stage before reinforcement learning. I/O."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from scalerl_api import RLRun
from scalerl_api.rlrun import WarmStartSpec
from scalerl_runtime.algorithm.microbatch import MicroBatch, TrainSequence
from scalerl_runtime.algorithm.results import StepResult
from scalerl_runtime.algorithm.schedules import learning_rate
from scalerl_runtime.algorithm.step import check_finite, pack
from scalerl_runtime.data.demonstrations import Demonstration
from scalerl_runtime.deadlines import within


class SupervisedTrainer(Protocol):
    """The fleet's calls that the stage uses."""

    async def train_supervised(
        self, batches: Sequence[Sequence[MicroBatch]], *, learning_rate: float
    ) -> list[StepResult]:
        """Run one supervised step."""
        ...

    async def reset_optimizer(self) -> None:
        """Reset the optimizer's moments to zero."""
        ...


class DemonstrationBatches(Protocol):
    """Source of the demonstrations."""

    def batch(self, step: int, size: int) -> list[Demonstration]:
        """Return the demonstrations of a step; the same on every call."""
        ...


@dataclass(frozen=True)
class WarmStart:
    """The stage. It can be killed at any time, and continues from its last checkpoint."""

    run: RLRun
    fleet: SupervisedTrainer
    source: DemonstrationBatches
    quadratic: float  # see packing
    save: Callable[[int], Awaitable[None]]
    """Writes a checkpoint after the given number of steps."""
    report_progress: Callable[[str], None]
    """Receives a progress text for people."""

    async def train_from(self, done: int) -> int:
        """Train the steps that remain after `done`; return the number of steps done.

        A checkpoint is written every `checkpoint.everySteps` steps, but not after the last one: the optimizer is reset
        there, and an earlier checkpoint would carry the old moments into RL.
        """
        spec = self.run.spec.warm_start
        if spec is None or done >= spec.steps:
            return done
        began, first = time.monotonic(), done
        while done < spec.steps:
            loss = await self._step(spec, done)
            done += 1
            seconds_per_step = (time.monotonic() - began) / (done - first)
            self.report_progress(f"step {done} of {spec.steps}, loss {loss:.3f}, {seconds_per_step:.2f} s a step")
            if done % self.run.spec.checkpoint.every_steps == 0 and done < spec.steps:
                await self.save(done)
        seconds = self.run.spec.deadlines.train_seconds
        await within(seconds, "forgetting the optimizer", self.fleet.reset_optimizer())
        return done

    async def _step(self, spec: WarmStartSpec, step: int) -> float:
        """Train supervised step `step`, counted from 0; return its loss in nats per token."""
        trainer = self.run.spec.trainer
        packed = pack(
            sequences_of(self.source.batch(step, spec.batch_size)),
            budget=trainer.micro_batch_tokens,
            ranks=trainer.data_parallel_ranks,
            quadratic=self.quadratic,
        )
        rate = learning_rate(step, base=spec.learning_rate, warmup_steps=spec.warmup_steps)
        results = await within(
            self.run.spec.deadlines.train_seconds,
            f"warm start, step {step + 1}",
            self.fleet.train_supervised(packed.batches, learning_rate=rate),
        )
        loss = sum(result.stats.loss for result in results)
        action = self.run.spec.watchdog.non_finite.action
        check_finite({"loss": loss, "grad_norm": results[0].grad_norm}, f"warm start, step {step + 1}", action)
        return loss


def sequences_of(demonstrations: Sequence[Demonstration]) -> list[TrainSequence]:
    """Sequences whose loss is the mean negative log-likelihood over all tokens of all completions."""
    trained = [np.arange(len(d.tokens)) >= d.loss_from for d in demonstrations]
    weight = 1.0 / sum(int(t.sum()) for t in trained)
    return [
        TrainSequence(
            tokens=d.tokens,
            trained=t,
            logp_gen=np.zeros(len(d.tokens), dtype=np.float32),
            advantage=0.0,
            weight=weight,
            lag=np.zeros(len(d.tokens), dtype=np.int32),
        )
        for d, t in zip(demonstrations, trained, strict=True)
    ]
