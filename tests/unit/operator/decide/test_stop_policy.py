"""Stop policies over written-down histories."""

import pytest

from scalerl_api.policies import StopCondition, StopPolicy
from scalerl_operator.decide.stop_policy import QUANTITIES, Evidence, Observation, RunHistory, decide_stop
from scalerl_operator.forecast import Forecast


def _policy(when, *, evals=2, mode="Enforce", name="p", evidence=None):
    given = {"name": name, "when": when, "for": evals, "mode": mode, "minEvidence": evidence or {}}
    return StopPolicy.model_validate(given)


def _forecast(*, verdict="Identified", ceiling_high=0.6, gain_left_high=0.05, marginal=0.004, unit="GPU-h"):
    """The lower ends and middles would satisfy every bound of these tests: only the upper ends count."""
    return Forecast(
        verdict, "", "sigmoid", 9, 0.0, unit,
        ceiling=0.5, ceiling_low=0.4, ceiling_high=ceiling_high,
        gain_left=0.001, gain_left_low=0.0, gain_left_high=gain_left_high,
        marginal_gain=1e-5, marginal_gain_low=0.0, marginal_gain_high=marginal,
    )  # fmt: skip


def _history(*rows, budget=None, **sets):
    """Observations at step 3, 6, ... and 10, 20, ... GPU-h from (pass rate, forecast[, entropy, truncation])."""
    observed = [
        Observation(rate, 10.0 * (i + 1), forecast, 3 * (i + 1), *rest)
        for i, (rate, forecast, *rest) in enumerate(rows)
    ]
    others = {
        name: [Observation(rate, 30.0 * (i + 1), None, 9 * (i + 1)) for i, rate in enumerate(rates)]
        for name, rates in sets.items()
    }
    return RunHistory(observed, others, budget)


LOW, HIGH, NONE = _forecast(ceiling_high=0.54), _forecast(ceiling_high=0.56), _forecast(ceiling_high=None)
DOUBTED = _forecast(verdict="NotIdentified", ceiling_high=0.54, gain_left_high=0.001)
FLAT = _forecast(gain_left_high=0.009)
WEAK = _forecast(verdict="Weak", ceiling_high=0.54)
CEILING = {"ceilingUpper": {"below": 0.55}}
GAIN = {"remainingGain": {"below": 0.01}}
RATE = {"passRate": {"above": 0.7}}
SLOPE = {"marginalGain": {"below": 0.001}}
SLOW = _forecast(marginal=0.0009)
DROP = {"passRateDrop": {"above": 0.1}}
ENTROPY = {"entropy": {"below": 0.05}}
CUT = {"truncation": {"above": 0.15}}
HOURS = {"gpuHours": {"above": 25.0}}

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
    (CEILING, [(0.4, LOW), (0.4, WEAK)], False, "a weak forecast is not enough unless the policy says so"),
    (CEILING, [(0.4, _forecast(ceiling_high=0.55))] * 2, False, "the bound itself is not below it"),
    (GAIN, [(0.4, FLAT), (0.4, FLAT)], True, "little is left to gain"),
    (GAIN, [(0.4, FLAT), (0.4, LOW)], False, "there is more to gain"),
    (GAIN, [(0.4, FLAT), (0.4, DOUBTED)], False, "gain left of a refused forecast"),
    (GAIN, [(0.4, _forecast(gain_left_high=None))] * 2, False, "no budget, so no gain left is known"),
    (RATE, [(0.71, None), (0.72, DOUBTED)], True, "a measured pass rate needs no forecast"),
    (RATE, [(0.71, None), (0.70, None)], False, "the bound itself is not above it"),
    (SLOPE, [(0.4, SLOW), (0.4, SLOW)], True, "a GPU-hour brings next to nothing, at most"),
    (SLOPE, [(0.4, SLOW), (0.4, LOW)], False, "a GPU-hour may bring more"),
    (SLOPE, [(0.4, _forecast(marginal=None))] * 2, False, "no budget, so no marginal gain is known"),
    (DROP, [(0.6, None), (0.49, None), (0.48, None)], True, "0.11 and 0.12 below the best, which was before both"),
    (DROP, [(0.5, None), (0.6, None), (0.49, None)], False, "at 0.6 it had not fallen"),
    (DROP, [(0.6, None), (0.49, None), (0.5, None)], False, "the bound itself is not above it"),
    (DROP, [(0.9, None), (0.3, None), (0.95, None), (0.84, None), (0.84, None)], True, "from the best of all"),
    (ENTROPY, [(0.4, None, 0.04), (0.4, None, 0.03)], True, "almost no choice is left"),
    (ENTROPY, [(0.4, None, 0.04), (0.4, None, 0.05)], False, "the floor itself is not below it"),
    (ENTROPY, [(0.4, None, 0.04), (0.4, None, None)], False, "unknown is not a yes: no entropy"),
    (CUT, [(0.4, None, 1.0, 0.2), (0.4, None, 1.0, 0.16)], True, "completions run into the limit"),
    (CUT, [(0.4, None, 1.0, 0.2), (0.4, None, 1.0, 0.15)], False, "a seventh of them does not"),
    (CUT, [(0.4, None, 1.0, 0.2), (0.4, None, 1.0, None)], False, "unknown is not a yes: an older runtime"),
    (HOURS, [(0.4, None)] * 4, True, "30 and 40 GPU-h"),
    (HOURS, [(0.4, None)] * 3, False, "20 GPU-h are not above it"),
    ({"passRate": {"above": 0.2, "below": 0.3}}, [(0.25, None), (0.25, None)], True, "both bounds hold"),
    ({"passRate": {"above": 0.2, "below": 0.3}}, [(0.25, None), (0.35, None)], False, "one of two bounds fails"),
]


