"""Packing: distributes sequences over micro-batches and data-parallel ranks. PURE and deterministic.

A pack is one row: its sequences end to end, each attended by itself, so a row holds no padding token. Rows of unequal
work cost time instead, and the longest row costs memory; `PackStats` reports both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IMBALANCE_GOAL = 0.05  # rank imbalance that is good enough; within it rows of equal length are preferred


@dataclass(frozen=True)
class PackStats:
    """Quality of a plan.

    Each number is a share, 0 is perfect. Work of a sequence of length L is L + quadratic * L**2.
    """

    imbalance: float
    """The busiest rank's work over the ranks' mean, minus 1."""
    straggling: float
    """The same if ranks wait for each other after every micro-batch, as ZeRO-3's gathers make them."""
    padding: float
    """Share of token positions that hold no token, if every row had the length of the plan's longest row: the memory of
    activations is allocated for that one. Rows themselves are not padded."""
    unused: float
    """Share of the token budgets of all packs that holds no token.

    It includes the rounding to equally many packs per rank.
    """


@dataclass(frozen=True)
class PackPlan:
    """packs[rank][micro] holds the indices of the sequences of one row, rising; every rank has equally many rows.

    A row can be empty, as with fewer sequences than ranks. Its rank must still take part in every collective of a
    forward and a backward: it runs a stand-in, one token with no trained position, whose loss is an empty sum.
    """

    packs: tuple[tuple[tuple[int, ...], ...], ...]
    stats: PackStats


def plan_packs(lengths: Sequence[int], *, budget: int, ranks: int, quadratic: float) -> PackPlan:
    """Split sequences into few rows per rank, of equal length and work as far as possible.

    Args:
        lengths: [B] tokens of each sequence, prompt included, >= 1. No sequence gives no rows.
        budget: most tokens of a row.
        ranks: data-parallel ranks, >= 1.
        quadratic: work of attention, per token squared, over that of the rest, per token; >= 0. About layers * d / n
            for a decoder with n parameters, d being heads times head size: 1.8e-5 for 8B.

    Raises:
        ValueError: a sequence is empty or longer than the budget; budget, ranks or quadratic is out of range.
    """
    _check(lengths, budget=budget, ranks=ranks, quadratic=quadratic)
    tokens = np.asarray(lengths, dtype=np.int64)
    work = tokens + quadratic * tokens.astype(np.float64) ** 2
    order = tuple(sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)))
    batch = _PackInput(tokens, work, order, budget, ranks)
    num_rows = -(-int(tokens.sum()) // (budget * ranks))
    while not (plans := _plan_candidates(batch, num_rows * ranks)):
        num_rows += 1
    balanced = [plan for plan in plans if plan.stats.imbalance <= IMBALANCE_GOAL]
    if balanced:
        return min(balanced, key=lambda plan: plan.stats.padding)
    return min(plans, key=lambda plan: plan.stats.imbalance)


def _check(lengths: Sequence[int], *, budget: int, ranks: int, quadratic: float) -> None:
    if budget < 1 or ranks < 1 or quadratic < 0:
        raise ValueError(f"budget is {budget}, ranks {ranks}, quadratic {quadratic}; need >= 1, >= 1, >= 0")
    for index, length in enumerate(lengths):
        if not 1 <= length <= budget:
            raise ValueError(f"sequence {index} has {length} tokens; a row takes 1 to {budget}")


_Numbers = NDArray[np.int64] | NDArray[np.float64]


@dataclass(frozen=True)
class _PackInput:
    tokens: NDArray[np.int64]  # [B]
    work: NDArray[np.float64]  # [B]
    order: tuple[int, ...]  # longest sequence first
    budget: int
    ranks: int


def _plan_candidates(batch: _PackInput, num_packs: int) -> list[PackPlan]:
    """Plans with this many packs, those that exist: of equal rows, of equal work, and of the fullest rows."""
    fills = (_fill_packs(batch, load, num_packs) for load in (batch.tokens, batch.work, -batch.tokens))
    return [_deal_packs(packs, batch) for packs in fills if packs is not None]


def _fill_packs(batch: _PackInput, load: _Numbers, num_packs: int) -> list[list[int]] | None:
    """Longest sequence first into the least loaded pack that has room; None if a sequence fits nowhere.

    With a load that falls with the tokens, that is the fullest pack that has room.
    """
    tokens = batch.tokens
    packs: list[list[int]] = [[] for _ in range(num_packs)]
    filled = np.zeros(num_packs, dtype=np.int64)
    loads = np.zeros(num_packs)
    for index in batch.order:
        open_loads = np.where(filled + tokens[index] <= batch.budget, loads, np.inf)
        pack = int(open_loads.argmin())
        if open_loads[pack] == np.inf:
            return None
        packs[pack].append(index)
        filled[pack] += tokens[index]
        loads[pack] += load[index]
    return packs


def _deal_packs(packs: list[list[int]], batch: _PackInput) -> PackPlan:
    """Deal packs to ranks.

    Packs of similar work form one micro-batch, and the rank with the least work takes the heaviest.
    """
    pack_work = np.array([batch.work[pack].sum() for pack in packs])
    heaviest_first = np.argsort(-pack_work, kind="stable")
    dealt: list[list[int]] = [[] for _ in range(batch.ranks)]
    totals = np.zeros(batch.ranks)
    for start in range(0, len(packs), batch.ranks):
        behind_first = np.argsort(totals, kind="stable")
        for rank, pack in zip(behind_first, heaviest_first[start : start + batch.ranks], strict=True):
            dealt[rank].append(int(pack))
            totals[rank] += pack_work[pack]
    rows = tuple(tuple(tuple(sorted(packs[pack])) for pack in hand) for hand in dealt)
    pack_tokens = np.array([batch.tokens[pack].sum() for pack in packs])
    return PackPlan(rows, _measure(pack_tokens, pack_work[np.array(dealt, dtype=np.int64)], batch.budget))


def _measure(pack_tokens: NDArray[np.int64], dealt_work: NDArray[np.float64], budget: int) -> PackStats:
    """Stats from [packs] tokens and [ranks, micro-batches] work."""
    if not pack_tokens.size:
        return PackStats(0.0, 0.0, 0.0, 0.0)
    mean = dealt_work.sum() / dealt_work.shape[0]
    return PackStats(
        imbalance=float(dealt_work.sum(1).max() / mean - 1),
        straggling=float(dealt_work.max(0).sum() / mean - 1),
        padding=float(1 - pack_tokens.mean() / pack_tokens.max()),
        unused=float(1 - pack_tokens.mean() / budget),
    )
