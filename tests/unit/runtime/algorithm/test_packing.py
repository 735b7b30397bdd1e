"""Every sequence once, within the budget, equally many rows per rank; and the two goals on long tails."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl_runtime.algorithm.packing import PackPlan, PackStats, plan_packs

PADDING_GOAL, IMBALANCE_GOAL = 0.03, 0.05  # issue 3


def _indices(plan: PackPlan) -> list[int]:
    return sorted(index for rank in plan.packs for row in rank for index in row)


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), max_size=60),
    budget=st.integers(60, 150),
    ranks=st.integers(1, 6),
    quadratic=st.sampled_from([0.0, 1e-3, 1.0]),
)
def test_every_sequence_is_packed_once_within_the_budget(
    lengths: list[int], budget: int, ranks: int, quadratic: float
) -> None:
    plan = plan_packs(lengths, budget=budget, ranks=ranks, quadratic=quadratic)
    assert _indices(plan) == list(range(len(lengths)))
    assert len(plan.packs) == ranks
    assert len({len(rank) for rank in plan.packs}) == 1
    assert all(sum(lengths[i] for i in row) <= budget for rank in plan.packs for row in rank)
    assert all(list(row) == sorted(row) for rank in plan.packs for row in rank)


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=40), seed=st.integers(0, 99))
def test_stats_are_those_of_the_rows(lengths: list[int], seed: int) -> None:
    ranks, quadratic = 1 + seed % 4, seed / 1000
    plan = plan_packs(lengths, budget=64, ranks=ranks, quadratic=quadratic)
    rows = [[sum(lengths[i] for i in row) for row in rank] for rank in plan.packs]
    work = [[sum(lengths[i] + quadratic * lengths[i] ** 2 for i in row) for row in rank] for rank in plan.packs]
    mean = sum(map(sum, work)) / ranks
    longest, num_rows = max(map(max, rows)), ranks * len(rows[0])
    expected = PackStats(
        imbalance=max(map(sum, work)) / mean - 1,
        straggling=sum(max(column) for column in zip(*work, strict=True)) / mean - 1,
        padding=1 - sum(lengths) / (num_rows * longest),
        unused=1 - sum(lengths) / (num_rows * 64),
    )
    for name in ("imbalance", "straggling", "padding", "unused"):
        assert getattr(plan.stats, name) == pytest.approx(getattr(expected, name), abs=1e-12), name


def test_hand_worked_plan() -> None:
    # 22 tokens, rows of 8, 2 ranks: 2 rows each. Longest first into the emptiest row with room: 6 | 5 | 4 | 3, then
    # the 2s into 3 (5) and 4 (6). Rows are 6, 5, 6, 5; heaviest first with the lagging rank first: 6 6 | 5 5.
    plan = plan_packs([2, 6, 5, 4, 3, 2], budget=8, ranks=2, quadratic=0.0)
    assert plan.packs == (((1,), (2,)), ((3, 5), (0, 4)))
    assert plan.stats == PackStats(imbalance=0.0, straggling=0.0, padding=1 - 5.5 / 6, unused=1 - 5.5 / 8)


def test_hand_worked_imbalance() -> None:
    # One row each of 4 and 2 tokens; work L + L^2 is 20 and 6, its mean 13.
    plan = plan_packs([4, 2], budget=4, ranks=2, quadratic=1.0)
    assert plan.packs == (((0,),), ((1,),))
    assert plan.stats.imbalance == pytest.approx(20 / 13 - 1)
    assert plan.stats.straggling == pytest.approx(20 / 13 - 1)
    assert (plan.stats.padding, plan.stats.unused) == (1 - 3 / 4, 1 - 3 / 4)


def test_exactly_full_rows_are_found() -> None:
    # Emptiest first: 5 + 4 and 5 + 3 leave no room for the last 3. Fullest first: 5 + 5 and 4 + 3 + 3.
    plan = plan_packs([5, 5, 4, 3, 3], budget=10, ranks=1, quadratic=0.0)
    assert sorted(plan.packs[0]) == [(0, 1), (2, 3, 4)]
    assert plan.stats.unused == 0.0


def test_lagging_rank_takes_the_heavier_row() -> None:
    # No two fit in a row. Rank 0 gets the 10, rank 1 the 9; of the next two, rank 1, behind, gets the 6.
    plan = plan_packs([10, 9, 6, 2], budget=10, ranks=2, quadratic=100.0)
    by_rank = [[index for row in rank for index in row] for rank in plan.packs]
    assert by_rank == [[0, 3], [1, 2]]


def test_fewer_sequences_than_ranks_leaves_empty_rows() -> None:
    plan = plan_packs([5, 5], budget=10, ranks=3, quadratic=0.0)
    assert sorted(plan.packs) == [((),), ((0,),), ((1,),)]


def test_no_sequences_give_no_rows() -> None:
    plan = plan_packs([], budget=10, ranks=2, quadratic=0.0)
    assert plan == PackPlan(((), ()), PackStats(0.0, 0.0, 0.0, 0.0))


LONG_TAILS = [
    # what it stands for, sequences, median, sigma, longest, budget
    ("the paper's batch, 14k thinking, rows of two longest", 768, 3000, 0.8, 14336, 32768),
    ("the same in rows barely longer than the longest", 768, 3000, 0.8, 14336, 16384),
    ("one node's share with a heavier tail", 512, 700, 1.2, 14336, 32768),
    ("characters in the quickstart, 24 prompts of 8", 192, 66, 0.4, 256, 2048),
]


@pytest.mark.parametrize(("count", "median", "sigma", "longest", "budget"), [row[1:] for row in LONG_TAILS])
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize("quadratic", [0.0, 1.8e-5])
def test_long_tail_meets_both_goals(
    *, count: int, median: float, sigma: float, longest: int, budget: int, ranks: int, quadratic: float
) -> None:
    drawn = np.random.default_rng(11).lognormal(np.log(median), sigma, count)
    lengths = np.clip(drawn.astype(int), 1, longest).tolist()
    stats = plan_packs(lengths, budget=budget, ranks=ranks, quadratic=quadratic).stats
    assert stats.padding <= PADDING_GOAL
    assert stats.imbalance <= IMBALANCE_GOAL


def test_equal_work_is_preferred_where_equal_rows_are_unbalanced() -> None:
    # One row per rank. Rows of 8 tokens each would do work 42 + 2 * 2 and 8 * 2; the 6 alone makes it 42 and 20.
    lengths = [6, *[1] * 10]
    equal_work = plan_packs(lengths, budget=20, ranks=2, quadratic=1.0)
    assert equal_work.packs[0] == ((0,),)
    equal_rows = plan_packs(lengths, budget=20, ranks=2, quadratic=0.0)
    assert sorted(len(rank[0]) for rank in equal_rows.packs) == [3, 8]


def test_same_input_same_plan() -> None:
    lengths = np.random.default_rng(3).integers(1, 100, 200).tolist()
    plans = {plan_packs(lengths, budget=300, ranks=3, quadratic=0.01) for _ in range(3)}
    assert len(plans) == 1


@pytest.mark.parametrize(
    ("lengths", "budget", "ranks", "quadratic", "said"),
    [
        ([3, 12, 4], 10, 1, 0.0, "sequence 1 has 12 tokens; a row takes 1 to 10"),
        ([3, 4, 0], 10, 1, 0.0, "sequence 2 has 0 tokens; a row takes 1 to 10"),
        ([3], 0, 1, 0.0, "budget is 0"),
        ([3], 10, 0, 0.0, "ranks 0"),
        ([3], 10, 1, -1.0, "quadratic -1.0"),
    ],
)
def test_impossible_is_refused(lengths: list[int], budget: int, ranks: int, quadratic: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan_packs(lengths, budget=budget, ranks=ranks, quadratic=quadratic)
