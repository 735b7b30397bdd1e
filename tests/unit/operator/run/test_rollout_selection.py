"""Which stored completions are searched and shown, and the prompts' pass rates."""

from dataclasses import replace

import pytest

from scalerl_api.rollouts import RolloutFileName
from scalerl_operator.run.prompt_rates import compute_prompt_rates
from scalerl_operator.run.rollout_selection import (
    Counts,
    RolloutQuery,
    RowKey,
    choose_evenly,
    choose_extremes,
    choose_files,
    choose_rows,
    choose_shown,
    count,
    find_place,
)

NAMES = [RolloutFileName(step, dataset) for step in (20, 3, 100) for dataset in (None, "held_out", "aime")]


@pytest.mark.parametrize(
    ("query", "files"),
    [
        (RolloutQuery(), [RolloutFileName(100)]),
        (RolloutQuery(step=3), [RolloutFileName(3)]),
        (RolloutQuery(step=4), []),
        (RolloutQuery("aime"), [RolloutFileName(100, "aime")]),
        (RolloutQuery(prompt=5), [RolloutFileName(3), RolloutFileName(20), RolloutFileName(100)]),
        (RolloutQuery(prompt=5, step=20), [RolloutFileName(20)]),
        (RolloutQuery("other", prompt=5), []),
        (RolloutQuery(source="code"), [RolloutFileName(3), RolloutFileName(20), RolloutFileName(100)]),
        (RolloutQuery(source="code", step=20), [RolloutFileName(20)]),
    ],
)
def test_files(query: RolloutQuery, files: list[RolloutFileName]) -> None:
    assert choose_files(NAMES, query) == files


def key(step: int, prompt: int, sample: int, reward: float | None) -> RowKey:
    return RowKey(RolloutFileName(step), 10 * prompt + sample, prompt, sample, reward)


KEYS = [key(7, prompt, sample, reward) for prompt in (1, 2) for sample, reward in enumerate((1.0, -1.0, None, 0.0))]


def test_rows_are_chosen_by_grade_and_the_first_of_each_prompt_comes_first() -> None:
    wrong = choose_rows(KEYS, RolloutQuery(grade="wrong"))
    assert [(each.prompt_id, each.sample) for each in wrong] == [(1, 1), (2, 1), (1, 3), (2, 3)]
    right = choose_rows(KEYS, RolloutQuery(prompt=2, grade="right"))
    assert [(each.prompt_id, each.sample) for each in right] == [(2, 0)]
    assert len(choose_rows(KEYS, RolloutQuery())) == 8
    assert count(KEYS) == Counts(passed=2, graded=6, completions=8)


def test_only_the_newest_steps_are_searched_for_a_source() -> None:
    names = [RolloutFileName(step) for step in range(30)]
    assert choose_files(names, RolloutQuery(source="code")) == names[-8:]


MIXED = [
    RowKey(RolloutFileName(step), row, 10 * row, 0, reward, source)
    for step, source, row, reward in [
        (4, "code", 0, 1.0),
        (5, "code", 0, -1.0),
        (5, "math", 1, 1.0),
        (6, "math", 1, 1.0),
    ]
]


@pytest.mark.parametrize(
    ("query", "steps"),
    [
        (RolloutQuery(source="math"), [6]),
        (RolloutQuery(source="code"), [5]),
        (RolloutQuery(source="code", grade="right"), [5]),
        (RolloutQuery(source="code", prompt=0), [4, 5]),
        (RolloutQuery(source="math", prompt=0), []),
        (RolloutQuery(source="sums"), []),
        (RolloutQuery(), [4, 5, 5, 6]),
    ],
)
def test_the_newest_step_that_has_the_source_is_shown(query: RolloutQuery, steps: list[int]) -> None:
    assert [key.file.step for key in find_place(MIXED, query)] == steps


def test_sources_of_a_mixture_take_turns_in_what_is_shown() -> None:
    keys = [replace(key(7, prompt, 0, reward), source="sums") for prompt in (1, 2, 3) for reward in (1.0, -1.0)]
    keys += [replace(key(7, prompt, 0, reward), source="code") for prompt in (11, 12) for reward in (1.0, -1.0)]
    right = choose_rows(keys, RolloutQuery(grade="right"))
    assert [each.prompt_id for each in right] == [1, 11, 2, 12, 3]
    for found in choose_extremes(keys, 4):
        assert [each.prompt_id for each in found] == [1, 11, 2, 12]


def test_of_many_steps_evenly_spaced_ones_are_shown() -> None:
    rows = choose_rows([key(step, 1, sample, 1.0) for step in range(9) for sample in (0, 1)], RolloutQuery(prompt=1))
    assert [(each.file.step, each.sample) for each in choose_shown(rows, 3)] == [(0, 0), (4, 0), (8, 0)]
    assert [(each.file.step, each.sample) for each in choose_shown(rows[:3], 9)] == [(0, 0), (1, 0), (2, 0)]


@pytest.mark.parametrize(
    ("limit", "chosen"), [(1, [9]), (2, [0, 9]), (4, [0, 3, 6, 9]), (10, list(range(10))), (99, list(range(10)))]
)
def test_evenly(limit: int, chosen: list[int]) -> None:
    assert choose_evenly(list(range(10)), limit) == chosen


def test_pass_rates_of_prompts_by_hand() -> None:
    keys = [*KEYS, key(9, 1, 0, 1.0), key(9, 2, 0, -1.0), key(9, 3, 0, None)]
    second, first = compute_prompt_rates(keys, {1: "one", 2: "two"})
    assert (first.prompt_id, first.text, second.prompt_id) == (1, "one", 2), "the lowest newest rate first"
    assert [(point.step, point.passed, point.graded) for point in first.points] == [(7, 1, 3), (9, 1, 1)]
    assert (first.mean, first.completions) == (0.5, 4)
    assert second.points[-1].rate == 0.0


def test_extremes_are_of_the_hardest_prompts_first_and_each_prompt_once() -> None:
    keys = [
        *(key(9, 1, sample, reward) for sample, reward in enumerate((1.0, 1.0, -1.0))),  # solved twice of three times
        *(key(9, 2, sample, reward) for sample, reward in enumerate((-1.0, -1.0, 1.0))),  # once
        *(key(9, 3, sample, reward) for sample, reward in enumerate((-1.0, -0.5, None))),  # never
        key(9, 4, 0, 0.5),
    ]
    best, worst = choose_extremes(keys, 3)
    assert [(each.prompt_id, each.sample) for each in best] == [(2, 2), (1, 0), (4, 0)]
    assert [(each.prompt_id, each.sample) for each in worst] == [(3, 0), (2, 0), (1, 2)]
    assert choose_extremes([key(9, 1, 0, None)], 3) == ([], [])