@pytest.mark.parametrize(("when", "rows", "stops"), [row[:3] for row in ROWS], ids=[row[3] for row in ROWS])
def test_a_policy_holds_when_its_condition_was_true_for_the_last_evaluations(when, rows, stops):
    assert (decide_stop([_policy(when)], _history(*rows)) is not None) == stops


EVIDENCE = [
    (RATE, {"evals": 3}, [(0.8, None)] * 3, True, "three evaluations are there"),
    (RATE, {"evals": 4}, [(0.8, None)] * 3, False, "four are wanted"),
    (RATE, {"gpuHours": 30}, [(0.8, None)] * 3, True, "30 GPU-h are spent"),
    (RATE, {"gpuHours": 30.1}, [(0.8, None)] * 3, False, "a little more is wanted"),
    (RATE, {"evals": 3, "gpuHours": 40}, [(0.8, None)] * 3, False, "one of two is not enough"),
    (CEILING, {"verdict": "Weak"}, [(0.4, WEAK), (0.4, LOW)], True, "better than asked for"),
    (CEILING, {"verdict": "Weak"}, [(0.4, WEAK), (0.4, DOUBTED)], False, "NotIdentified is never enough"),
    (GAIN, {"verdict": "Weak"}, [(0.4, _forecast(verdict="Weak", gain_left_high=0.009))] * 2, True, "of any forecast"),
    (GAIN, {}, [(0.4, _forecast(verdict="Weak", gain_left_high=0.009))] * 2, False, "of any forecast"),
    (SLOPE, {}, [(0.4, _forecast(verdict="Weak", marginal=0.0))] * 2, False, "of any forecast"),
]


@pytest.mark.parametrize(("when", "evidence", "rows", "stops"), [r[:4] for r in EVIDENCE], ids=[r[4] for r in EVIDENCE])
def test_a_policy_waits_for_its_evidence(when, evidence, rows, stops):
    assert (decide_stop([_policy(when, evidence=evidence)], _history(*rows)) is not None) == stops


def test_every_condition_has_a_quantity():
    assert [*QUANTITIES, "downstream"] == list(StopCondition.model_fields)


def test_the_inputs_are_the_numbers_that_counted():
    decision = decide_stop([_policy(SLOPE)], _history((0.4, LOW), (0.4, SLOW), (0.4, _forecast(marginal=0.0003))))
    assert decision is not None
    assert decision.first.quantity == "marginalGain"
    assert decision.first.inputs == (Evidence(6, 20.0, 0.0009, "Identified"), Evidence(9, 30.0, 0.0003, "Identified"))
    measured = decide_stop([_policy(DROP, evals=1)], _history((0.75, DOUBTED), (0.25, DOUBTED)))
    assert measured is not None
    assert measured.first.inputs == (Evidence(6, 20.0, 0.5, None),), "what is measured has no verdict"


REASONS = [
    (SLOPE, (0.4, SLOW), "the gain per GPU-h, at most, is 0.0009, below 0.001, for 1 evaluation up to 10 GPU-h"),
    (ENTROPY, (0.4, None, 0.04), "the entropy (nats) is 0.040, below 0.05, for 1 evaluation up to 10 GPU-h"),
    (CUT, (0.4, None, 1.0, 0.25), "the share of cut completions is 0.250, above 0.15, for 1 evaluation up to 10 GPU-h"),
    ({"gpuHours": {"above": 9}}, (0.4, None), "the compute is 10, above 9, for 1 evaluation up to 10 GPU-h"),
]


