"""Results of an optimizer step and of a weight update. PURE."""

from dataclasses import dataclass

from scalerl_runtime.algorithm.loss import LossStats
from scalerl_runtime.types import Floats, Ints


@dataclass(frozen=True)
class StepResult:
    """Result of one optimizer step on one rank."""

    stats: LossStats  # this rank's sums
    grad_norm: float  # of the whole gradient, before clipping; the same on every rank
    seconds: float
    tokens: int  # packed tokens of this rank, prompts included
    logp: Floats  # [n] of the first n trained tokens, n <= MISMATCH_TOKENS: under the trainer, before the update
    logp_gen: Floats  # [n] under the generator
    lag: Ints  # [n] in steps


@dataclass(frozen=True)
class SyncReport:
    """Duration and size of one weight update."""

    version: int
    num_bytes: int
    gather_seconds: float  # copying the weights into buckets, between two steps of the trainer
    send_seconds: float  # generators keep generating meanwhile
    stall_seconds: float  # longest time for which an engine made no token
