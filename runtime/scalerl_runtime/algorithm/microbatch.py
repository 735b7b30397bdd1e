"""Training sequences, and one packed row of them as the arrays that a trainer rank works on. PURE.

Only trained positions carry values; the head reads no others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalerl_runtime.types import Experts, Flags, Floats, Ints

PACKED_TOKEN_BYTES = 14  # that a token takes on its way to a rank: its id, its place, its log-probability, its lag
OWN_CHOICE = -1  # in place of an expert: the trainer's router chooses itself


@dataclass(frozen=True)
class TrainSequence:
    """A prompt and its completion with what the loss needs of them; arrays over the T tokens of both."""

    tokens: Ints  # [T] of prompt and completion
    trained: Flags  # [T] True where the token is a target of the loss: completion tokens that were not forced
    logp_gen: Floats  # [T] log-probability (nats) under the generator; read only where trained, finite there
    advantage: float
    weight: float  # of each trained token; the sum of weight * token loss over the batch is its loss
    lag: Ints  # [T] training version less the version that sampled the token, >= 0; read only where trained
    experts: Experts | None = None  # [T - 1, layers, K] that the generator's routers chose; None: not recorded

    def __post_init__(self) -> None:
        if len(self.tokens) == 0 or self.trained[0]:
            raise ValueError(f"a sequence of {len(self.tokens)} tokens cannot train its first token")


@dataclass(frozen=True)
class MicroBatch:
    """N packed tokens of S sequences, M of them trained.

    Pickled it takes 14 bytes a token and not 60: what follows from the other arrays is left out, and what is the same
    for a whole completion is stored once.
    """

    tokens: NDArray[np.int64]  # [N]
    positions: NDArray[np.int64]  # [N] from 0 in each sequence
    cu_seqlens: NDArray[np.int32]  # [S + 1]
    select: NDArray[np.int64]  # [M] position whose hidden state predicts the target
    targets: NDArray[np.int64]  # [M]
    logp_gen: Floats  # [M]
    advantage: Floats  # [M]
    weight: NDArray[np.float64]  # [M]
    completion: NDArray[np.int64]  # [M] which of the S sequences
    lag: NDArray[np.int32]  # [M]
    experts: NDArray[np.int16] | None = None  # [N, layers, K]; OWN_CHOICE where none are recorded; None: nowhere

    @property
    def is_stand_in(self) -> bool:
        """Whether no sequence is in the row: nothing of it is counted."""
        return not self.weight.any()

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the compact form for pickle."""
        completions, first = np.unique(self.completion, return_index=True)
        advantage = np.zeros(len(self.cu_seqlens) - 1, np.float32)
        weight = np.zeros(len(advantage), np.float64)
        advantage[completions], weight[completions] = self.advantage[first], self.weight[first]
        tokens, select = self.tokens.astype(np.int32), self.select.astype(np.int32)
        lag = self.lag.astype(np.int16)
        return _restore, (tokens, self.cu_seqlens, select, self.logp_gen, advantage, weight, lag, self.experts)


def build_micro_batch(sequences: Sequence[TrainSequence]) -> MicroBatch:
    """Pack `sequences` end to end.

    With none, the row is two tokens of weight 0: under ZeRO every rank must run the same number of passes.
    """
    if not sequences:
        zeros = np.zeros(2, np.int32)
        trained = np.array([False, True])
        sequences = [TrainSequence(zeros, trained, zeros.astype(np.float32), advantage=0.0, weight=0.0, lag=zeros)]
    lengths = np.array([len(s.tokens) for s in sequences])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    targets = [np.flatnonzero(s.trained) for s in sequences]
    counts = [len(t) for t in targets]
    where = np.concatenate([start + t for start, t in zip(starts, targets, strict=False)])
    tokens = np.concatenate([s.tokens for s in sequences]).astype(np.int64)
    return MicroBatch(
        tokens=tokens,
        positions=np.concatenate([np.arange(n) for n in lengths]).astype(np.int64),
        cu_seqlens=starts.astype(np.int32),
        select=where - 1,
        targets=tokens[where],
        logp_gen=np.concatenate([s.logp_gen[t] for s, t in zip(sequences, targets, strict=True)]).astype(np.float32),
        advantage=np.repeat([s.advantage for s in sequences], counts).astype(np.float32),
        weight=np.repeat([s.weight for s in sequences], counts).astype(np.float64),
        completion=np.repeat(np.arange(len(sequences)), counts).astype(np.int64),
        lag=np.concatenate([s.lag[t] for s, t in zip(sequences, targets, strict=True)]).astype(np.int32),
        experts=_join_experts(sequences),
    )


def _restore(
    tokens: Ints,
    cu_seqlens: NDArray[np.int32],
    select: Ints,
    logp_gen: Floats,
    advantage: Floats,
    weight: NDArray[np.float64],
    lag: NDArray[np.int16],
    experts: NDArray[np.int16] | None,
) -> MicroBatch:
    """Return the row of its compact form, in the call that pickle makes; `advantage` and `weight` are [S]."""
    starts, lengths = cu_seqlens[:-1].astype(np.int64), np.diff(cu_seqlens)
    wide, places = tokens.astype(np.int64), select.astype(np.int64)
    completion = np.searchsorted(cu_seqlens, places, side="right") - 1
    return MicroBatch(
        tokens=wide,
        positions=np.arange(len(wide)) - np.repeat(starts, lengths),
        cu_seqlens=cu_seqlens,
        select=places,
        targets=wide[places + 1],
        logp_gen=logp_gen,
        advantage=advantage[completion],
        weight=weight[completion],
        completion=completion,
        lag=lag.astype(np.int32),
        experts=experts,
    )


def _join_experts(sequences: Sequence[TrainSequence]) -> NDArray[np.int16] | None:
    """Return the experts of a row. No token is predicted from a sequence's last one, which has none."""
    recorded = next((s.experts for s in sequences if s.experts is not None), None)
    if recorded is None:
        return None
    row = np.full((sum(len(s.tokens) for s in sequences), *recorded.shape[1:]), OWN_CHOICE, dtype=np.int16)
    start = 0
    for sequence in sequences:
        if sequence.experts is not None:
            row[start : start + len(sequence.experts)] = sequence.experts
        start += len(sequence.tokens)
    return row
