"""From points to forecasts, stop recommendations, and the half-way forecast beside what happened."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from scalerl_api import RLRun
from scalerl_api.evaluations import surviving
from scalerl_api.wire import EvalPoint
from scalerl_operator.decide.assessment import (
    STATED_INPUTS,
    fit_points,
    forecast_points,
    foresee_entropy,
    scatter_of,
    summarize,
    to_status,
)
from scalerl_operator.decide.halfway import compare_halfway, predict
from scalerl_operator.forecast import Forecast
from scalerl_operator.run.forecast_log import ForecastLine
from scalerl_operator.run.observed import Assessment

MakePoint = Callable[..., EvalPoint]


def straight(**values: object) -> Forecast:
    """A forecast of one draw: A 0.8, B 1, C_mid 1, R0 0.2, which is 0.5 at compute 1 and 0.6 at 2."""
    known = {"ceiling": 0.8, "ceiling_low": 0.75, "ceiling_high": 0.85, "draws": ((0.8, 1.0, 1.0, 0.2),)}
    given = {"verdict": "Identified", "reason": "it bends", "law": "sigmoid", "points": 9, "burn_in": 0.0}
    return Forecast(**{**given, "unit": "GPU-h", **known, **values})


def line(step: int, hours: float, forecast: Forecast, budget: float | None = None) -> ForecastLine:
    return ForecastLine(1000.0 + step, step, hours, budget, forecast)


def test_points_of_a_lost_line_of_weights_are_left_out(point: MakePoint) -> None:
    evals = [
        point(0, step=0, compute_gpu_hours=0.0),
        point(1, step=10, compute_gpu_hours=1.0),
        point(3, step=20, compute_gpu_hours=2.5, attempt=2),  # again after a crash, at more compute
        point(2, step=30, compute_gpu_hours=2.6),  # before the crash
        point(4, step=40, compute_gpu_hours=4.0, attempt=2),
        point(5, step=40, compute_gpu_hours=5.0, dataset="aime24"),
    ]
    found = fit_points(evals, "GPU-h")
    assert found.compute.tolist() == [0.0, 1.0, 2.5, 4.0]


def test_scatter_is_binomial_over_what_was_judged(point: MakePoint) -> None:
    # 98 completions, 49 right: (49 + 1) / 100 = 0.5; sqrt(0.25 / 98)
    measured = point(1, pass_rate=0.5, prompts=25, samples=4, excluded=2, standard_error=0.9)
    assert scatter_of(measured) == pytest.approx(math.sqrt(0.25 / 98))


def test_the_missing_prompts_of_a_late_evaluation_scatter_too(point: MakePoint) -> None:
    # 100 completions, 50 right: sqrt(0.25 / 100) = .05. 75 of 100 prompts are missing: .04 counts sqrt(.75) fold.
    late = point(1, pass_rate=0.5, prompts=25, unsampled=75, samples=4, standard_error=0.04)
    assert scatter_of(late) == pytest.approx(math.sqrt(0.05**2 + 0.75 * 0.04**2), rel=0.01)


def test_entropy_is_foreseen_where_the_watchdog_has_a_floor(make_run: Callable[..., RLRun], point: MakePoint) -> None:
    """.05 + exp(-C / 5) nats are at .25 at C = 5 ln 5 = 8.05, after the last point."""
    evals = [point(i, step=i, compute_gpu_hours=0.4 * i, entropy=0.05 + math.exp(-0.08 * i)) for i in range(16)]
    watched = make_run(watchdog={"entropy": {"below": 0.25}})
    found = foresee_entropy(watched, evals)
    assert found is not None
    assert found.compute == pytest.approx(5.0 * math.log(5.0), rel=0.1)
    assert foresee_entropy(make_run(), evals) is None, "nobody has said how low is too low"
    assert foresee_entropy(watched, [point(1)]) is None, "nothing was measured"


def test_too_few_points_are_refused_and_not_guessed(make_run: Callable[..., RLRun], point: MakePoint) -> None:
    made = forecast_points(make_run(), [point(0, compute_gpu_hours=0.0), point(1)], None, 5.0)
    assert (made.step, made.compute_gpu_hours, made.time) == (10, 0.02, 5.0)
    status = to_status(made)
    assert status.verdict == "NotIdentified"
    assert (status.ceiling, status.summary, status.predicted_at_budget) == (None, None, None)


def test_a_refusal_shows_its_interval_and_no_number() -> None:
    found = straight(verdict="NotIdentified", predicted_at_budget=0.7, low=0.5, high=0.9, c_mid=1.0, b=1.0, r0=0.2)
    status = to_status(line(10, 1.0, found))
    assert (status.ceiling, status.c_mid_gpu_hours, status.b, status.predicted_at_budget) == (None,) * 4
    assert (status.ceiling_low, status.ceiling_high, status.low, status.high, status.r0) == (0.75, 0.85, 0.5, 0.9, 0.2)
    believed = to_status(line(10, 1.0, straight()))
    assert believed.summary == "0.80 [0.75,0.85]"


def test_a_policy_waits_for_the_forecast_of_its_evaluation(make_run: Callable[..., RLRun], point: MakePoint) -> None:
    run = make_run(stopPolicies=[{"name": "low", "when": {"ceilingUpper": {"below": 0.9}}, "for": 2}])
    evals = [point(1), point(2), point(3)]
    first = [line(10, 0.02, straight())]
    assert summarize(run, first, evals).stop is None, "one evaluation has its forecast"
    second = [*first, line(20, 0.04, straight(), budget=0.24)]
    found = summarize(run, second, evals).stop
    assert found is not None
    assert (found.policy, found.mode) == ("low", "Enforce")
    assert found.saved_gpu_hours == pytest.approx(0.2), (
        "budget 0.24 less the 0.04 of that evaluation, not of a newer one"
    )


def test_the_status_has_the_decision_with_its_inputs(make_run: Callable[..., RLRun], point: MakePoint) -> None:
    """By the last numbers: an entropy of 0.04, 30 % cut, a fall from 0.6 to 0.3; and by the forecast after them."""
    policies = [
        {"name": "cut", "when": {"truncation": {"above": 0.25}}, "for": 1, "mode": "Observe"},
        {"name": "low", "when": {"ceilingUpper": {"below": 0.9}}, "for": 2},
        {"name": "poor", "when": {"entropy": {"below": 0.05}}, "for": 1, "mode": "Observe"},
        {"name": "fallen", "when": {"passRateDrop": {"above": 0.25}}, "for": 1, "mode": "Observe"},
        {"name": "rich", "when": {"entropy": {"above": 0.05}}, "for": 1},
    ]
    evals = [point(1, pass_rate=0.6), point(2, entropy=0.04, truncation_share=0.3)]
    made = [line(10, 0.02, straight()), line(20, 0.04, straight(ceiling_high=0.875), budget=0.24)]
    found = summarize(make_run(stopPolicies=policies), made, evals).stop
    assert found is not None
    assert found.model_dump(by_alias=True, exclude={"reason", "saved_gpu_hours"}) == {
        "policy": "low",
        "mode": "Enforce",
        "quantity": "ceilingUpper",
        "inputs": [
            {"step": 10, "computeGpuHours": 0.02, "value": 0.85, "verdict": "Identified"},
            {"step": 20, "computeGpuHours": 0.04, "value": 0.875, "verdict": "Identified"},
        ],
        "others": ["cut", "poor", "fallen"],
    }


def test_of_many_inputs_the_last_are_stated(make_run: Callable[..., RLRun], point: MakePoint) -> None:
    run = make_run(stopPolicies=[{"name": "x", "when": {"passRate": {"above": 0.1}}, "for": 14}])
    evals = [point(n, pass_rate=0.2 + n / 100) for n in range(1, 16)]
    found = summarize(run, [line(150, 0.3, straight())], evals).stop
    assert found is not None
    assert [each.step for each in found.inputs] == [60, 70, 80, 90, 100, 110, 120, 130, 140, 150]
    assert len(found.inputs) == STATED_INPUTS
    assert found.inputs[-1].value == 0.35


def test_a_policy_does_not_look_at_weights_that_were_lost(make_run: Callable[..., RLRun], point: MakePoint) -> None:
    """Attempt 1 had collapsed at step 30; attempt 2, from an older checkpoint, has not come so far yet."""
    run = make_run(stopPolicies=[{"name": "low", "when": {"entropy": {"below": 0.05}}, "for": 1}])
    evals = [
        point(1, step=10, compute_gpu_hours=1.0, entropy=0.9),
        point(3, step=20, compute_gpu_hours=2.5, entropy=0.8, attempt=2),
        point(2, step=30, compute_gpu_hours=2.4, entropy=0.01),
    ]
    made = [line(10, 1.0, straight()), line(20, 2.5, straight()), line(30, 2.4, straight())]
    assert summarize(run, made, evals).stop is None


def lost_and_measured_again(point: MakePoint) -> list[EvalPoint]:
    """Attempt 1 came to step 40; attempt 2, from step 15 on, has come to step 30. In the order of `merge_evals`."""
    return [
        point(0, compute_gpu_hours=0.0),
        point(1, compute_gpu_hours=1.0),
        point(2, compute_gpu_hours=2.5, attempt=2),
        point(3, compute_gpu_hours=3.5, attempt=2),
        point(4, compute_gpu_hours=4.0),
    ]


def test_consecutive_evaluations_are_those_of_the_weights_that_went_on(
    make_run: Callable[..., RLRun], point: MakePoint
) -> None:
    evals = lost_and_measured_again(point)
    lost = [line(10 * index, float(index), straight()) for index in range(5)]
    again = [replace(line(20, 2.5, straight()), attempt=2), replace(line(30, 3.5, straight()), attempt=2)]

    def assess(count: int) -> Assessment:
        policy = {"name": "low", "when": {"ceilingUpper": {"below": 0.9}}, "for": count, "mode": "Observe"}
        return summarize(make_run(stopPolicies=[policy]), [*again, *lost], evals)

    assert assess(5).stop is None, "five lines, four points"
    stop = assess(4).stop
    assert stop is not None
    assert [(each.step, each.compute_gpu_hours) for each in stop.inputs] == [(0, 0.0), (10, 1.0), (20, 2.5), (30, 3.5)]
    assert assess(1).forecast == to_status(again[-1])


def test_the_half_way_forecast_is_judged_by_the_last_measurement(point: MakePoint) -> None:
    evals = [point(1, compute_gpu_hours=1.0), point(2, compute_gpu_hours=2.0, pass_rate=0.55)]
    forecasts = [line(10, 1.0, straight()), line(20, 2.0, straight(ceiling=0.9))]
    found = compare_halfway(forecasts, evals)
    assert found is not None
    summary = found.summary
    assert (summary.made_at_step, summary.final_step, summary.measured) == (10, 20, 0.55)
    assert summary.predicted == pytest.approx(0.6)  # 0.2 + 0.6 * 2 / (1 + 2)
    assert summary.error == pytest.approx(0.05)
    # One draw has no width: the band is the chance of sampling alone, 1.6449 sqrt(p (1 - p) / 1000), p = 551 / 1002
    chance = 1.6449 * math.sqrt(551 / 1002 * 451 / 1002 / 1000)
    assert summary.low == pytest.approx(0.6 - chance, abs=1e-5)
    assert summary.high == pytest.approx(0.6 + chance, abs=1e-5)
    assert summary.inside is False, "0.55 is below 0.574"
    near = [evals[0], point(2, compute_gpu_hours=2.0, pass_rate=0.58)]
    again = compare_halfway(forecasts, near)
    assert again is not None
    assert again.summary.inside is True


def test_without_a_curve_nothing_is_predicted(point: MakePoint) -> None:
    assert predict(straight(draws=()), point(1)) == (None, None, None)
    found = compare_halfway([line(10, 1.0, straight(draws=()))], [point(2, compute_gpu_hours=2.0)])
    assert found is not None
    assert (found.summary.error, found.summary.inside) == (None, None)


def test_a_run_without_a_first_half_has_no_half_way_forecast(point: MakePoint) -> None:
    assert compare_halfway([line(20, 2.0, straight())], [point(2, compute_gpu_hours=2.0)]) is None
    assert compare_halfway([line(0, 0.0, straight())], [point(0, compute_gpu_hours=0.0)]) is None
    assert compare_halfway([], []) is None


def mixture(make_run: Callable[..., RLRun], **spec: object) -> RLRun:
    """A run on two sources and one downstream set."""
    train = [{"name": name, "source": "reasoning_gym:chain_sum", "size": 500} for name in ("math", "code")]
    downstream = [{"name": "aime-24", "source": "reasoning_gym:chain_sum"}]
    held_out = {"prompts": 100, "samplesPerPrompt": 4}
    data = {"train": train, "downstream": downstream, "heldOut": held_out, "promptFormat": "plain"}
    return make_run(data=data, **spec)


def test_each_source_is_fitted_to_its_own_points(make_run: Callable[..., RLRun], point: MakePoint) -> None:
    """Saturating curves with ceilings .8 and .5: R = A - (A - .2) / (1 + C), so C_mid is 1."""
    ceilings = {"held_out.math": 0.8, "held_out.code": 0.5}
    evals = [
        point(i, dataset=name, compute_gpu_hours=0.5 * i, pass_rate=top - (top - 0.2) / (1.0 + 0.5 * i), prompts=20_000)
        for i in range(40)
        for name, top in ceilings.items()
    ]
    run = mixture(make_run)
    lines = {name: forecast_points(run, surviving(evals, name), None, 1000.0) for name in ceilings}
    found = {each.name: each for each in summarize(run, [], evals, lines).sources}
    assert list(found) == ["code", "math"]
    for name, status in found.items():
        assert status.verdict == "Identified"
        assert status.points == 40
        assert status.ceiling == pytest.approx(ceilings[f"held_out.{name}"], abs=0.02)
    assert found["math"].pass_rate == pytest.approx(0.8 - 0.6 / 20.5, abs=1e-4)


def test_a_policy_names_a_source_or_a_downstream_set(make_run: Callable[..., RLRun], point: MakePoint) -> None:
    def policy(name: str, bound: dict[str, float]) -> dict[str, object]:
        return {"name": "worse", "when": {"downstream": {name: bound}}, "for": 1}

    evals = [
        point(0),
        point(1),
        point(0, dataset="held_out.math", pass_rate=0.75),
        point(1, dataset="held_out.math", pass_rate=0.25),
        point(0, dataset="aime-24", pass_rate=0.5, step=0),
        point(9, dataset="aime-24", pass_rate=0.0, step=90),  # newer than the last forecast
    ]
    made = [line(10, 0.02, straight())]
    stops = {
        (name, bound): summarize(mixture(make_run, stopPolicies=[policy(name, {bound: 0.3})]), made, evals).stop
        for name in ("math", "code", "aime-24")
        for bound in ("drop", "below")
    }
    assert [key for key, stop in stops.items() if stop is not None] == [("math", "drop"), ("math", "below")]
    assert [each.step for each in stops["math", "drop"].inputs] == [10]
