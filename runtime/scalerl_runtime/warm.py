"""The supervised stage before RL. I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from scalerl_api import RLRun
from scalerl_runtime.algorithm.microbatch import MicroBatch, TrainSequence
from scalerl_runtime.algorithm.schedules import learning_rate
from scalerl_runtime.demonstrations import Demonstration, DemonstrationSource
from scalerl_runtime.step import pack
from scalerl_runtime.trainer import StepResult
from scalerl_runtime.waits import within


class Imitator(Protocol):
    """What the stage needs of the fleet."""

    async def imitate(self, batches: Sequence[Sequence[MicroBatch]], *, learning_rate: float) -> list[StepResult]:
        """One supervised step."""
        ...


@dataclass(frozen=True)
class WarmStep:
    """What one supervised step gave."""

    step: int  # done, from 1
    loss: float  # nats per token


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


async def warm_step(run: RLRun, fleet: Imitator, source: DemonstrationSource, step: int, quadratic: float) -> WarmStep:
    """Do supervised step `step`, counted from 0."""
    spec = run.spec.warm_start
    assert spec is not None, "only a run with a warm start has steps of it"
    packed = pack(
        sequences_of(source.batch(step, spec.batch_size)),
        budget=run.spec.trainer.micro_batch_tokens,
        ranks=run.spec.trainer.ranks,
        quadratic=quadratic,
    )
    rate = learning_rate(step, base=spec.learning_rate, warmup_steps=spec.warmup_steps)
    results = await within(
        run.spec.deadlines.train_seconds,
        f"warm start, step {step + 1}",
        fleet.imitate(packed.batches, learning_rate=rate),
    )
    return WarmStep(step + 1, sum(result.stats.loss for result in results))
