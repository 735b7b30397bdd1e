"""Records as values: nothing is lost, nothing counts twice."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from scalerl_api import RLRun
from scalerl_api.evaluations import list_datasets, merge_evals, surviving
from scalerl_api.rollouts import RolloutFileName, parse_name
from scalerl_api.wire import (
    HELD_OUT,
    Checkpoint,
    EvalPoint,
    Progress,
    StepRecord,
    Termination,
    is_source_dataset,
    source_dataset,
    source_of,
)
from scalerl_operator.forecast import Forecast, Rival
from scalerl_operator.run.evals import merge_steps, next_index, parse_lines
from scalerl_operator.run.forecast_log import ForecastLine, find_halfway, match_forecasts, parse_forecasts
from scalerl_operator.run.progress import budget_gpu_hours, close_progress, compute_unit, eta_seconds

Point = Callable[..., EvalPoint]


def record(step: int, attempt: int = 1, **values: object) -> StepRecord:
    given = {"step": step, "time": 5.0, "attempt": attempt, "compute_gpu_hours": step / 10, "reward": 0.0}
    return StepRecord.model_validate({**given, "values": {}, **values})


def test_a_line_cut_by_a_crash_is_left_out(point: Point) -> None:
    whole = point(3).model_dump_json(by_alias=True)
    found, bad = parse_lines(EvalPoint, [whole, whole[:40], "", point(4).model_dump_json(by_alias=True)])
    assert [each.index for each in found] == [3, 4]
    assert bad == 1


def test_the_latest_attempt_wins(point: Point) -> None:
    lost, again = point(2, attempt=1, pass_rate=0.4), point(5, step=20, attempt=2, pass_rate=0.5)
    early, other = point(1), point(7, step=20, dataset="aime")
    assert merge_evals([again, early], [lost, other]) == (early, again, other)


def test_a_sources_set_is_no_downstream_set() -> None:
    assert source_dataset("math") == "held_out.math"
    assert is_source_dataset("held_out.math")
    assert source_of("held_out.math") == "math"
    assert not any(map(is_source_dataset, (HELD_OUT, "math", "held-out")))
    name = RolloutFileName(100, "held_out.code-2")
    assert parse_name(str(name)) == name


def test_sets_are_listed_from_the_pooled_one_to_the_downstream_ones(point: Point) -> None:
    evals = [point(1, dataset=each) for each in ("aime-24", "held_out.math", "zebra", HELD_OUT, "held_out.code")]
    assert list_datasets(evals) == [HELD_OUT, "held_out.code", "held_out.math", "aime-24", "zebra"]


def test_the_surviving_points_are_those_of_one_set(point: Point) -> None:
    lost = point(3, step=30, compute_gpu_hours=3.0, dataset="held_out.math")
    kept = [
        point(1, step=10, compute_gpu_hours=1.0, dataset="held_out.math"),
        point(5, step=20, compute_gpu_hours=3.5, dataset="held_out.math", attempt=2),
    ]
    assert surviving([kept[0], point(2, compute_gpu_hours=2.0), kept[1], lost], "held_out.math") == kept
    assert surviving(kept) == []


def test_within_an_attempt_the_later_wins(point: Point) -> None:
    first, second = point(2, pass_rate=0.4), point(2, pass_rate=0.5)
    assert merge_evals([first], [second]) == (second,)


def test_steps_are_those_whose_weights_went_on() -> None:
    found = merge_steps([record(1), record(2), record(3), record(2, attempt=2)])
    assert [(each.step, each.attempt) for each in found] == [(1, 1), (2, 2), (3, 1)]


def test_next_index_counts_points_of_all_sets(point: Point) -> None:
    assert next_index(()) == 0
    assert next_index((point(4, dataset="aime"), point(3))) == 5


BUDGETS: list[tuple[str, dict[str, object], int, float, float | None]] = [
    ("steps at the cost so far: 30 steps cost 0.6, 120 cost 2.4", {"steps": 120}, 30, 0.6, 2.4),
    ("gpuHours come first", {"steps": 120, "gpuHours": 2.0}, 30, 0.6, 2.0),
    ("steps come first", {"steps": 120, "gpuHours": 3.0}, 30, 0.6, 2.4),
    ("before the first step nothing tells", {"steps": 120}, 0, 0.0, None),
    ("but a limit in hours", {"steps": 120, "gpuHours": 3.0}, 0, 0.0, 3.0),
    ("a run that is longer than its budget is at its end", {"steps": 120}, 150, 3.0, 3.0),
]


@pytest.mark.parametrize(("budget", "step", "compute", "wanted"), [r[1:] for r in BUDGETS], ids=[r[0] for r in BUDGETS])
def test_budget(
    make_run: Callable[..., RLRun], budget: dict[str, object], step: int, compute: float, wanted: float | None
) -> None:
    found = budget_gpu_hours(make_run(budget=budget), step, compute)
    assert found == (pytest.approx(wanted) if wanted is not None else None)


PACES: list[tuple[str, list[tuple[float, int]], float | None]] = [
    ("nothing seen", [], None),
    ("one step says no pace", [(100.0, 7)], None),
    ("20 steps in 40 s, 90 left", [(100.0, 10), (120.0, 18), (140.0, 30)], 180.0),
    ("a slow start is forgotten after 50 steps", [(0.0, 1), (1000.0, 21), (1025.0, 71)], None),
    ("what is left is the pace of the last steps", [(0.0, 1), (1000.0, 31), (1025.0, 41), (1100.0, 71)], 122.5),
    ("nothing is left at the end", [(0.0, 119), (5.0, 120)], 0.0),
]  # last but one: steps 31..71 in 100 s are 2.5 s each, 49 are left


@pytest.mark.parametrize(("pace", "wanted"), [row[1:] for row in PACES], ids=[row[0] for row in PACES])
def test_eta(make_run: Callable[..., RLRun], pace: list[tuple[float, int]], wanted: float | None) -> None:
    assert eta_seconds(make_run(), pace) == (pytest.approx(wanted) if wanted is not None else None)


WEAK = Forecast("Weak", "too few points", "sigmoid", 3, 0.0, "GPU-h")
DRAWN = replace(
    WEAK,
    outliers=(0.07,),
    rivals=(Rival("power", (("alpha", 0.25),), 0.9, 0.01, None, 0.4, ((0.9, 0.25, 1.5, 0.2),)),),
    draws=((0.8, 1.1, 1e-05, 0.21), (0.79, 1.0, 3.0, 0.2)),
)
FORECAST_JSON = (
    '{"verdict": "Weak", "reason": "too few points", "law": "sigmoid", "points": 3, "burn_in": 0.0, "unit": "GPU-h",'
    ' "rivals": [], "draws": [], "outliers": []}'
)


def line(step: int, compute: float, forecast: Forecast = WEAK) -> ForecastLine:
    return ForecastLine(time=9.5, step=step, compute_gpu_hours=compute, budget_gpu_hours=None, forecast=forecast)


def test_forecast_lines_come_back_whole_and_once() -> None:
    text, late = line(10, 0.1, DRAWN).to_line(), replace(DRAWN, verdict="Identified")
    assert '"computeGpuHours": 0.1' in text
    found = parse_forecasts([line(20, 0.2).to_line(), text, text[:-5], line(20, 0.2, late).to_line()])
    assert found == [line(10, 0.1, DRAWN), line(20, 0.2, late)]


def test_the_bytes_of_a_forecast_line() -> None:
    text = replace(line(10, 0.1, DRAWN), attempt=2).to_line()
    head = '{"time": 9.5, "step": 10, "computeGpuHours": 0.1, "budgetGpuHours": null, "attempt": 2, "forecast": {'
    assert text.startswith(head + '"verdict": "Weak", "reason": "too few points", "law": "sigmoid", "points": 3, ')
    rival = '"parameters": {"alpha": 0.25}, "ceiling": 0.9, "rmse": 0.01, "backtest_error": null, "weight": 0.4, '
    tail = f'"rivals": [{{"name": "power", {rival}"draws": [[0.9, 0.25, 1.5, 0.2]]}}], '
    assert text.endswith(tail + '"draws": [[0.8, 1.1, 1e-05, 0.21], [0.79, 1.0, 3.0, 0.2]]}}')


def test_a_line_without_draws_has_the_same_numbers() -> None:
    light = line(10, 0.1, replace(DRAWN, ceiling_high=0.93)).without_draws()
    assert (light.step, light.forecast.ceiling_high, light.forecast.outliers) == (10, 0.93, (0.07,))
    assert [(each.name, each.weight, each.draws) for each in light.forecast.rivals] == [("power", 0.4, ())]
    assert light.forecast.draws == ()


def test_a_step_that_two_attempts_have_measured_has_two_forecasts() -> None:
    """A line of an older version names no attempt and is kept as it is."""
    old = f'{{"time": 9.5, "step": 20, "computeGpuHours": 0.2, "budgetGpuHours": null, "forecast": {FORECAST_JSON}}}'
    again = replace(line(20, 0.3), attempt=2)
    assert parse_forecasts([again.to_line(), old]) == [line(20, 0.2), again]


UNREADABLE: list[tuple[str, str]] = [
    ("a field is unknown", FORECAST_JSON.replace('"unit"', '"mood": 3, "unit"')),
    ("a field is missing", FORECAST_JSON.replace(', "draws": []', "")),
    ("a number is missing", FORECAST_JSON.replace('"points": 3, ', "")),
    ("a draw is cut", FORECAST_JSON.replace('"draws": []', '"draws": [[0.5]]')),
]


@pytest.mark.parametrize("forecast", [row[1] for row in UNREADABLE], ids=[row[0] for row in UNREADABLE])
def test_a_forecast_that_cannot_be_read_is_left_out(forecast: str) -> None:
    text = json.dumps({**json.loads(line(20, 0.2).to_line()), "forecast": json.loads(forecast)})
    assert parse_forecasts([text, line(30, 0.3).to_line()]) == [line(30, 0.3)]


MATCHED: list[tuple[str, ForecastLine, set[tuple[int, int]]]] = [
    ("by its attempt", ForecastLine(9.5, 20, 0.1, None, WEAK, attempt=2), {(20, 2)}),
    ("of a lost point", ForecastLine(9.5, 20, 0.3, None, WEAK, attempt=1), set()),
    ("an older version's by its compute", ForecastLine(9.5, 20, 0.3, None, WEAK), {(20, 2)}),
    ("an older version's of a lost point", ForecastLine(9.5, 20, 0.2, None, WEAK), set()),
    ("of a step that nobody knows", ForecastLine(9.5, 30, 0.3, None, WEAK, attempt=2), set()),
]


@pytest.mark.parametrize(("made", "wanted"), [row[1:] for row in MATCHED], ids=[row[0] for row in MATCHED])
def test_of_which_point_a_forecast_is(made: ForecastLine, wanted: set[tuple[int, int]], point: Point) -> None:
    evals = [point(1), point(2, attempt=2, compute_gpu_hours=0.3), point(2, dataset="aime")]
    assert match_forecasts([made], evals).keys() == wanted


HALVES: list[tuple[str, list[float], float, float | None]] = [
    ("the forecast at exactly half", [0.0, 0.5, 1.0, 1.5, 2.0], 2.0, 1.0),
    ("else the last before it", [0.0, 0.5, 0.9, 1.5, 2.0], 2.0, 0.9),
    ("a point past half is never used", [1.2, 1.5, 2.0], 2.0, None),
    ("rounding does not lose the half: 0.3 is 3 x 0.1", [0.1 + 0.1 + 0.1], 0.6, 0.1 + 0.1 + 0.1),
]


@pytest.mark.parametrize(("made", "final", "wanted"), [row[1:] for row in HALVES], ids=[row[0] for row in HALVES])
def test_halfway(made: list[float], final: float, wanted: float | None) -> None:
    found = find_halfway([line(step, compute) for step, compute in enumerate(made)], final)
    assert (found.compute_gpu_hours if found else None) == wanted


def test_closing_takes_the_termination_message_over_the_last_poll(make_run: Callable[..., RLRun]) -> None:
    run, steps = make_run(), [record(40), record(41)]
    polled = Progress(
        run="tiny", attempt=3, phase="training", detail="x", step=38, version=38, compute_gpu_hours=3.8, time=1.0
    )
    saved = Checkpoint(step=41, time=2.0, path="/p")
    ended = close_progress(run, 3, polled, Termination(reason="Finished", step=41, checkpoint=saved), steps)
    assert ended is not None
    assert ended.checkpoint == saved
    assert (ended.phase, ended.detail, ended.step, ended.compute_gpu_hours) == ("finished", "", 41, 4.1)
    killed = close_progress(run, 3, None, None, steps)
    assert killed is not None
    assert (killed.phase, killed.step, killed.attempt) == ("stopping", 41, 3)
    assert close_progress(run, 3, None, None, []) is None


def test_a_cpu_is_a_device(make_run: Callable[..., RLRun]) -> None:
    assert compute_unit(make_run()) == "device-h"
    assert compute_unit(make_run(trainer={"gpusPerReplica": 2}, generator={"gpusPerReplica": 1})) == "GPU-h"
