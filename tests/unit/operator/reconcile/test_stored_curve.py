"""The stored part of a run's curve: its size, its points, and that they are original measurements."""

from collections.abc import Callable
from typing import Any

import pytest

from scalerl_api.wire import EvalPoint, StepRecord
from scalerl_operator.local import run_folder as records
from scalerl_operator.local.run_folder import RunFolder
from scalerl_operator.reconcile.stored_curve import (
    MAX_DOWNSTREAM,
    MAX_HELD_OUT,
    MAX_STEPS,
    StoredCurve,
    extend_curve,
    format_curve,
    parse_curve,
    thin,
)
from scalerl_operator.run.step_panels import DRAWN

Point = Callable[..., EvalPoint]


def record(step: int, **values: float) -> StepRecord:
    given = {"entropy": 0.123456789, "learning_rate": 1e-5, **values}
    return StepRecord(step=step, time=1.5, attempt=1, compute_gpu_hours=0.25 * step, reward=0.5, values=given)


def test_a_short_run_is_kept_whole(finished_folder: RunFolder) -> None:
    evals, steps = records.load_evals(finished_folder), records.load_steps(finished_folder)
    curve = extend_curve(StoredCurve(), evals, steps[-1])
    assert curve.evals == evals
    assert len(evals) == 75  # 3 sets at step 0, 10, .. 240
    assert not curve.is_full
    assert parse_curve(format_curve(curve)) == curve


def test_a_step_keeps_what_a_report_draws_in_few_digits() -> None:
    (kept,) = extend_curve(StoredCurve(), [], record(7, grad_norm=123.456789)).steps
    assert (kept.step, kept.reward, kept.compute_gpu_hours) == (7, 0.5, 1.75)
    assert kept.values == {"entropy": 0.12346, "grad_norm": 123.46}


def test_a_later_attempt_replaces_what_it_measures_again(point: Point) -> None:
    before = StoredCurve((point(0), point(1), point(2)), (record(20),))
    again = point(2, attempt=2, pass_rate=0.4)
    curve = extend_curve(before, [again], record(20, entropy=0.5))
    assert curve.evals == (point(0), point(1), again)
    assert [each.values["entropy"] for each in curve.steps] == [0.5]


@pytest.mark.parametrize("downstream", [0, 1, 20])
def test_the_largest_curve_fits_into_a_config_map(point: Point, downstream: int) -> None:
    """Of more evaluations than are kept, of as many sets as there can be, with long names: far below 1 MB."""
    curve = StoredCurve()
    names = ["held_out", *(f"{'d' * 50}{number}" for number in range(downstream))]
    exact: dict[str, Any] = {"pass_rate": 1 / 3, "mean_tokens": 1e5 / 7, "entropy": 1 / 7, "compute_gpu_hours": 1e5 / 7}
    counts = {name: MAX_HELD_OUT + 50 if name == "held_out" else MAX_DOWNSTREAM // downstream + 5 for name in names}
    evals = [point(step, dataset=name, **exact) for name in names for step in range(counts[name])]
    curve = extend_curve(curve, evals, None)
    for step in range(MAX_STEPS + 5):
        curve = extend_curve(curve, [], record(step, **dict.fromkeys(DRAWN, 1e6 / 7)))
    own = [each for each in curve.evals if each.dataset == "held_out"]
    assert (len(own), len(curve.steps)) == (MAX_HELD_OUT, MAX_STEPS)
    assert curve.is_full
    assert all(each.pass_rate == 1 / 3 for each in curve.evals), "a measurement stays what it was"
    assert {each.dataset for each in curve.evals} == set(names)
    size = sum(map(len, format_curve(curve).values()))
    assert size < 200_000, size


@pytest.mark.parametrize("at_once", [True, False], ids=["whole at once", "one by one"])
def test_thinning_leaves_ends_and_no_gap(at_once: bool) -> None:
    """1,000 even places in 50: 20.4 apart on average, and none more than about twice that, however they came."""
    if at_once:
        kept = thin(range(1000), 50, float)
    else:
        kept = ()
        for place in range(1000):
            kept = thin([*kept, place], 50, float)
    assert (len(kept), kept[0], kept[-1]) == (50, 0, 999)
    gaps = [b - a for a, b in zip(kept, kept[1:], strict=False)]
    assert max(gaps) <= 45, gaps


def test_little_is_not_thinned() -> None:
    assert thin([], 5, float) == ()
    assert thin([1, 2, 3], 3, float) == (1, 2, 3)
    assert thin([1, 2, 9, 10], 3, float) == (1, 9, 10)  # 2's neighbours are 8 apart as 9's are: the earlier goes


def test_what_a_newer_operator_added_is_passed_over_and_what_is_torn_is_left_out(point: Point) -> None:
    line = point(3).model_dump_json(by_alias=True)
    text = line[:-1] + ', "novel": 1}\n' + line[:20] + "\n"
    assert parse_curve({"evals.jsonl": text}) == StoredCurve((point(3),))
    assert parse_curve({}) == StoredCurve()
