"""Numbers and forecasts as text."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from scalerl_api import RLRun, RLRunStatus
from scalerl_api.status import ForecastStatus, SourceForecastStatus
from scalerl_api.wire import EvalPoint, Progress, SelfCheck, StepVital
from scalerl_operator.decide.halfway import Halfway
from scalerl_operator.decide.status import build_status
from scalerl_operator.export.model_card import describe_for_card
from scalerl_operator.render.describe import Overview, build_overview
from scalerl_operator.render.text import (
    ProgressView,
    describe_forecast,
    describe_halfway,
    format_compute,
    format_duration,
    format_rows,
    progress_rows,
    set_rows,
    summary_rows,
)
from scalerl_operator.run.attempts import start_attempt
from scalerl_operator.run.observed import Alarm, Assessment, ObservedState

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

DURATIONS = [
    (-3.0, "0s", "never negative"),
    (59.4, "59s", "seconds"),
    (59.6, "1m00s", "rounded before it is split"),
    (252.0, "4m12s", "minutes"),
    (11_100.0, "3h05m", "hours"),
    (183_600.0, "2d03h", "days"),
]


@pytest.mark.parametrize(("seconds", "text"), [r[:2] for r in DURATIONS], ids=[r[2] for r in DURATIONS])
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_compute_has_three_digits_and_its_unit() -> None:
    assert format_compute(0.123456, "device-h") == "0.123 device-h"
    assert format_compute(7439.6, "GPU-h") == "7,440 GPU-h"


def test_a_forecast_shows_its_known_values() -> None:
    assert describe_forecast(None, "GPU-h") == "after the first evaluations"
    refused = ForecastStatus(verdict="NotIdentified", reason="3 usable points", points=3, ceiling_low=0.2)
    assert describe_forecast(refused, "GPU-h") == "NotIdentified: 3 usable points"
    known = {"ceiling": 0.61, "ceiling_low": 0.59, "ceiling_high": 0.63, "predicted_at_budget": 0.58}
    found = ForecastStatus.model_validate(
        {"verdict": "Weak", "reason": "", "points": 9, **known, "low": 0.57, "high": 0.6, "target_gpu_hours": 1234.0}
    )
    assert describe_forecast(found, "GPU-h") == (
        "ceiling 0.610 [0.590, 0.630], at the end 0.580 [0.570, 0.600], target at 1,234 GPU-h (Weak)"
    )


def test_the_half_way_forecast_is_shown_with_the_final_measurement() -> None:
    halfway = Halfway(
        made_at_step=60,
        made_at_gpu_hours=1.5,
        verdict="Weak",
        reason="it is wide",
        ceiling=0.7,
        ceiling_low=0.6,
        ceiling_high=0.8,
        final_step=120,
        final_gpu_hours=3.0,
        measured=0.55,
        measured_error=0.01,
        predicted=0.6,
        low=0.57,
        high=0.63,
    )
    assert describe_halfway(halfway, "GPU-h") == [
        ("made at half", "step 60, 1.5 GPU-h: Weak, it is wide"),
        ("it predicted", "0.600 [0.570, 0.630] at the end"),
        ("then measured", "0.550 ± 0.010 (step 120, 3 GPU-h)"),
        ("error", "+0.050, OUTSIDE the 90 % band"),
    ]
    unpredicted = halfway.model_copy(update={"predicted": None, "low": None, "high": None})
    assert dict(describe_halfway(unpredicted, "GPU-h"))["it predicted"] == "nothing"
    assert describe_halfway(None, "GPU-h")[0][1].startswith("none: ")


def test_rows_are_aligned() -> None:
    assert format_rows([("a", "1"), ("long", "2")]) == "a     1\nlong  2\n"
    assert format_rows([]) == ""


BROKEN = "no step had a gradient for 5 steps up to step 6: every completion of a group got the same reward"


@pytest.mark.parametrize(
    ("vitals", "self_check", "text"),
    [
        ([], None, None),
        ([], 2.8e-7, "2.8e-07 nats"),
        ([0.0123, None], 2.8e-7, "0.012 nats"),
        ([None, 0.5, 0.0351], None, "0.035 nats"),
    ],
    ids=["not measured", "by the self-check", "by a step, which is later", "by the last step that has it"],
)
def test_the_mismatch_is_in_the_progress_line(
    make_run: Callable[..., RLRun], vitals: list[float | None], self_check: float | None, text: str | None
) -> None:
    check = {"version": 1, "generator": 0, "tokens": 9, "largest": 1.0, "worst_prompt": 3, "worst_mean": 1.0}
    progress = Progress(
        run="tiny",
        attempt=1,
        phase="training",
        step=6,
        version=6,
        compute_gpu_hours=0.1,
        vitals=[StepVital(step=1 + index, mismatch=value) for index, value in enumerate(vitals)],
        self_check=SelfCheck.model_validate({**check, "mean": self_check}) if self_check is not None else None,
        time=1.0,
    )
    observed = ObservedState((start_attempt(1, NOW),), progress=progress, answered=NOW)
    status = build_status(make_run(), observed, Assessment(), ("Running", ""), NOW)
    run = make_run().model_copy(update={"status": status})
    assert dict(progress_rows(ProgressView(run, progress, (), 0))).get("mismatch") == text
    overview = build_overview(Overview(run, "in runs/tiny", NOW))
    assert ("mismatch" in overview) == (text is not None)
    assert text is None or f"{text}, engine to trainer at lag 0" in overview


def test_a_broken_rule_of_the_watchdog_stays_in_the_progress_line(make_run: Callable[..., RLRun]) -> None:
    progress = Progress(run="tiny", attempt=1, phase="training", step=6, version=6, compute_gpu_hours=0.1, time=1.0)
    observed = ObservedState((start_attempt(1, NOW),), progress=progress, answered=NOW)
    for alarms, shown in (((Alarm("NoGradient", "Warn", BROKEN),), f"{BROKEN} (Warn)"), ((), None)):
        status = build_status(make_run(), observed, Assessment(alarms=alarms), ("Running", ""), NOW)
        run = make_run().model_copy(update={"status": status})
        assert dict(progress_rows(ProgressView(run, progress, (), 0))).get("unhealthy") == shown


MATH = SourceForecastStatus(
    **{"verdict": "Weak", "reason": "wide", "points": 9, "ceiling": 0.61, "ceiling_low": 0.52, "ceiling_high": 0.7},
    name="math",
    pass_rate=0.412,
)
CODE = SourceForecastStatus(verdict="NotIdentified", reason="3 usable points", points=3, name="code", pass_rate=0.221)


def test_rates_of_sources_and_downstream_sets_have_their_names(point: Callable[..., EvalPoint]) -> None:
    evals = [
        point(0),
        point(1, dataset="held_out.math", pass_rate=0.25, step=0, compute_gpu_hours=0.0),
        point(2, dataset="held_out.math", pass_rate=0.412),
        point(3, dataset="held_out.code", pass_rate=0.221),
        point(4, dataset="aime-24", pass_rate=0.1, samples=32),
        point(5, dataset="mbpp", pass_rate=0.3, samples=16, pass_at_k={"1": 0.3, "2": 0.4, "16": 0.75}),
    ]
    assert set_rows(evals) == [
        ("by source", "code 0.221, math 0.412"),
        ("downstream", "aime-24 0.100 (mean@32), mbpp 0.300 (mean@16, pass@16 0.750)"),
    ]
    assert set_rows(evals[:1]) == []


def test_a_mixtures_forecasts_are_in_status_summary_and_card(make_run: Callable[..., RLRun]) -> None:
    run = make_run()
    run = run.model_copy(update={"status": RLRunStatus(forecast=MATH, source_forecasts=[CODE, MATH])})
    math = "pass rate 0.412, ceiling 0.610 [0.520, 0.700] (Weak)"
    code = "pass rate 0.221, NotIdentified: 3 usable points"
    overview = build_overview(Overview(run, "in runs/tiny", NOW))
    shown = dict(line.split("  ", 1) for line in overview.splitlines() if line.startswith("forecast "))
    assert {label: text.strip() for label, text in shown.items() if label != "forecast"} == {
        "forecast code": code,
        "forecast math": math,
    }
    rows = summary_rows(run, "Finished", None, [])
    assert [row for row in rows if row[0].startswith("forecast ")][1:] == [
        ("forecast code", code),
        ("forecast math", math),
        ("forecast at half", "none: no evaluation in the first half of the compute"),
    ]
    assert f"By training source:\n\n- code: {code}\n- math: {math}" in describe_for_card(run, has_picture=False)