@pytest.mark.parametrize(("when", "row", "reason"), REASONS, ids=[next(iter(row[0])) for row in REASONS])
def test_the_reason_of_each_quantity(when, row, reason):
    decision = decide_stop([_policy(when, evals=1)], _history(row))
    assert decision is not None
    assert decision.first.reason == reason


def test_the_reason_has_the_numbers_and_the_saving_is_what_is_left_of_the_budget():
    decision = decide_stop([_policy(CEILING, name="hopeless")], _history((0.4, LOW), (0.4, LOW), budget=120.0))
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
    past = _history((0.4, LOW), (0.4, LOW), budget=15.0)
    assert decide_stop([_policy(CEILING)], past).first.saved_gpu_hours == 0.0


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
    assert decision.first.policy == "enforce-a"
    assert [hit.policy for hit in decision.others] == ["watch-a", "enforce-b", "watch-b"]


def test_an_observer_alone_ends_nothing():
    decision = decide_stop([_policy(CEILING, mode="Observe", name="watch")], _history((0.4, LOW), (0.4, LOW)))
    assert decision is not None
    assert decision.enforced is None
    assert decision.first.policy == "watch"


def _of(name, **bound):
    return {"downstream": {name: bound}}


# Pooled evaluations at step 3, 6, ...; those of the set at step 9, 18, ...: it is sparser.
SETS = [
    (_of("aime", below=0.3), [0.4, 0.29, 0.2], {}, True, "below, twice in a row"),
    (_of("aime", below=0.3), [0.2, 0.4, 0.2], {}, False, "broken in between"),
    (_of("aime", below=0.3), [0.2], {}, False, "`for` counts the set's own evaluations"),
    (_of("aime", below=0.3), [], {}, False, "never evaluated"),
    (_of("aime", above=0.6), [0.61, 0.62], {}, True, "above"),
    (_of("aime", above=0.6), [0.6, 0.6], {}, False, "the bound itself is not above it"),
    (_of("aime", drop=0.1), [0.5, 0.375, 0.25], {}, True, "twice below its best by more"),
    (_of("aime", drop=0.125), [0.5, 0.375, 0.25], {}, False, "once by exactly that"),
    (_of("aime", drop=0.1), [0.5, 0.25, 0.45], {}, False, "it recovered"),
    (_of("aime", drop=0.0), [0.5, 0.5, 0.5], {}, False, "as good as its best is no drop"),
    (_of("aime", drop=0.1), [0.1, 0.2], {}, False, "it only rose, though the pooled rate has fallen"),
    (_of("gsm8k", drop=0.1), [0.5, 0.3, 0.2], {}, False, "another set's drop"),
    (_of("aime", below=0.3), [0.2, 0.2], {"evals": 3}, False, "minEvidence counts the set's evaluations"),
    (_of("aime", below=0.3), [0.2, 0.2, 0.2], {"evals": 3}, True, "enough of the set's evaluations"),
    (_of("aime", below=0.3), [0.2, 0.2], {"gpuHours": 61.0}, False, "compute at the set's last evaluation"),
]


@pytest.mark.parametrize(("when", "rates", "evidence", "stops", "why"), SETS, ids=[row[-1] for row in SETS])
def test_a_policy_on_another_test_set(when, rates, evidence, stops, why):
    del why
    pooled = [(0.9, LOW)] * 3 + [(0.1, LOW)] * 8
    history = _history(*pooled, aime=rates, gsm8k=[0.9, 0.9, 0.9])
    assert (decide_stop([_policy(when, evidence=evidence)], history) is not None) == stops


def test_the_reason_of_a_policy_on_another_test_set():
    history = _history(*[(0.4, LOW)] * 7, budget=100.0, aime=[0.5, 0.25])
    first = decide_stop([_policy(_of("aime", drop=0.125), evals=1)], history).first
    assert first.reason == "aime's fall from its best pass rate is 0.250, above 0.125, for 1 evaluation up to 60 GPU-h"
    assert (first.quantity, first.inputs) == ("downstream.aime", (Evidence(18, 60.0, 0.25, None),))
    assert first.saved_gpu_hours == 30.0, "of the budget that is left at the last held-out evaluation, of 70 GPU-h"
    below = decide_stop([_policy(_of("aime", below=0.375), evals=1)], history).first
    assert below.reason == "aime's pass rate is 0.250, below 0.375, for 1 evaluation up to 60 GPU-h"


def test_a_condition_without_a_bound_holds_never():
    assert decide_stop([_policy({"downstream": {"aime": {}}})], _history((0.4, LOW), aime=[0.4, 0.4])) is None
    assert decide_stop([_policy({"passRate": {}})], _history((0.4, LOW), (0.4, LOW))) is None
    assert decide_stop([_policy({})], _history((0.4, LOW), (0.4, LOW))) is None
