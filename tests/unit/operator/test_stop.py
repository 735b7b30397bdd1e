"""Stop policies over written-down histories."""

import pytest

from scalerl_api.rlrun import StopPolicy
from scalerl_operator.forecast import Forecast
from scalerl_operator.stop import Observation, decide_stop


def _policy(when, *, evals=2, mode="Enforce", name="p"):
    return StopPolicy.model_validate({"name": name, "when": when, "for": evals, "mode": mode})


def _forecast(*, verdict="Identified", ceiling_high=0.6, gain_left_high=0.05, unit="GPU-h"):
    return Forecast(
        verdict, "", "sigmoid", 9, 0.0, unit, ceiling=0.5, ceiling_high=ceiling_high, gain_left_high=gain_left_high
    )


def _history(*rows):
    """Observations at 10, 20, ... GPU-h from (pass rate, forecast)."""
    return [Observation(pass_rate, 10.0 * (i + 1), forecast) for i, (pass_rate, forecast) in enumerate(rows)]


LOW, HIGH, NONE = _forecast(ceiling_high=0.54), _forecast(ceiling_high=0.56), _forecast(ceiling_high=None)
DOUBTED = _forecast(verdict="NotIdentified", ceiling_high=0.54, gain_left_high=0.001)
FLAT = _forecast(gain_left_high=0.009)
CEILING = {"ceilingUpper": {"below": 0.55}}
GAIN = {"remainingGain": {"below": 0.01}}
RATE = {"passRate": {"above": 0.7}}

ROWS = [
    (CEILING, [(0.4, LOW), (0.4, LOW)], True, "holds for two evaluations in a row"),
    (CEILING, [(0.4, HIGH), (0.4, LOW), (0.4, LOW)], True, "only the last two count"),
    (CEILING, [(0.4, LOW), (0.4, HIGH)], False, "the last one does not hold"),
    (CEILING, [(0.4, LOW), (0.4, HIGH), (0.4, LOW)], False, "broken in between"),
    (CEILING, [(0.4, LOW)], False, "only one evaluation yet"),
    (CEILING, [], False, "none yet"),
    (CEILING, [(0.4, LOW), (0.4, DOUBTED)], False, "unknown is not a yes: NotIdentified"),
    (CEILING, [(0.4, LOW), (0.4, None)], False, "unknown is not a yes: no forecast"),
    (CEILING, [(0.4, LOW), (0.4, NONE)], False, "unknown is not a yes: no number"),
    (
        CEILING,
        [(0.4, _forecast(verdict="Weak", ceiling_high=0.54))] * 2,
        True,
        "a weak forecast has an honest upper end",
    ),
    (CEILING, [(0.4, _forecast(ceiling_high=0.55))] * 2, False, "the bound itself is not below it"),
    (GAIN, [(0.4, FLAT), (0.4, FLAT)], True, "little is left to gain"),
    (GAIN, [(0.4, FLAT), (0.4, LOW)], False, "there is more to gain"),
    (GAIN, [(0.4, FLAT), (0.4, DOUBTED)], False, "gain left of a refused forecast"),
    (GAIN, [(0.4, _forecast(gain_left_high=None))] * 2, False, "no budget, so no gain left is known"),
    (RATE, [(0.71, None), (0.72, DOUBTED)], True, "a measured pass rate needs no forecast"),
    (RATE, [(0.71, None), (0.70, None)], False, "the bound itself is not above it"),
    ({"passRate": {"above": 0.2, "below": 0.3}}, [(0.25, None), (0.25, None)], True, "both bounds hold"),
    ({"passRate": {"above": 0.2, "below": 0.3}}, [(0.25, None), (0.35, None)], False, "one of two bounds fails"),
]


@pytest.mark.parametrize(("when", "rows", "stops"), [row[:3] for row in ROWS], ids=[row[3] for row in ROWS])
def test_a_policy_holds_when_its_condition_was_true_for_the_last_evaluations(when, rows, stops):
    assert (decide_stop([_policy(when)], _history(*rows)) is not None) == stops


def test_the_reason_has_the_numbers_and_the_saving_is_what_is_left_of_the_budget():
    decision = decide_stop(
        [_policy(CEILING, name="hopeless")], _history((0.4, LOW), (0.4, LOW)), budget_gpu_hours=120.0
    )
    assert decision is not None
    assert decision.enforced is not None
    assert decision.enforced.policy == "hopeless"
    assert decision.enforced.saved_gpu_hours == 100.0
    assert decision.enforced.reason == (
        "the ceiling's upper end is 0.540, below 0.55, for 2 evaluations in a row up to 20 GPU-h"
    )


def test_the_reason_is_in_the_forecasts_unit():
    flat = _forecast(gain_left_high=0.009, unit="device-h")
    decision = decide_stop([_policy(GAIN)], _history((0.4, flat), (0.4, flat)))
    assert decision is not None
    assert decision.first.reason.endswith("at most, is 0.009, below 0.01, for 2 evaluations in a row up to 20 device-h")


def test_no_saving_is_claimed_without_a_budget_or_past_it():
    history = _history((0.4, LOW), (0.4, LOW))
    assert decide_stop([_policy(CEILING)], history).first.saved_gpu_hours is None
    assert decide_stop([_policy(CEILING)], history, budget_gpu_hours=15.0).first.saved_gpu_hours == 0.0


def test_every_observer_speaks_and_the_first_enforcer_ends_the_run():
    policies = [
        _policy(CEILING, mode="Observe", name="watch-a"),
        _policy(GAIN, name="enforce-no"),
        _policy(CEILING, name="enforce-a", evals=1),
        _policy(CEILING, name="enforce-b"),
        _policy({"passRate": {"below": 0.9}}, mode="Observe", name="watch-b"),
    ]
    decision = decide_stop(policies, _history((0.4, LOW), (0.4, LOW)))
    assert decision is not None
    assert decision.enforced is not None
    assert decision.enforced.policy == "enforce-a"
    assert [hit.policy for hit in decision.observed] == ["watch-a", "watch-b"]
    assert decision.first.policy == "enforce-a"


def test_an_observer_alone_ends_nothing():
    decision = decide_stop([_policy(CEILING, mode="Observe", name="watch")], _history((0.4, LOW), (0.4, LOW)))
    assert decision is not None
    assert decision.enforced is None
    assert decision.first.policy == "watch"


def test_a_condition_without_a_bound_holds_never():
    assert decide_stop([_policy({"passRate": {}})], _history((0.4, LOW), (0.4, LOW))) is None
    assert decide_stop([_policy({})], _history((0.4, LOW), (0.4, LOW))) is None
